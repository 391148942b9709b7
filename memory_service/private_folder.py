"""A private folder on local disk, for files that need not outlive the process.

The process removes it at its end. If it is killed, the next process removes it. A lock on a file in the folder says
that its process is alive; locks work on local disk, and the volume is not used here.
"""

import contextlib
import fcntl
import shutil
import tempfile
from pathlib import Path

PREFIX = "vector-memory-"
LOCK_NAME = "in-use"


class PrivateFolder:
    """A fresh folder under `parent` (default: the system's temporary folder)."""

    def __init__(self, parent: Path | None = None) -> None:
        """Make the folder, and remove the folders of killed processes.

        Raises:
            OSError: the folder cannot be made.
        """
        parent = Path(parent or tempfile.gettempdir())
        _remove_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        unnamed = self.path / "locking"
        # The file is locked before it gets its name, or another process might remove the folder in between.
        self._lock_file = unnamed.open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        unnamed.rename(self.path / LOCK_NAME)

    def close(self) -> None:
        """Remove the folder."""
        self._lock_file.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for lock_path in parent.glob(f"{PREFIX}*/{LOCK_NAME}"):
        # An OSError means that it is in use, or belongs to another user.
        with contextlib.suppress(OSError), lock_path.open("r") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_path.parent, ignore_errors=True)
