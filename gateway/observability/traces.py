"""Keeps traces of research for an hour, in this process or in Redis, and never on the volume.

A trace is found by its id together with its namespace: ids cannot be guessed, and one that got about opens no other
namespace. Whoever shows a trace leaves out what was deleted since (`trace_shapes.trace_body`).
"""

import hashlib
import json
import secrets
import zlib
from importlib.metadata import version
from typing import Any

from gateway.observability.trace_shapes import kept_trace
from gateway.serving.shelves import Shelf
from memory_service import checks
from research.trace import Trace
from vector_memory.errors import NotFound

TTL_S = 3_600.0

ENTRY_BYTES_MAX = 4 * 1024 * 1024
"""Of one trace, compressed. A larger one is not kept."""


class Traces:
    """Keeps traces for some time. Thread-safe."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def keep(self, trace: Trace) -> str | None:
        """Keep a trace; the id by which it is found, or None when it is too large or Redis does not take it."""
        id = secrets.token_urlsafe(24)
        key = _key(id, trace.request.namespace)
        value = zlib.compress(json.dumps(kept_trace(trace)).encode())
        if len(value) > ENTRY_BYTES_MAX:
            return None
        self._shelf.put(key, value)
        return id if self._shelf.get(key) == value else None

    def find(self, id: str, namespace: str) -> dict[str, Any]:
        """What `trace_shapes.kept_trace` made of a trace.

        Raises:
            NotFound: there is none of this id in the namespace, or its hour is over.
        """
        checks.namespace(namespace)
        found = self._shelf.get(_key(id, namespace))
        if found is None:
            raise NotFound(
                "There is no trace of this id in this namespace. Traces are kept for an hour, by the worker that "
                "answered or in Redis; send trace: true with a question to have another."
            )
        trace: dict[str, Any] = json.loads(zlib.decompress(found))
        return trace


def _key(id: str, namespace: str) -> str:
    named = json.dumps([version("vector-memory"), namespace, id]).encode()  # another version keeps another shape
    return f"vector-memory:trace:{hashlib.sha256(named).hexdigest()}"
