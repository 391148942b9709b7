"""Percentiles, ratios, plain tables, and the JSON that plots are drawn from. Knows nothing of what is measured."""

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
        count: how many there were.

    """

    p50_ms: float
    p99_ms: float
    count: int


def latencies(durations_s: Sequence[float]) -> Latencies:
    """The percentiles of durations in seconds; at least one."""
    p50, p99 = np.percentile(np.asarray(durations_s) * 1000, [50, 99])
    return Latencies(float(p50), float(p99), len(durations_s))


def ratio_of_medians(ours: Sequence[float], bare: Sequence[float]) -> float:
    """How many times the bare figure ours is."""
    return median(ours) / median(bare)


@dataclass(frozen=True, slots=True)
class Table:
    """Figures for a person: every row has a cell for each column; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def rendered(table: Table) -> str:
    """The table in Markdown with aligned columns, which reads well as it is."""
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
    """Milliseconds with as many digits as mean something."""
    return f"{value_ms:.2f}" if value_ms < 10 else f"{value_ms:.1f}"


def times(ratio: float) -> str:
    """A ratio as a reader says it."""
    return f"{ratio:.2f}x"


def verdict(*, is_met: bool) -> str:
    """Whether an aim was met."""
    return "met" if is_met else "missed"


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write a run's figures, whose folder is made; nothing measured has more than four digits that mean something."""
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
