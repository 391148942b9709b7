"""Following: reading what other processes wrote to their journals, whenever a call uses the projection.

RunPod overlaps old and new workers, runs several when it scales, and revives frozen ones with a stale memory. So a call
looks at the journal folder before it reads or writes: at most every `interval_ms`, and always if it asks for strong
consistency. There is no timer and no thread, because a frozen process could rely on neither.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from memory_service.clock import Moment
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import DamagedJournal, journal_paths
from memory_service.projection.applying import OtherEmbedder, Projection
from vector_memory.errors import Unavailable

log = logging.getLogger(__name__)


class Follower:
    """Keeps a projection up to date with the journals of other processes."""

    def __init__(
        self,
        projection: Projection,
        folder: DataFolder,
        interval_ms: int,
        own_writer: Callable[[], str],
        damaged: Sequence[DamagedJournal] = (),
    ) -> None:
        """Args:
        own_writer: returns the journal that this process writes to; the commit applies its records.
        damaged: damage that the start found and did not pass over.
        """
        self._projection = projection
        self._folder = folder
        self._interval_s = interval_ms / 1000
        self._own_writer = own_writer
        self._last = Moment.now()
        self._following = threading.Lock()
        self._problems: dict[str, str] = {error.path.name: str(error) for error in damaged}
        self._damaged_at_start = frozenset(self._problems)

    @property
    def problems(self) -> dict[str, str]:
        """Why journals cannot be followed, by their names. The memories of the other journals are served."""
        return dict(self._problems)

    @property
    def damage(self) -> str | None:
        """The damage that the start found, while it lasts; None once the file is restored or removed."""
        return next((self._problems[name] for name in self._damaged_at_start & self._problems.keys()), None)

    def follow(self, *, strong: bool = False) -> None:
        """Apply what is new in other journals, unless that was done less than the interval ago.

        Args:
            strong: do it in any case, so that every write acknowledged anywhere before this call is seen.

        Raises:
            Unavailable: strong consistency was asked for, and a journal or the folder cannot be read.
        """
        if strong:
            with self._following:
                self._follow(trust_sizes=False)
            if self._problems:
                raise Unavailable(f"Not every journal can be read: {'; '.join(self._problems.values())}.")
        elif self._is_due():
            with self._following:
                # A call that waited here has the result of the other one; it would be stale without the wait.
                if self._is_due():
                    self._follow(trust_sizes=True)

    def _is_due(self) -> bool:
        return self._last.is_older_than(self._interval_s)

    def _follow(self, *, trust_sizes: bool) -> None:
        begun = Moment.now()  # a process that is frozen below has seen nothing later than this
        problems: dict[str, str] = {}
        try:
            for path in journal_paths(self._folder.journal):
                if path.stem != self._own_writer():
                    self._follow_one(path, problems, trust_size=trust_sizes)
            for name in self._projection.merge_compacted_snapshots(self._folder):
                problems[name] = f"journals were removed, and the snapshot {name} that covers them cannot be used"
        except OSError as error:
            problems[str(self._folder.path)] = f"{self._folder.path} cannot be read ({error.strerror})"
        for name in problems.keys() - self._problems.keys():
            log.error("journal.unfollowed", extra={"journal": name, "reason": problems[name]})
        self._problems = problems
        self._last = begun

    def _follow_one(self, path: Path, problems: dict[str, str], *, trust_size: bool) -> None:
        try:
            self._projection.pull_one(path, trust_size=trust_size)
        except FileNotFoundError:
            return  # compacted away since the folder was listed
        except OSError as error:
            problems[path.name] = f"{path.name} cannot be read ({error.strerror})"
        except (DamagedJournal, OtherEmbedder) as error:
            problems[path.name] = str(error)
