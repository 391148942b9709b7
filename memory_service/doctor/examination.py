"""The whole: a data folder is examined file by file, judged, counted, and on request its snapshots are rebuilt.

It may run beside workers. Snapshots are read before journals, since a journal only grows and a compaction writes a
snapshot before it takes a journal away; what was replaced while it was read is read again.

What makes a file good, and how files are compared, it does not know. Above is the command line, by way of the package;
below are `store_file.py`, `journals.py`, `snapshot_files.py`, `verdict.py` and `report.py`, and for a repair the
service's own start, which is imported only then.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from memory_service.clock import HybridClock, wall_ms
from memory_service.doctor.journals import ExaminedJournal, read_journals
from memory_service.doctor.report import RepairRefused, Report, Totals, listed
from memory_service.doctor.snapshot_files import ExaminedSnapshot, is_complete, read_snapshot
from memory_service.doctor.store_file import read_store
from memory_service.doctor.verdict import Verdict, reach_verdict
from memory_service.journal.data_folder import COMPACTED_FILE, SNAPSHOT_FOLDER, STORE_FILE, DataFolder

ATTEMPTS = 3
"""Examinations while workers keep replacing snapshots, which they do every few minutes at most."""


def examine(folder: Path, scratch: Path | None = None) -> Report:
    """Examine a data folder. Nothing in it is written.

    Args:
        folder: an existing folder.
        scratch: where catalogs are copied to, on local disk; default: the system's temporary folder.
    """
    for _ in range(ATTEMPTS):
        report, is_current = _examine(folder, scratch)
        if is_current:
            break
    return report


def _examine(folder: Path, scratch: Path | None) -> tuple[Report, bool]:
    """A report, and whether all snapshots were there until the end; it is silent about those that were not."""
    embedder, about_store = read_store(folder)
    begun = [read_snapshot(path, embedder, scratch) for path in listed(folder / SNAPSHOT_FOLDER)]
    journals, about_journals = read_journals(folder, embedder)
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
    report = Report(
        folder=str(folder),
        findings=findings,
        totals=_totals(folder, snapshots, journals, verdict),
        unusable=names,
        refusal=refusal,
    )
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
    """Of a file that may vanish."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def plan(report: Report) -> list[str]:
    """What a repair will do, one sentence each; empty when there is nothing that it could.

    Raises:
        RepairRefused: it might lose something.
    """
    if report.refusal is not None:
        raise RepairRefused(report.refusal)
    if not report.unusable:
        return []
    removed = [f"remove the unusable snapshot {SNAPSHOT_FOLDER}/{name}" for name in report.unusable]
    return [*removed, "write a fresh snapshot of what a start from this folder has; no journal is touched"]


def repair(report: Report, scratch: Path | None = None) -> str:
    """Do what `plan` says; the name of the fresh snapshot.

    The snapshots go first: a start would otherwise prefer one whose checksums hold and whose contents are wrong. Should
    the writing fail, the journals and the good snapshots still hold everything.

    Raises:
        RepairRefused: there is nothing that it could do, or it might lose something.
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
        (folder.snapshots / name / snapshots.MANIFEST).unlink(
            missing_ok=True
        )  # first, so that nobody starts to read it
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
