"""Compaction: remove the journals that snapshots cover, and with them the bytes of what was deleted.

A journal is removed if

- both kept snapshots cover all of it, so a fall-back to the older one loses nothing, and
- all of it can be read, so no damage goes unseen, and
- nobody can append to it: this process sealed it, or it has not grown for a day. A writer seals its file after an hour
  of silence, so a writer that is revived later opens a new file.

A snapshot holds current memories and no more: its SQLite file is vacuumed and its vectors are those of current memories
and kept versions. So after a compaction no file holds a deleted text, except journals of other writers that are not
quiet yet.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import HEADER_BYTES_MAX, journal_paths, read_tail
from memory_service.journal.writer import storage_unavailable, sync_folder
from memory_service.projection import snapshots
from memory_service.projection.snapshotting import Snapshotter
from vector_memory.administration import Compacted, KeptJournal
from vector_memory.errors import StorageUnavailable

log = logging.getLogger(__name__)

QUIET_S = 24 * 3600.0
"""Silence after which no writer appends to a journal. A writer seals its file after an hour already."""


@dataclass(frozen=True, slots=True)
class Compactor:
    """Removes journals that are not needed any more.

    Attributes:
        _seal: makes this process leave its current journal for good.
        _sealed: returns the journals that this process has left.
    """

    _folder: DataFolder
    _snapshotter: Snapshotter
    _seal: Callable[[], None]
    _sealed: Callable[[], Collection[str]]

    def compact(self) -> Compacted:
        """Seal the journal, take as many snapshots as are kept, and remove the journals that they cover.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        self._seal()
        for _ in range(snapshots.KEPT):
            self._snapshotter.take()
        return self.remove_covered()

    def remove_covered(self) -> Compacted:
        """Remove the journals that existing snapshots cover.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        try:
            return self._remove_covered()
        except OSError as error:
            raise storage_unavailable(error) from error

    def remove_quietly(self) -> None:
        """Remove covered journals after a snapshot in the background; a failure waits for the next one."""
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
                # The mark is durable before the first journal goes, so no start takes the rest for everything.
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
        # Only a complete read shows that there is no damage.
        tail = read_tail(path)
        if tail.damage:
            return f"damaged at byte {tail.damage[0].offset}"
        if covered < tail.end:
            return "not yet covered by two snapshots"
        return None  # beyond the snapshot there is at most a torn tail, which was never acknowledged
