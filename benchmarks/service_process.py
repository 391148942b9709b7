"""The real worker, `vector-memory serve`, as a subprocess on a free port; its log, its memory and its disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memory_service.journal.data_folder import JOURNAL_FOLDER, SNAPSHOT_FOLDER

COMMAND = Path(sys.executable).with_name("vector-memory")
DATA = "memories"
"""Name of the data folder in a process's folder."""

START_S_MAX = 300.0
STOP_S_MAX = 60.0
LOOK_S = 0.002
"""Pause between two looks at the log for the port."""


class ServiceProcess:
    """Runs while its `with` block does. The folder gets `DATA`, `cache` and `log`; the first may be there already.

    Args:
        folder: of this process alone, so that what lies in its cache is this process's.
        python_flags: such as `-X importtime`.
        settings: variables that differ from their defaults.

    """

    def __init__(
        self, folder: Path, python_flags: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> None:
        # A cached answer would tell nothing of the retrieve that it spares.
        self._settings = {"MEMORY_CACHE_TTL_S": "0", **(settings or {})}
        self._data, self._cache, self._log = folder / DATA, folder / "cache", folder / "log"
        self._command: list[str | Path] = [
            sys.executable,
            *python_flags,
            COMMAND,
            "serve",
            "--port",
            "0",
            "--data-dir",
            self._data,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def __enter__(self) -> Self:
        self._cache.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "LLM_"))}
        with self._log.open("wb") as log:
            self.started_s = time.time()
            # In the folder, so that no .env of the working folder changes what is measured.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cache,
                env=own | self._settings | {"MEMORY_CACHE_DIR": str(self._cache)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._require()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self._require().kill()
        self._require().wait()

    def port(self) -> int:
        """The port, as soon as the process listens.

        Raises:
            RuntimeError: it ended, or does not listen in time.

        """
        return int(self._await_event("http.listening")["port"])

    def ready_port(self) -> int:
        """The port, as soon as requests are served.

        Raises:
            RuntimeError: it ended, or is not ready in time.

        """
        self._await_event("worker.ready")
        return self.port()

    def event(self, name: str) -> dict[str, Any]:
        """The first such event of the log, which must be there."""
        return next(event for event in self._events() if event["event"] == name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """All such events of the log so far."""
        return [event for event in self._events() if event["event"] == name]

    def since_start_s(self, name: str) -> float:
        """Seconds from the start of the process to an event."""
        return datetime.fromisoformat(self.event(name)["time"]).timestamp() - self.started_s

    def log_lines(self) -> list[str]:
        """What the process has written on stderr."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def memory(self) -> "ProcessMemory":
        """How much memory the process has now."""
        text = Path(f"/proc/{self._require().pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        names = ("VmRSS", "RssAnon", "RssFile", "VmHWM")
        return ProcessMemory(*(int(fields[name].removesuffix(" kB")) * 1024 for name in names))

    def cpu_s(self) -> float:
        """Processor seconds that the process has spent, in ticks of usually 10 ms."""
        after_name = Path(f"/proc/{self._require().pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        user, system = after_name[11:13]  # fields 14 and 15 of proc(5), which counts the pid and the name before
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def journal_bytes(self) -> int:
        """Disk that the journals take, which are the truth."""
        return _bytes_under(self._data / JOURNAL_FOLDER)

    def snapshot_bytes(self) -> int:
        """Disk that the snapshots take, which make a start quick."""
        return _bytes_under(self._data / SNAPSHOT_FOLDER)

    def catalog_bytes(self) -> int:
        """Disk that the process's rebuildable catalog takes."""
        return _bytes_under(self._cache)

    def _await_event(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            for event in self._events():
                if event["event"] == name:
                    return event
            if self._require().poll() is not None:
                break
            time.sleep(LOOK_S)
        raise RuntimeError(f"The service did not come to {name}:\n" + "\n".join(self.log_lines()[-20:]))

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.log_lines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)

    def _require(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was not started"
        return self._process


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Resident memory as the kernel counts it.

    Attributes:
        anonymous_bytes: the process's own.
        file_bytes: mapped files (libraries, the model's weights), which the kernel can drop and read again.
        peak_bytes: the most that was resident since the start.

    """

    resident_bytes: int
    anonymous_bytes: int
    file_bytes: int
    peak_bytes: int


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
