"""Starting from what a data folder holds: the newest usable snapshot, then the journals beyond it."""

import logging
import time
from pathlib import Path

from memory_service import snapshots
from memory_service.catalog import Catalog
from memory_service.clock import HybridClock
from memory_service.data_folder import DataFolder, mismatch
from memory_service.embedding import Fingerprint
from memory_service.errors import StartupError
from memory_service.journal import DamagedJournal
from memory_service.projection import OtherEmbedder, Projection

log = logging.getLogger(__name__)


def recover(folder: DataFolder, embedder: Fingerprint, clock: HybridClock, cache_dir: Path | None) -> Projection:
    """The folder's state; the folder is the embedder's from now on.

    Raises:
        StartupError: the folder is damaged or of another embedder; the message says what to do.
    """
    held = folder.embedder()
    if held is not None and held != embedder:
        raise StartupError(mismatch(folder.path, held, embedder))
    started = time.perf_counter()
    projection = _from_snapshot(folder, embedder, clock, cache_dir)
    try:
        records = _replay(projection, folder)
        projection.make_up_for_removed(folder.snapshots, folder.journal)
        folder.claim(embedder)
    except BaseException:
        projection.catalog.close()
        raise
    for writer, count in projection.torn_bytes().items():
        log.warning("journal.torn", extra={"journal": writer, "torn_bytes": count})
    memories = sum(projection.catalog.counts().values())
    took_ms = round((time.perf_counter() - started) * 1000)
    log.info("memories.recovered", extra={"memories": memories, "records_replayed": records, "ms": took_ms})
    return projection


def _from_snapshot(folder: DataFolder, embedder: Fingerprint, clock: HybridClock, cache_dir: Path | None) -> Projection:
    """A projection as of the newest usable snapshot; an empty one when there is none."""
    for snapshot in snapshots.usable(folder.snapshots, embedder):
        projection = Projection(Catalog(cache_dir, snapshot.catalog), embedder, clock)
        projection.restore(snapshot)
        log.info("snapshot.restored", extra={"snapshot": snapshot.path.name})
        return projection
    if folder.is_compacted:
        raise StartupError(
            f"No snapshot in {folder.snapshots} can be used, and the journals alone do not hold everything, since "
            "compaction removed those that snapshots covered. Restore a snapshot from a backup, or remove the file "
            f"{folder.path / 'compacted'} to start with what the remaining journals hold."
        )
    return Projection(Catalog(cache_dir), embedder, clock)


def _replay(projection: Projection, folder: DataFolder) -> int:
    try:
        return projection.pull(folder.journal)
    except OtherEmbedder as error:
        raise StartupError(mismatch(error.path, error.found, projection.embedder)) from error
    except DamagedJournal as error:
        remedy = "Restore the file from a backup, or move it away to do without its memories."
        raise StartupError(f"The {error}. {remedy}") from error
    except OSError as error:
        raise StartupError(f"The journals in {folder.journal} cannot be read: {error}.") from error
