"""Draws any@k against k. matplotlib is no dependency of the project: where it is missing, a line on stderr says so."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.judging import DEPTH, Judged


def write(path: Path, judged: Mapping[str, Sequence[Judged]]) -> None:
    """Write a PNG with a panel for each data set and a curve for each name."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print(f"{path} was not drawn: matplotlib is not installed.", file=sys.stderr)
        return
    sources = list(dict.fromkeys(one.source for group in judged.values() for one in group))
    figure, panels = pyplot.subplots(1, len(sources), figsize=(6 * len(sources), 4), squeeze=False, sharey=True)
    depths = range(1, DEPTH + 1)
    for panel, source in zip(panels[0], sources, strict=True):
        for name, group in judged.items():
            chosen = [one for one in group if one.source == source]
            panel.plot(depths, [_any_percent(chosen, k) for k in depths], label=name)
        panel.set(
            title=source, xlabel="k", ylabel="any@k, %", xlim=(1, DEPTH), ylim=(0, 100), xticks=(1, 5, 10, 15, 20)
        )
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _any_percent(judged: Sequence[Judged], k: int) -> float:
    return 100 * sum(one.recall(k) > 0 for one in judged) / len(judged)
