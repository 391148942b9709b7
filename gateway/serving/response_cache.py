"""The response cache: it answers identical reads of a namespace that has not changed.

The key of a cached response has the state of its namespace in it (`MemoryService.state`). Every write, delete and
expiry changes that state, in this worker and, once it follows, in any other. So nothing is ever invalidated: a response
to another state is not found, and goes when its time is over. Thread-safe.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gateway.serving.shelves import Shelf

ENTRY_BYTES_MAX = 1024 * 1024
"""Larger responses are not kept."""


class ResponseCache:
    """Keeps responses on a shelf."""

    def __init__(self, shelf: Shelf | None, salt: str) -> None:
        """Args:
        shelf: None keeps nothing.
        salt: what else a response depends on: version, embedder, model.
        """
        self._shelf = shelf
        self._salt = salt

    @property
    def is_off(self) -> bool:
        """Whether nothing is kept."""
        return self._shelf is None

    def key(self, operation: str, state: str, request: Mapping[str, Any]) -> str:
        """Return the key of a request to a namespace in this state."""
        text = json.dumps([self._salt, operation, state, request], sort_keys=True, default=str)
        return f"vector-memory:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the response, marked as `cached`; None if it is not kept."""
        found = None if self._shelf is None else self._shelf.get(key)
        return None if found is None else {**json.loads(found), "cached": True}

    def keep(self, key: str, response: Mapping[str, Any]) -> None:
        """Keep a response, unless it is large."""
        if self._shelf is None:
            return
        value = json.dumps(response, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(value) <= ENTRY_BYTES_MAX:
            self._shelf.put(key, value)
