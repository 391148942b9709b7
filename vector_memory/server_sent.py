"""Reads server-sent events as they arrive (WHATWG HTML, section 9.2.6). Their data is JSON.

Lines are split as bytes. Text may hold separators such as U+2028, at which `str.splitlines` would split it.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a stream.

    Attributes:
        name: the event's type, or "" if the stream names none.
        data: the parsed JSON, or None if the data is not JSON.
    """

    name: str
    data: Any


class EventReader:
    """Builds events from the pieces of a stream, which may be cut anywhere. An incomplete last event is dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """Return the events that this piece completes, in order."""
        lines = (self._rest + piece).splitlines(keepends=True)
        # Keep an unfinished line. One that ends in \r counts as unfinished, since its \n may follow.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"" if not line:
                return self._ended()
            case b"event":
                self._name = value.decode("utf-8", "replace")
            case b"data":
                self._data.append(value)
        return None  # a comment that keeps the connection alive, or a field without a use here

    def _ended(self) -> ServerSentEvent | None:
        data, name = b"\n".join(self._data), self._name
        self._data, self._name = [], ""
        if not data:
            return None
        try:
            return ServerSentEvent(name, json.loads(data))
        except (ValueError, RecursionError):
            return ServerSentEvent(name, None)
