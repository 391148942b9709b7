"""A client of `vector-memory mcp` that speaks plain lines, for tests that look at the process itself."""

import json
import queue
import subprocess
import sys
import threading
from typing import Any

from tests.worker_process import environment

ANSWER_S_MAX = 60
CLIENT = {"name": "test", "version": "1"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": CLIENT,
}


class StdioClient:
    """The process and its lines. A context manager that always ends it."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "mcp", *arguments],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "StdioClient":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(ANSWER_S_MAX)

    def send(self, message: object) -> None:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        line = self._lines.get(timeout=ANSWER_S_MAX)
        assert line, "the process closed its output"
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, id: object, method: str, **params: Any) -> dict[str, Any]:
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        answer = self.receive()
        assert answer["id"] == id
        return answer

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        answer = self.ask("init", "initialize", protocolVersion=version, capabilities={}, clientInfo=CLIENT)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    def call(self, id: object, tool: str, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.ask(id, "tools/call", name=tool, arguments=arguments)["result"]
        return result

    def end(self) -> tuple[int, list[bytes], str]:
        """Close the input: exit code, lines that were still to come, and all that went to stderr."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        stderr = self.process.stderr.read().decode()
        code = self.process.wait(ANSWER_S_MAX)
        self._reader.join(ANSWER_S_MAX)
        rest = [line for line in iter(lambda: self._lines.get(timeout=1), b"") if line]
        return code, rest, stderr

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")
