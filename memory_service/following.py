"""Following: seeing what other processes wrote to their journals, on use.

RunPod overlaps old and new workers, runs several when it scales, and revives frozen ones with a stale memory; so a call
looks at the journal folder before it reads or writes, at most every `interval_ms`, and always when it asks for strong
consistency. No timer and no thread: a frozen process could rely on neither.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from memory_service.data_folder import DataFolder
from memory_service.errors import Unavailable
from memory_service.journal import DamagedJournal, journal_paths
from memory_service.projection import OtherEmbedder, Projection

log = logging.getLogger(__name__)


class Follower:
    """Keeps a projection up to date with the journals of others."""

    def __init__(
        self, projection: Projection, folder: DataFolder, interval_ms: int, own_writer: Callable[[], str]
    ) -> None:
        """Args:
        own_writer: the journal that this process is writing to, whose records come by another way.
        """
        self._projection = projection
        self._folder = folder
        self._interval_s = interval_ms / 1000
        self._own_writer = own_writer
        self._last_s = time.monotonic()
        self._following = threading.Lock()
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> dict[str, str]:
        """What keeps journals from being followed, by their names; the memories of the others are served."""
        return dict(self._problems)

    def follow(self, *, strong: bool = False) -> None:
        """Apply what is new in the journals of others, unless that was done a moment ago.

        Args:
            strong: also if it was; every write acknowledged anywhere before this call is then seen.

        Raises:
            Unavailable: strong consistency was asked for, and a journal or the folder cannot be read.
        """
        if strong:
            with self._following:
                self._follow()
            if self._problems:
                raise Unavailable(f"Not every journal can be read: {'; '.join(self._problems.values())}.")
        elif time.monotonic() - self._last_s >= self._interval_s and self._following.acquire(blocking=False):
            try:
                self._follow()
            finally:
                self._following.release()

    def _follow(self) -> None:
        problems: dict[str, str] = {}
        try:
            for path in journal_paths(self._folder.journal):
                if path.stem != self._own_writer():
                    self._follow_one(path, problems)
            for name in self._projection.make_up_for_removed(self._folder.snapshots, self._folder.journal):
                problems[name] = f"journals were removed, and the snapshot {name} that covers them cannot be used"
        except OSError as error:
            problems[str(self._folder.path)] = f"{self._folder.path} cannot be read ({error.strerror})"
        for name in problems.keys() - self._problems.keys():
            log.error("journal.unfollowed", extra={"journal": name, "reason": problems[name]})
        self._problems = problems
        self._last_s = time.monotonic()

    def _follow_one(self, path: Path, problems: dict[str, str]) -> None:
        try:
            self._projection.pull_one(path)
        except FileNotFoundError:
            return  # taken away since the folder was listed
        except OSError as error:
            problems[path.name] = f"{path.name} cannot be read ({error.strerror})"
        except (DamagedJournal, OtherEmbedder) as error:
            problems[path.name] = str(error)
