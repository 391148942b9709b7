"""Starting from what a data folder holds: the newest usable snapshot, then the journals beyond it."""

import contextlib
import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.data_folder import DataFolder, mismatch
from memory_service.journal.files import DamagedJournal, journal_paths
from memory_service.namespaces.spilling import Spill
from memory_service.projection import snapshots
from memory_service.projection.applying import SUPERSEDED_KEPT_MS, OtherEmbedder, Projection
from memory_service.projection.catalog import Catalog
from vector_memory.errors import StartupError

log = logging.getLogger(__name__)

MAPPED_BYTES_MIN = 10 << 20
"""Below the 12.6 MB of a segment's vectors, and above what a search of a million memories allocates for a moment."""

_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True, slots=True)
class Recovered:
    """The state of a folder.

    Attributes:
        damaged: journals that are applied only up to the damage.
    """

    projection: Projection
    damaged: tuple[DamagedJournal, ...]


def recover(
    folder: DataFolder,
    embedder: Fingerprint,
    clock: HybridClock,
    cache_dir: Path | None,
    *,
    superseded_kept_ms: int = SUPERSEDED_KEPT_MS,
    skip_damage: bool = False,
    index_budget_bytes: float = 0,
) -> Recovered:
    """Read a folder's state, and claim the folder for the embedder.

    Args:
        folder: the one to start from.
        embedder: the one that the worker runs.
        clock: is advanced past every stamp that is read.
        cache_dir: folder on local disk for the catalog; default: the system's temporary folder.
        superseded_kept_ms: how long superseded versions are kept.
        skip_damage: also apply what is readable behind damage in a journal.
        index_budget_bytes: RAM that indexes may take; 0 sets no limit.

    Raises:
        StartupError: the folder cannot be read or belongs to another embedder; the message says what to do.
    """
    folder.require(embedder)
    # On any failure below, the files on local disk are removed again.
    started = time.perf_counter()
    _keep_large_blocks_apart()
    spill = Spill(cache_dir, index_budget_bytes)
    try:
        projection = _from_snapshot(
            folder,
            embedder,
            cache_dir,
            spill,
            lambda catalog: Projection(catalog, embedder, clock, superseded_kept_ms, spill),
        )
        try:
            records, damaged = _replay(projection, folder, skip_damage=skip_damage)
            projection.merge_compacted_snapshots(folder)
            folder.claim(embedder)
        except BaseException:
            projection.catalog.close()
            raise
    except BaseException as error:
        spill.close()
        if isinstance(error, OSError):
            raise StartupError(f"The data folder {folder.path} cannot be read: {error}.") from error
        raise
    _warn(projection, damaged)
    _return_freed_memory()
    memories = sum(projection.catalog.counts().values())
    took_ms = round((time.perf_counter() - started) * 1000)
    log.info("memories.recovered", extra={"memories": memories, "records_replayed": records, "ms": took_ms})
    return Recovered(projection, damaged)


def _keep_large_blocks_apart() -> None:
    """Let glibc map blocks of 10 MB and more, such as segments and files: freed, they go back to the system at once.

    Otherwise it raises its limit with the first such block, and holes of that size stay.
    """
    with contextlib.suppress(AttributeError):  # of another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)


def _return_freed_memory() -> None:
    """Give the system what reading a snapshot freed: 20 MB at 100,000 memories, which glibc would keep for later."""
    with contextlib.suppress(AttributeError):  # of another C library
        ctypes.CDLL(None).malloc_trim(0)


def _warn(projection: Projection, damaged: Sequence[DamagedJournal]) -> None:
    for writer, count in projection.torn_bytes().items():
        log.warning("journal.torn", extra={"journal": writer, "torn_bytes": count})
    for error in damaged:
        log.error("journal.damaged", extra={"journal": error.path.stem, "offset": error.offset, "reason": str(error)})
    for error in projection.skipped:
        log.error("journal.skipped", extra={"journal": error.path.stem, "offset": error.offset, "reason": str(error)})


def _from_snapshot(
    folder: DataFolder,
    embedder: Fingerprint,
    cache_dir: Path | None,
    spill: Spill,
    over: Callable[[Catalog], Projection],
) -> Projection:
    """Return a projection of the newest usable snapshot, or an empty one without snapshots."""
    for snapshot in snapshots.usable(folder.snapshots, embedder, spill):
        try:
            projection = over(Catalog(cache_dir, snapshot.catalog))
        except FileNotFoundError:
            continue  # newer snapshots replaced it
        projection.restore(snapshot)
        log.info("snapshot.restored", extra={"snapshot": snapshot.path.name})
        return projection
    if folder.is_compacted:
        # Starting from the journals alone would silently lose what compaction removed.
        raise StartupError(
            f"No snapshot in {folder.snapshots} can be used (the log says why), and the journals alone do not hold "
            "everything, since compaction removed those that snapshots covered. Start again once the volume is well, "
            f"or restore a snapshot from a backup. Without the file {folder.path / 'compacted'} a start has what the "
            "remaining journals hold, and no more."
        )
    return over(Catalog(cache_dir))


def _replay(projection: Projection, folder: DataFolder, *, skip_damage: bool) -> tuple[int, tuple[DamagedJournal, ...]]:
    records, damaged = 0, []
    try:
        for path in journal_paths(folder.journal):
            try:
                records += projection.pull_one(path, skip_damage=skip_damage)
            except FileNotFoundError:
                continue  # another worker compacted it away
            except DamagedJournal as error:
                damaged.append(error)
    except OtherEmbedder as error:
        raise StartupError(mismatch(error.path, error.fingerprint, projection.embedder)) from error
    return records, tuple(damaged)
