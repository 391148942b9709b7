"""Takes snapshots when they are due: after a number of records, after a time, when the worker stops, and on demand.

The service goes on: freezing takes milliseconds, and a thread of its own writes.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from memory_service.clock import Moment
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.writer import storage_unavailable
from memory_service.projection import snapshots
from memory_service.projection.applying import Projection
from vector_memory.errors import Unavailable

log = logging.getLogger(__name__)

CLOSING_RECORDS_MIN = 1_000
"""A stop takes no snapshot for fewer records: replaying them takes less than a tenth of a second."""

RETRY_S = 60.0
DAY_S = 24 * 3600.0

HELD_SHARE = 0.1
"""A snapshot writes all memories, so it waits until the records since the last one are this share of the memories."""

INTERVAL_SHARE = 0.25
"""This share of the records that make a snapshot due makes one due after the interval; fewer wait for a day."""


class Snapshotter:
    """Takes snapshots of one projection, one at a time."""

    def __init__(
        self,
        projection: Projection,
        folder: DataFolder,
        follow: Callable[[], None],
        *,
        every_records: int,
        every_s: float,
    ) -> None:
        """Args:
        follow: brings the projection up to date with every journal and snapshot, or raises `Unavailable`. A snapshot
            without what other workers compacted would replace theirs.
        """
        self._projection = projection
        self._folder = folder
        self._follow = follow
        self._every_records = every_records
        self._every_s = every_s
        self._taking = threading.Lock()
        self._last = Moment.now()
        self._background: threading.Thread | None = None
        self.after_background: Callable[[], None] = lambda: None

    def take(self) -> Path:
        """Write a snapshot now.

        Raises:
            Unavailable: not everything that others wrote can be read, or the data folder takes no writes.
        """
        with self._taking:
            self._follow()
            started = time.perf_counter()
            self._last = Moment.now()
            records = self._projection.records_since_freeze
            frozen = self._projection.freeze()
            frozen_ms = round((time.perf_counter() - started) * 1000, 1)
            try:
                folder, scratch = self._folder, self._projection.catalog.folder
                path = snapshots.write(frozen, folder.snapshots, folder.journal, self._projection.embedder, scratch)
            except OSError as error:
                self._projection.records_since_freeze += records
                log.warning("snapshot.failed", extra={"reason": str(error)})
                raise storage_unavailable(error) from error
            took_ms = round((time.perf_counter() - started) * 1000)
            log.info("snapshot.taken", extra={"snapshot": path.name, "ms": took_ms, "frozen_ms": frozen_ms})
            return path

    def take_if_due(self) -> None:
        """Begin a snapshot in the background if it is due; a comparison otherwise."""
        if self._is_due() and (self._background is None or not self._background.is_alive()):
            self._background = threading.Thread(target=self._work, name="snapshot", daemon=True)
            self._background.start()

    def close(self) -> None:
        """Wait for a snapshot that is being written, and take a last one if a start would have much to replay."""
        if self._background is not None:
            self._background.join()
        if self._projection.records_since_freeze >= CLOSING_RECORDS_MIN:
            self._take_quietly()

    def _is_due(self) -> bool:
        records = self._projection.records_since_freeze
        if records == 0:
            return False
        enough = max(self._every_records, self._projection.memories_held() * HELD_SHARE)
        if records >= enough:
            return self._last.is_older_than(min(RETRY_S, self._every_s))
        if records >= enough * INTERVAL_SHARE:
            return self._last.is_older_than(self._every_s)
        return self._last.is_older_than(max(DAY_S, self._every_s))

    def _work(self) -> None:
        self._take_quietly()
        self.after_background()

    def _take_quietly(self) -> None:
        with contextlib.suppress(Unavailable):  # logged; the journals hold everything, and the next use tries again
            self.take()
