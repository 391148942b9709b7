"""When snapshots are taken: by the number of records since the last one, by time, at the end, and on demand.

Always beside the service: freezing takes milliseconds, the writing goes on in a thread of its own.
"""

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
"""A stop is not held up for fewer records: replaying them takes less than a tenth of a second."""

RETRY_S = 60.0
DAY_S = 24 * 3600.0

HELD_SHARE = 0.1
"""A snapshot writes everything that is held, so it waits until as much has changed, as a share of the memories."""

INTERVAL_SHARE = 0.25
"""Of the records that make one due, how many make one due after the interval; fewer wait for the end of the day."""


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
            that lacks what others compacted would push theirs out.
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
                path = snapshots.write(
                    frozen,
                    self._folder.snapshots,
                    self._folder.journal,
                    self._projection.embedder,
                    self._projection.catalog.folder,
                )
            except OSError as error:
                self._projection.records_since_freeze += records
                log.warning("snapshot.failed", extra={"reason": str(error)})
                raise storage_unavailable(error) from error
            took_ms = round((time.perf_counter() - started) * 1000)
            log.info("snapshot.taken", extra={"snapshot": path.name, "ms": took_ms, "frozen_ms": frozen_ms})
            return path

    def take_if_due(self) -> None:
        """Begin a snapshot in the background if it is time; costs a comparison otherwise."""
        if self._is_due() and (self._background is None or not self._background.is_alive()):
            self._background = threading.Thread(target=self._work, name="snapshot", daemon=True)
            self._background.start()

    def close(self) -> None:
        """Wait for a snapshot under way, and take a last one if a start would have much to replay."""
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
        try:
            self.take()
        except Unavailable:
            return  # logged; the journals hold everything, and the next use tries again
