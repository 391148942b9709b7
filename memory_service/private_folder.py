"""A private folder on local disk, for what need not outlive the process: removed at its end, or by whoever comes next.

A lock on a file in it says that its process lives. This is local disk, where locks work; on the volume there are none.
"""

import fcntl
import shutil
import tempfile
from pathlib import Path

PREFIX = "vector-memory-"
LOCK_NAME = "in-use"


class PrivateFolder:
    """A fresh folder under `parent` (default: the system's temporary folder)."""

    def __init__(self, parent: Path | None = None) -> None:
        """Make it, and remove those that killed processes left behind.

        Raises:
            OSError: the parent takes no folder.
        """
        parent = Path(parent or tempfile.gettempdir())
        _remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        unnamed = self.path / "locking"
        self._lock_file = unnamed.open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        unnamed.rename(self.path / LOCK_NAME)  # it gets its name when it is locked, not before

    def close(self) -> None:
        """Remove it."""
        self._lock_file.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders whose lock nobody holds."""
    for lock_path in parent.glob(f"{PREFIX}*/{LOCK_NAME}"):
        try:
            with lock_path.open("r") as lock_file:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.parent, ignore_errors=True)
        except OSError:
            continue  # in use, or another user's
