"""A small keep-alive HTTP client on the standard library's http.client, with one connection each.

It costs less than httpx does. Its cost is measured against `GET /health/live` and printed. Bodies are encoded before
the clock starts and decoded after it stops.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 120.0
IDLE_S_MAX = 2.0
"""Longest rest of a connection. Then the client connects again, because uvicorn closes idle ones after 5 seconds."""

_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and the time from the first byte sent to the last byte received."""

    status: int
    body: bytes
    took_s: float

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            RuntimeError: the status is not 200.

        """
        if self.status != 200:
            raise RuntimeError(f"The service answered {self.status}: {self.body[:300]!r}")
        return json.loads(self.body)


class Client:
    """One connection to the service. It serves one thread at a time."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._used_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        """Send a GET."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Send a POST with a JSON body."""
        return self._send("POST", path, json.dumps(body).encode())

    def _send(self, method: str, path: str, body: bytes | None) -> Answer:
        self._refresh()
        started = time.perf_counter()
        self._connection.request(method, path, body, _HEADERS)
        response = self._connection.getresponse()
        content = response.read()
        took_s = time.perf_counter() - started
        self._used_s = time.monotonic()
        return Answer(response.status, content, took_s)

    def _refresh(self) -> None:
        if time.monotonic() - self._used_s > IDLE_S_MAX:
            self._connection.close()
            self._connection.connect()


def store(client: Client, content: str, key: str, metadata: Mapping[str, Any]) -> Answer:
    """Store one memory."""
    return client.post("/v1/memories", {"content": content, "key": key, "metadata": metadata})


def retrieve(client: Client, query: str, k: int, filter: Mapping[str, Any] | None = None) -> Answer:
    """Retrieve k memories."""
    body: dict[str, Any] = {"query": query, "k": k}
    return client.post("/v1/memories/retrieve", body | ({} if filter is None else {"filter": filter}))
