"""A real worker in a process of its own, for tests that start, kill and restart it."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

READY_S_MAX = 60
EXIT_S_MAX = 60


class WorkerProcess:
    """`vector-memory serve` on a free port, over a data folder. A context manager that always ends the process."""

    def __init__(self, data_dir: Path, *, logs: Path | None = None, port: int | None = None, **variables: str) -> None:
        self.port = port or free_port()
        self.log = (logs or data_dir.parent) / f"worker-{self.port}.log"
        self._output = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "serve"],
            env=environment(MEMORY_DATA_DIR=str(data_dir), MEMORY_PORT=str(self.port), **variables),
            stdout=self._output,
            stderr=self._output,
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def __enter__(self) -> "WorkerProcess":
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log.read_text()}")
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/ping").status_code == 200:
                    return
            time.sleep(0.02)  # polling another process
        raise AssertionError(f"the worker is not ready after {READY_S_MAX} s:\n{self.log.read_text()}")

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> Any:
        response = self.http.post(path, json=body, headers=headers)
        assert response.is_success, response.text
        return response.json()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._ended()

    def events(self) -> list[dict[str, Any]]:
        """The worker's log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def _ended(self) -> int:
        code = self.process.wait(EXIT_S_MAX)
        self.http.close()
        self._output.close()
        return code


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child: ours without any setting of the service, plus the given ones."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "LLM_", "MCP_", "RUNPOD_"))
    }
    return {**inherited, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}


def free_port() -> int:
    """Return a port that nobody listens on, and that no other process of the suite is given."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port of this process of the suite was given out")


def _ports_of_this_process() -> Iterator[int]:
    """Yield ports below those that systems give to clients, every 16th of them, in random order."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(10_000 + number % 16, 32_768, 16)
    return iter(random.sample(ports, len(ports)))


_ports = _ports_of_this_process()
