"""Measures starts from a snapshot over folders of many memories, and the cost of applying the journals without one."""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cold_start import Start, bare_start_s, timed_start
from benchmarks.figures import Table, ratio_of_medians, times, verdict
from benchmarks.prefilled import Prefilled
from benchmarks.service_process import DATA, ServiceProcess
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.data_folder import DataFolder
from memory_service.projection import snapshots
from memory_service.projection.applying import Projection
from memory_service.projection.recovery import recover

AIMS_S = {10_000: 1.5, 100_000: 2.0, 300_000: 4.0}
"""Aims: seconds from the start of the process to its first correct retrieve, by number of memories."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The time that applying every record of the journals to an empty projection takes.

    Attributes:
        memories: number of memories in the end.
        records: number of records. The records in excess of `memories` update a memory.
        took_s: seconds of each run.

    """

    memories: int
    records: int
    took_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SnapshotStart:
    """Starts over one folder with a snapshot that holds everything, and starts of the bare model between them."""

    memories: int
    starts: tuple[Start, ...]
    bare_s: tuple[float, ...]


def replay(prefilled: Prefilled, records: int, runs: int) -> Replay:
    """Apply the journals of a folder `runs` times. The last run is followed by a snapshot, which stays."""
    folder = DataFolder(prefilled.path / DATA)
    embedder = folder.embedder()
    assert embedder is not None, "a prefilled folder is somebody's"
    took_s: list[float] = []
    for run in range(runs):
        print(f"replay of {records} records: {run + 1} of {runs}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=prefilled.path) as cache:
            started = time.perf_counter()
            projection = recover(folder, embedder, HybridClock(), Path(cache)).projection
            took_s.append(time.perf_counter() - started)
            # Without a snapshot until now, every run has applied all records.
            if run == runs - 1:
                _write_snapshot(projection, folder, embedder)
            projection.close()
    return Replay(prefilled.count, records, tuple(took_s))


def _write_snapshot(projection: Projection, folder: DataFolder, embedder: Fingerprint) -> None:
    snapshots.write(projection.freeze(), folder.snapshots, folder.journal, embedder, projection.catalog.folder)


def measure(prefilled: Prefilled, runs: int) -> SnapshotStart:
    """Start the service from the folder's snapshot, and the bare model, in turns."""
    starts: list[Start] = []
    bare_s: list[float] = []
    for run in range(runs):
        print(f"start over {prefilled.count} memories: {run + 1} of {runs}", file=sys.stderr)
        bare_s.append(bare_start_s())
        with ServiceProcess(prefilled.path) as service:
            starts.append(timed_start(service, prefilled))
            service.event("snapshot.restored")
    shutil.rmtree(prefilled.path / "cache")
    return SnapshotStart(prefilled.count, tuple(starts), tuple(bare_s))


def start_table(results: Sequence[SnapshotStart]) -> Table:
    """Return a table of medians with one row for each size."""
    columns = ("port open s", "recovered at s", "of it recovery s", "first retrieve s", "slowest s")
    return Table(
        "Start from a snapshot: process start to first correct retrieve (median)",
        ("memories", "runs", *columns, "bare s", "ratio", "aim s", ""),
        tuple(_start_row(result) for result in results),
        (
            "Bare: a Python process that loads the model and embeds one text. "
            "Files are in the page cache, as they are after a first start.",
        ),
    )


def _start_row(result: SnapshotStart) -> tuple[str, ...]:
    retrieved = [start.retrieved_s for start in result.starts]
    stages = zip(*((one.listening_s, one.recovered_at_s, one.recovered_s) for one in result.starts), strict=True)
    shown = [*(median(stage) for stage in stages), median(retrieved), max(retrieved), median(result.bare_s)]
    aim_s = AIMS_S.get(result.memories)
    judged = ("", "") if aim_s is None else (f"{aim_s:.1f}", verdict(is_met=median(retrieved) <= aim_s))
    cells = (*(f"{figure:.2f}" for figure in shown), times(ratio_of_medians(retrieved, result.bare_s)), *judged)
    return (str(result.memories), str(len(result.starts)), *cells)


def replay_table(results: Sequence[Replay]) -> Table:
    """Return a table of medians with one row for each folder."""
    rows = (
        (
            str(result.records),
            f"{1 - result.memories / result.records:.0%}",
            str(len(result.took_s)),
            f"{median(result.took_s):.2f}",
            f"{result.records / median(result.took_s):.0f}",
        )
        for result in results
    )
    return Table(
        "Replay without a snapshot (median)", ("records", "of them updates", "runs", "took s", "records/s"), tuple(rows)
    )
