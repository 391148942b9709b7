"""Compaction: journals that snapshots cover are taken away, and with them the bytes of what was deleted.

A journal may go when

- both kept snapshots cover it whole, so that even a fall-back to the older one loses nothing, and
- it can be read whole, so that nothing damaged goes unseen, and
- nobody can append to it any more: this process sealed it, or it has not grown for a day (a writer seals its file after
  an hour of silence, so one that is revived later opens a new one).

Snapshots hold what is there and no more: their SQLite file is vacuumed and their vectors are the living ones. So after
a compaction a deleted text is in no file, except in journals of other writers that are not quiet yet.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import HEADER_BYTES_MAX, journal_paths, read_tail, storage_unavailable, sync_folder
from memory_service.projection import snapshots
from memory_service.projection.snapshotting import Snapshotter
from vector_memory.administration import Compacted, KeptJournal
from vector_memory.errors import StorageUnavailable

log = logging.getLogger(__name__)

QUIET_S = 24 * 3600.0


class Compactor:
    """Removes journals that are not needed any more."""

    def __init__(
        self,
        folder: DataFolder,
        snapshotter: Snapshotter,
        seal: Callable[[], None],
        sealed: Callable[[], Collection[str]],
    ) -> None:
        """Args:
        seal: makes this process leave its current journal for good.
        sealed: the journals that this process has left.
        """
        self._folder = folder
        self._snapshotter = snapshotter
        self._seal = seal
        self._sealed = sealed

    def compact(self) -> Compacted:
        """Seal, take the snapshots that are needed, and remove what they cover.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        self._seal()
        for _ in range(snapshots.KEPT):
            self._snapshotter.take()
        return self.remove_covered()

    def remove_covered(self) -> Compacted:
        """Remove the journals that may go already.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        try:
            return self._remove_covered()
        except OSError as error:
            raise storage_unavailable(error) from error

    def remove_quietly(self) -> None:
        """After a snapshot in the background."""
        with contextlib.suppress(StorageUnavailable):
            self.remove_covered()

    def _remove_covered(self) -> Compacted:
        covered = snapshots.covered_by_all(self._folder.snapshots)
        removed, kept, removed_bytes = [], [], 0
        for path in journal_paths(self._folder.journal):
            with contextlib.suppress(FileNotFoundError):  # another worker compacts too
                status = path.stat()
                if reason := self._reason_to_keep(path, status, covered.get(path.stem, 0)):
                    kept.append(KeptJournal(journal=path.stem, reason=reason))
                    continue
                self._folder.mark_compacted()
                path.unlink()
                removed.append(path.stem)
                removed_bytes += status.st_size
        if removed:
            sync_folder(self._folder.journal)
            log.info("journals.removed", extra={"journals": len(removed), "bytes": removed_bytes})
        return Compacted(removed=tuple(removed), removed_bytes=removed_bytes, kept=tuple(kept))

    def _reason_to_keep(self, path: Path, status: os.stat_result, covered: int) -> str | None:
        if path.stem not in self._sealed() and time.time() - status.st_mtime < QUIET_S:
            return "its writer may still append to it"
        if covered == 0 and status.st_size > HEADER_BYTES_MAX:
            return "not yet covered by two snapshots"
        tail = read_tail(path)
        if tail.damage:
            return f"damaged at byte {tail.damage[0].offset}"
        if covered < tail.end:
            return "not yet covered by two snapshots"
        return None  # nothing lies beyond but a torn rest, which was never acknowledged
