"""The examination of a data folder, and the repair of its snapshots.

It may run while workers use the folder. Snapshots are read before journals, because a journal only grows, and a
compaction writes a snapshot before it removes a journal. If a snapshot is replaced while it is read, the examination is
repeated. A repair uses the service's own start, which is imported only then.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from memory_service.clock import HybridClock, wall_ms
from memory_service.doctor.journals import ExaminedJournal, read_journals
from memory_service.doctor.report import RepairRefused, Report, Totals, entries_in
from memory_service.doctor.snapshot_files import ExaminedSnapshot, is_complete, read_snapshot
from memory_service.doctor.store_file import read_store
from memory_service.doctor.verdict import Verdict, reach_verdict
from memory_service.journal.data_folder import COMPACTED_FILE, SNAPSHOT_FOLDER, STORE_FILE, DataFolder

ATTEMPTS = 3
"""Examinations at most. One is repeated if a worker replaces a snapshot, which happens every few minutes at most."""


def examine(folder: Path, scratch: Path | None = None) -> Report:
    """Examine a data folder without writing to it.

    Args:
        folder: an existing folder.
        scratch: folder on local disk for copies of catalogs; default: the system's temporary folder.
    """
    for _ in range(ATTEMPTS):
        report, is_current = _examine(folder, scratch)
        if is_current:
            break
    return report


def _examine(folder: Path, scratch: Path | None) -> tuple[Report, bool]:
    """Return the report, and whether no snapshot was removed since; removed ones are not in the report."""
    embedder, about_store = read_store(folder)
    begun = [read_snapshot(path, embedder, scratch) for path in entries_in(folder / SNAPSHOT_FOLDER)]
    journals, about_journals = read_journals(folder, embedder)
    # A snapshot that was removed since it was read is not reported.
    snapshots = [each for each in begun if not each.is_complete or is_complete(each.path)]
    is_compacted = (folder / COMPACTED_FILE).exists()
    verdict = reach_verdict(snapshots, journals, is_compacted=is_compacted, now_ms=wall_ms())
    findings = (
        *about_store,
        *about_journals,
        *(finding for journal in journals for finding in journal.findings),
        *(finding for snapshot in snapshots for finding in snapshot.findings),
        *verdict.findings,
    )
    names = tuple(each.path.name for each in verdict.unusable)
    refusal = verdict.refusal if embedder else f"{STORE_FILE} does not say whose vectors the folder holds."
    totals = _totals(folder, snapshots, journals, verdict)
    report = Report(folder=str(folder), findings=findings, totals=totals, unusable=names, refusal=refusal)
    return report, len(snapshots) == len(begun)


def _totals(
    folder: Path, snapshots: Sequence[ExaminedSnapshot], journals: Sequence[ExaminedJournal], verdict: Verdict
) -> Totals:
    return Totals(
        memories=dict(sorted(Counter(namespace for namespace, _ in verdict.alive).items())),
        tombstones=verdict.tombstones,
        records=sum(journal.records for journal in journals),
        journals=len(journals),
        snapshots=sum(each.is_complete for each in snapshots),
        bytes=sum(_size(Path(place, name)) for place, _, names in os.walk(folder) for name in names),
    )


def _size(path: Path) -> int:
    """Return the size of a file; 0 if it was just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def plan(report: Report) -> list[str]:
    """Return what a repair will do, one sentence for each step; empty if there is nothing to repair.

    Raises:
        RepairRefused: a repair might lose something.
    """
    if report.refusal is not None:
        raise RepairRefused(report.refusal)
    if not report.unusable:
        return []
    removed = [f"remove the unusable snapshot {SNAPSHOT_FOLDER}/{name}" for name in report.unusable]
    return [*removed, "write a fresh snapshot of what a start from this folder has; no journal is touched"]


def repair(report: Report, scratch: Path | None = None) -> str:
    """Do what `plan` says, and return the name of the fresh snapshot.

    The unusable snapshots are removed first, because a start would prefer a snapshot with right checksums and wrong
    contents. If writing the fresh one fails, the journals and the good snapshots still hold everything.

    Raises:
        RepairRefused: there is nothing to repair, or a repair might lose something.
        StartupError: the folder takes no writes, or a start from it is impossible.
        OSError: the snapshot could not be written.
    """
    from memory_service.projection import snapshots
    from memory_service.projection.recovery import recover

    if not plan(report):
        raise RepairRefused("there is nothing to repair.")
    folder = DataFolder(Path(report.folder))
    embedder = folder.embedder()
    assert embedder is not None, "without an embedder the plan is a refusal"
    for name in report.unusable:
        # The manifest goes first, so that no start reads the rest.
        (folder.snapshots / name / snapshots.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder.snapshots / name)
    recovered = recover(folder, embedder, HybridClock(), scratch)
    projection = recovered.projection
    try:
        if recovered.damaged:
            raise RepairRefused(f"the {recovered.damaged[0]}.")
        return snapshots.write(
            projection.freeze(), folder.snapshots, folder.journal, embedder, projection.catalog.folder
        ).name
    finally:
        projection.catalog.close()
