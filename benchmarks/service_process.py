"""Runs the real worker, `vector-memory serve`, as a subprocess on a free port, and reads its log, memory and disk."""

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
"""Name of the data folder inside the folder of a process."""

START_S_MAX = 300.0
STOP_S_MAX = 60.0
LOOK_S = 0.002
"""Pause between two reads of the log while waiting for an event."""


class ServiceProcess:
    """A worker that runs as long as its `with` block. The folder gets `DATA`, which may exist, `cache` and `log`.

    Args:
        folder: a folder for this process alone, so that its cache holds only this process's files.
        python_flags: flags of the interpreter, such as `-X importtime`.
        settings: environment variables that differ from their defaults.

    """

    def __init__(
        self, folder: Path, python_flags: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> None:
        # A cached answer would skip the retrieve that is to be measured.
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
            # The process runs in its own folder, so that no .env of the working folder changes what is measured.
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
        """Wait until the process listens, and return its port.

        Raises:
            RuntimeError: the process ended, or does not listen in time.

        """
        return int(self._await_event("http.listening")["port"])

    def ready_port(self) -> int:
        """Wait until the process serves requests, and return its port.

        Raises:
            RuntimeError: the process ended, or is not ready in time.

        """
        self._await_event("worker.ready")
        return self.port()

    def event(self, name: str) -> dict[str, Any]:
        """Return the first event of this name in the log. The event must be there."""
        return next(event for event in self._events() if event["event"] == name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return all events of this name that the log has now."""
        return [event for event in self._events() if event["event"] == name]

    def since_start_s(self, name: str) -> float:
        """Return the seconds from the start of the process to the first event of this name."""
        return datetime.fromisoformat(self.event(name)["time"]).timestamp() - self.started_s

    def log_lines(self) -> list[str]:
        """Return the lines that the process has written on stderr."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def memory(self) -> "ProcessMemory":
        """Return the memory that the process has now."""
        text = Path(f"/proc/{self._require().pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        names = ("VmRSS", "RssAnon", "RssFile", "VmHWM")
        return ProcessMemory(*(int(fields[name].removesuffix(" kB")) * 1024 for name in names))

    def cpu_s(self) -> float:
        """Return the processor seconds that the process has spent. The kernel counts in ticks of usually 10 ms."""
        after_name = Path(f"/proc/{self._require().pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        user, system = after_name[11:13]  # fields 14 and 15 of proc(5), which counts the pid and the name before
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def journal_bytes(self) -> int:
        """Return the bytes of the journals, which are the truth."""
        return _bytes_under(self._data / JOURNAL_FOLDER)

    def snapshot_bytes(self) -> int:
        """Return the bytes of the snapshots, which make a start quick."""
        return _bytes_under(self._data / SNAPSHOT_FOLDER)

    def catalog_bytes(self) -> int:
        """Return the bytes of the process's catalog, which can be rebuilt."""
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
        resident_bytes: all resident memory.
        anonymous_bytes: the part that the process allocated.
        file_bytes: the part of mapped files (libraries, the model's weights), which the kernel can drop and read again.
        peak_bytes: largest resident memory since the start.

    """

    resident_bytes: int
    anonymous_bytes: int
    file_bytes: int
    peak_bytes: int


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
