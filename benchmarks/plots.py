"""Draws a PNG for each JSON file that the benchmarks wrote into docs/figures. `python -m benchmarks.plots`.

It reads only these files (`--json` writes them) and skips the missing ones. Only this module needs matplotlib, which
`pip install -e '.[bench]'` installs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "figures"

Results = Mapping[str, Any]

DEFAULT = "text with metadata"
LINES = {"development": ":", "held out": "-", "not looked at": "--"}
"""Line style of each part of the split. Each part has its own line."""


def quality(results: Results, figure: Any) -> None:
    """Draw any@k by mode, with a panel for each data set. The held-out part has a solid line."""
    asked = [one for one in results["asked"] if one["variant"] == DEFAULT and one["part"] in LINES]
    sources = list(dict.fromkeys(one["source"] for one in asked))
    colours = {mode: f"C{at}" for at, mode in enumerate(dict.fromkeys(one["mode"] for one in asked))}
    panels = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for panel, source in zip(panels, sources, strict=True):
        for one in asked:
            if one["source"] == source:
                depths = range(1, len(one["any_by_k"]) + 1)
                label = f"{one['mode']}, {one['part']}"
                panel.plot(depths, one["any_by_k"], LINES[one["part"]], color=colours[one["mode"]], label=label)
        panel.set(title=source, xlabel="k", ylabel="any@k, %", ylim=(0, 100), xticks=(1, 5, 10, 15, 20))
        panel.legend(fontsize="small")


def index_tier(results: Results, figure: Any) -> None:
    """Draw the latency of a search in one panel and its recall in another, by number of vectors."""
    took, found = figure.subplots(1, 2)
    sizes = [tier["rows"] for tier in results["tiers"]]
    for at, lane in enumerate(results["tiers"][0]["lanes"]):
        lanes = [tier["lanes"][at] for tier in results["tiers"]]
        took.plot(sizes, [one["took"]["p50_ms"] for one in lanes], "o-", label=lane["name"])
        found.plot(sizes, [one["recall"] for one in lanes], "o-", label=lane["name"])
    took.plot(sizes, [tier["brute_force"]["p50_ms"] for tier in results["tiers"]], "k:", label="brute force, numpy")
    took.set(xlabel="vectors", ylabel="p50, ms", xscale="log", yscale="log")
    found.set(xlabel="vectors", ylabel="recall@10", xscale="log")
    took.legend(fontsize="small")


def main_job(results: Results, figure: Any) -> None:
    """Draw retrieves as ratios to the bare embedding, and the seconds of starts, by memories held."""
    ratios, starts = figure.subplots(1, 2)
    served = [one["retrieves"] for one in results["served"]]
    for at, lane in enumerate(served[0]["lanes"]):
        by_size = [one["lanes"][at]["ratio"] for one in served]
        ratios.plot([one["memories"] for one in served], by_size, "o-", label=f"among {lane['searched']}")
    ratios.axhline(1, color="k", linestyle=":", label="bare embedding")
    ratios.set(xlabel="memories", ylabel="retrieve p50 / bare embedding p50", xscale="log", ylim=(0, None))
    held = results["cold_starts"]
    sizes = [one["memories"] for one in held]
    for name, label in (("from_snapshot", "from a snapshot"), ("from_journals", "from the journals alone")):
        starts.plot(sizes, [median(run["retrieved_s"] for run in one[name]) for one in held], "o-", label=label)
    starts.plot(sizes, [median(one["bare_s"]) for one in held], "k:", label="bare model")
    starts.set(xlabel="memories", ylabel="start to first correct retrieve, s", xscale="log", yscale="log")
    for panel in (ratios, starts):
        panel.legend(fontsize="small")


def volume(results: Results, figure: Any) -> None:
    """Draw the seconds of starts from a snapshot, by memories held."""
    panel = figure.subplots()
    held = results["starts"]
    sizes = [one["memories"] for one in held]
    panel.plot(sizes, [median(run["retrieved_s"] for run in one["starts"]) for one in held], "o-", label="the service")
    panel.plot(sizes, [median(one["bare_s"]) for one in held], "k:", label="bare model")
    panel.set(xlabel="memories", ylabel="start to first correct retrieve, s", xscale="log", ylim=(0, None))
    panel.legend(fontsize="small")


def peers(results: Results, figure: Any) -> None:
    """Draw any@10 by data set on held-out conversations, and the cost of a retrieve and of a single store."""
    found, took = figure.subplots(1, 2)
    part = "held out" if any(one["part"] == "held out" for one in results["quality"]) else "all"
    asked = [one for one in results["quality"] if one["part"] == part]
    rows = list(dict.fromkeys((one["contender"], one["stored as"]) for one in asked))
    sources = list(dict.fromkeys(one["source"] for one in asked))
    for at, (contender, stored) in enumerate(rows):
        heights = [
            one["figures"]["any@10"] for one in asked if (one["contender"], one["stored as"]) == (contender, stored)
        ]
        places = [place + at / (len(rows) + 1) for place in range(len(heights))]
        found.bar(places, heights, 1 / (len(rows) + 1), label=f"{contender}, {stored}")
    found.set(ylabel=f"any@10, %, {part}", ylim=(0, 100))
    found.set_xticks([place + 0.4 for place in range(len(sources))], sources)
    work = results["work"]
    kinds = {"retrieve": "retrieve p50", "single": "store one p50"}
    for at, (name, label) in enumerate(kinds.items()):
        places = [place + at * 0.4 for place in range(len(work))]
        took.bar(places, [one[name]["p50_ms"] / one["bare_p50_ms"] for one in work.values()], 0.4, label=label)
    took.set(ylabel="times the bare embedding meanwhile")
    took.set_xticks([place + 0.2 for place in range(len(work))], list(work))
    found.legend(fontsize="small", loc="lower center")
    took.legend(fontsize="small")


PLOTS: Mapping[str, Callable[[Results, Any], None]] = {
    "quality": quality,
    "index_tier": index_tier,
    "main_job": main_job,
    "volume": volume,
    "peers": peers,
}
"""The function that draws each file, by the file's name without its ending."""


def draw(folder: Path) -> list[Path]:
    """Draw every known JSON file of a folder, and return the paths of the PNGs.

    Raises:
        ImportError: matplotlib is not installed.

    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drawn = []
    for name, plot in PLOTS.items():
        source, target = folder / f"{name}.json", folder / f"{name}.png"
        if not source.is_file():
            continue
        results = json.loads(source.read_text(encoding="utf-8"))
        figure = pyplot.figure(figsize=(11, 4.5), layout="constrained")
        plot(results, figure)
        for panel in figure.axes:
            panel.grid(alpha=0.3)
        run = results["run"]
        figure.suptitle(f"{run['date']}; {run['machine']}", fontsize="small")
        figure.savefig(target, dpi=90, metadata={"Software": None})  # the same figures give the same bytes
        pyplot.close(figure)
        drawn.append(target)
    return drawn


def main() -> None:
    """Draw the files that exist."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the JSON files, and then of the plots")
    folder = parser.parse_args().folder
    try:
        drawn = draw(folder)
    except ImportError:
        sys.exit("Plots need matplotlib: pip install -e '.[bench]'.")
    print("\n".join(map(str, drawn)) or f"{folder} has no figures: run the benchmarks with --json.")


if __name__ == "__main__":
    main()
