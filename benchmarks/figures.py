"""Computes percentiles and ratios, renders tables and writes JSON for plots. It does not know what is measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Latencies:
    """A sample of durations.

    Attributes:
        count: number of durations.

    """

    p50_ms: float
    p99_ms: float
    count: int


def latencies(durations_s: Sequence[float]) -> Latencies:
    """Return the percentiles of durations in seconds. There must be at least one duration."""
    p50, p99 = np.percentile(np.asarray(durations_s) * 1000, [50, 99])
    return Latencies(float(p50), float(p99), len(durations_s))


def ratio_of_medians(ours: Sequence[float], bare: Sequence[float]) -> float:
    """Return our median divided by the bare model's."""
    return median(ours) / median(bare)


@dataclass(frozen=True, slots=True)
class Table:
    """Figures for a person to read. Every row has a cell for each column, and notes stand below the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def rendered(table: Table) -> str:
    """Return the table in Markdown with aligned columns, which reads well as plain text, too."""
    widths = [max(len(row[at]) for row in (table.columns, *table.rows)) for at in range(len(table.columns))]
    rule = "|".join("-" * (width + 2) for width in widths)
    lines = [f"### {table.title}", "", _line(table.columns, widths), f"|{rule}|"]
    lines += [_line(row, widths) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def ms(value_ms: float) -> str:
    """Format milliseconds with the digits that mean something."""
    return f"{value_ms:.2f}" if value_ms < 10 else f"{value_ms:.1f}"


def times(ratio: float) -> str:
    """Format a ratio as a reader says it."""
    return f"{ratio:.2f}x"


def verdict(*, is_met: bool) -> str:
    """Return a word for whether an aim was met."""
    return "met" if is_met else "missed"


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write a run's figures, rounded to the four digits that mean something. Make the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}")
        case Mapping():
            return {name: _rounded(one) for name, one in value.items()}
        case list() | tuple():
            return [_rounded(one) for one in value]
    return value
