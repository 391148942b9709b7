"""Following: seeing what other processes wrote to their journals, on use.

RunPod overlaps old and new workers, runs several when it scales, and revives frozen ones with a stale memory; so a call
looks at the journal folder before it reads or writes, at most every `interval_ms`, and always when it asks for strong
consistency. No timer and no thread: a frozen process could rely on neither.
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
    """Keeps a projection up to date with the journals of others."""

    def __init__(
        self,
        projection: Projection,
        folder: DataFolder,
        interval_ms: int,
        own_writer: Callable[[], str],
        damaged: Sequence[DamagedJournal] = (),
    ) -> None:
        """Args:
        own_writer: the journal that this process is writing to, whose records come by another way.
        damaged: what was found at the start, and was not passed over.
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
        """What keeps journals from being followed, by their names; the memories of the others are served."""
        return dict(self._problems)

    @property
    def damage(self) -> str | None:
        """What was found damaged at the start and still is; None once the file is whole again or taken away."""
        return next((self._problems[name] for name in self._damaged_at_start & self._problems.keys()), None)

    def follow(self, *, strong: bool = False) -> None:
        """Apply what is new in the journals of others, unless that was done a moment ago.

        Args:
            strong: also if it was; every write acknowledged anywhere before this call is then seen.

        Raises:
            Unavailable: strong consistency was asked for, and a journal or the folder cannot be read.
        """
        if strong:
            with self._following:
                self._follow(trust_sizes=False)
            if self._problems:
                raise Unavailable(f"Not every journal can be read: {'; '.join(self._problems.values())}.")
        elif self._is_due():
            with self._following:  # who comes while another follows waits for it, rather than answer from before
                if self._is_due():
                    self._follow(trust_sizes=True)

    def _is_due(self) -> bool:
        return self._last.is_older_than(self._interval_s)

    def _follow(self, *, trust_sizes: bool) -> None:
        begun = Moment.now()  # a process that is frozen in here has seen nothing later
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
            return  # taken away since the folder was listed
        except OSError as error:
            problems[path.name] = f"{path.name} cannot be read ({error.strerror})"
        except (DamagedJournal, OtherEmbedder) as error:
            problems[path.name] = str(error)
