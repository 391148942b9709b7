"""Keeps traces of research for an hour, in this process or in Redis, and never on the volume.

A trace is found by its id and its namespace. Ids cannot be guessed, and a leaked id does not give access to another
namespace. `trace_shapes.trace_body` leaves out what was deleted since, before a trace is shown.
"""

import hashlib
import json
import secrets
import zlib
from importlib.metadata import version
from typing import Any

from gateway.observability.trace_shapes import pack_trace
from gateway.serving.shelves import Shelf
from memory_service import checks
from research.trace import Trace
from vector_memory.errors import NotFound

TTL_S = 3_600.0

ENTRY_BYTES_MAX = 4 * 1024 * 1024
"""Bound on one trace, compressed. A larger one is not kept."""


class Traces:
    """Keeps traces on a shelf. Thread-safe."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def keep(self, trace: Trace) -> str | None:
        """Keep a trace and return its id; None when it is too large or Redis does not accept it."""
        id = secrets.token_urlsafe(24)
        key = _key(id, trace.request.namespace)
        value = zlib.compress(json.dumps(pack_trace(trace)).encode())
        if len(value) > ENTRY_BYTES_MAX:
            return None
        self._shelf.put(key, value)
        return id if self._shelf.get(key) == value else None

    def find(self, id: str, namespace: str) -> dict[str, Any]:
        """Return what `trace_shapes.pack_trace` returned for a trace.

        Raises:
            NotFound: no trace in the namespace has this id, or its hour is over.
        """
        checks.namespace(namespace)
        found = self._shelf.get(_key(id, namespace))
        if found is None:
            raise NotFound(
                "This namespace has no trace with this id. Traces are kept for an hour, by the worker that answered or "
                "in Redis. Send trace: true with a question to get another."
            )
        trace: dict[str, Any] = json.loads(zlib.decompress(found))
        return trace


def _key(id: str, namespace: str) -> str:
    # Another version of the service may keep traces in another shape.
    named = json.dumps([version("vector-memory"), namespace, id]).encode()
    return f"vector-memory:trace:{hashlib.sha256(named).hexdigest()}"
