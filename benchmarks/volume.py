"""Measures what the data folder costs: start, replay, other workers, syncs, snapshots. `python -m benchmarks.volume`.

`main_job.py` measures what a caller does all day. This module measures what happens around it. Progress goes to stderr,
tables to stdout.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import amplification, group_commit, machine, pausing, prefilled, snapshot_start, texts, visibility
from benchmarks.bare_model import BareModel
from benchmarks.figures import Table, rendered, write_json
from memory_service.embedding.embedder import Fingerprint, Vectors

DISK_BYTES_PER_MEMORY = 12_000
"""Disk for each memory: journal, two snapshots and one in progress, the worker's catalog and a frozen one, and some
room."""

UPDATE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts that are measured.

    Attributes:
        sizes: numbers of memories held, ascending.
        embedded: number of memories of a folder that get real vectors. The others get derived ones.
        starts: number of starts from a snapshot, over each folder.
        replays: number of times that each folder's journals are applied.
        middle: one of `sizes`. Over this size updates are replayed, and requests run while snapshots are taken.
        writes: number of writes whose way to the other worker is timed, at idle and again under load.
        turn_s: seconds of stores on the slow volume for each number of clients.
        snapshots: number of snapshots taken amid requests.
        memories: number of memories in the folder of the simulated day.
        updates: number of updates on that day.

    """

    sizes: tuple[int, ...]
    embedded: int
    starts: int
    replays: int
    middle: int
    writes: int
    turn_s: float
    snapshots: int
    memories: int
    updates: int

    @property
    def texts(self) -> int:
        """Return the number of distinct texts that the plan needs."""
        return max(self.sizes[-1], self.memories + self.updates)


FULL = Plan((10_000, 100_000, 300_000), 500, 5, 3, 100_000, 200, 5.0, 10, 10_000, 20_000)
QUICK = Plan((500, 2_000), 50, 1, 1, 2_000, 10, 0.5, 1, 500, 1_000)


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of a run."""

    starts: list[snapshot_start.SnapshotStart]
    replays: list[snapshot_start.Replay]
    visibility: list[visibility.Visibility]
    group_commits: list[group_commit.GroupCommit]
    pause: pausing.Pause
    days: list[amplification.Day]


def main() -> None:
    """Measure, then print the tables."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    chosen = texts.from_file(arguments.texts, plan.texts) if arguments.texts else texts.synthetic(plan.texts)
    about = {
        **machine.described(),
        "texts": chosen.source,
        "vectors": f"of the first {plan.embedded} memories by the model; of further ones derived from those",
        "load at the start": machine.load(),
    }
    with tempfile.TemporaryDirectory(prefix="vector-memory-benchmark-") as folder:
        _require_disk(Path(folder), plan)
        results = _measured(plan, chosen.lines, Path(folder))
    about["load at the end"] = machine.load()
    print(_report(about, results))
    if arguments.json:
        write_json(arguments.json, {"run": about, **asdict(results)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volume", description=__doc__)
    parser.add_argument("--texts", type=Path, metavar="FILE[.gz]", help="texts to store, one a line")
    parser.add_argument("--quick", action="store_true", help="everything at small sizes, in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def _require_disk(folder: Path, plan: Plan) -> None:
    needed = DISK_BYTES_PER_MEMORY * (plan.sizes[-1] + plan.middle)
    if (free := shutil.disk_usage(folder).free) < needed:
        sys.exit(
            f"{folder} has {free / 1e9:.1f} GB free; this run needs {needed / 1e9:.1f}. Set TMPDIR to another disk."
        )


def _measured(plan: Plan, lines: Sequence[str], folder: Path) -> Results:
    model = BareModel()
    embedded = model.embed_all(lines[: plan.embedded])
    starts: list[snapshot_start.SnapshotStart] = []
    replays: list[snapshot_start.Replay] = []
    pause: pausing.Pause | None = None
    for size in plan.sizes:
        held = prefilled.write(folder / str(size), lines[:size], embedded, model.fingerprint)
        replays.append(snapshot_start.replay(held, size, plan.replays))
        starts.append(snapshot_start.measure(held, plan.starts))
        if size == plan.middle:
            pause = pausing.measure(held, lines[plan.embedded :], plan.snapshots)
        shutil.rmtree(held.path)
    assert pause is not None, "the plan's middle is one of its sizes"
    replays.append(_replayed_updates(plan, lines, embedded, model.fingerprint, folder / "updates"))
    seen = visibility.measure(folder / "visibility", lines, plan.writes)
    commits = group_commit.measure(folder / "commits", lines, plan.turn_s)
    days = amplification.measure(folder / "day", lines, plan.memories, plan.updates)
    return Results(starts, replays, seen, commits, pause, days)


def _replayed_updates(
    plan: Plan, lines: Sequence[str], embedded: Sequence[Vectors], embedder: Fingerprint, folder: Path
) -> snapshot_start.Replay:
    """Apply `plan.middle` records again. `UPDATE_SHARE` of them update earlier ones."""
    keys = round(plan.middle * (1 - UPDATE_SHARE))
    held = prefilled.write(folder, lines[: plan.middle], embedded, embedder, keys)
    replayed = snapshot_start.replay(held, plan.middle, plan.replays)
    shutil.rmtree(held.path)
    return replayed


def _tables(results: Results) -> Iterator[Table]:
    yield snapshot_start.start_table(results.starts)
    yield snapshot_start.replay_table(results.replays)
    yield visibility.table(results.visibility)
    yield group_commit.table(results.group_commits)
    yield pausing.table(results.pause)
    yield amplification.table(results.days)


def _report(about: Mapping[str, str], results: Results) -> str:
    head = "\n".join(f"{name}: {value}" for name, value in about.items())
    return "\n\n".join([head, *(rendered(table) for table in _tables(results))])


if __name__ == "__main__":
    main()
