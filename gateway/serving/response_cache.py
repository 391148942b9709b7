"""The response cache: identical reads of a namespace that has not changed are answered from memory, or from Redis.

A cached response belongs to a state of its namespace (`MemoryService.state`), which every write, delete and expiry
changes, in this worker and, once it is followed, in any other. So nothing is ever invalidated: what belongs to another
state is not found, and goes when its time is over. Thread-safe.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from memory_service.bounded_cache import BoundedCache

log = logging.getLogger(__name__)

BYTES_MAX = 32 * 1024 * 1024
"""Of all responses that one worker keeps."""

ENTRY_BYTES_MAX = 1024 * 1024
"""Larger responses are not kept."""

REDIS_TIMEOUT_S = 0.2
REDIS_PAUSE_S = 10.0
"""How long Redis may take, and for how long it is left alone when it failed: a cache must not slow reads down."""


class Shelf(Protocol):
    """Where responses are kept."""

    def get(self, key: str) -> bytes | None:
        """What was put there, while its time lasts."""

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""


class ResponseCache:
    """Keeps responses for some time."""

    def __init__(self, shelf: Shelf | None, salt: str) -> None:
        """Args:
        shelf: None keeps nothing.
        salt: what else an answer depends on: version, embedder, model.
        """
        self._shelf = shelf
        self._salt = salt

    @property
    def is_off(self) -> bool:
        """Whether nothing is kept."""
        return self._shelf is None

    def key(self, operation: str, state: str, request: Mapping[str, Any]) -> str:
        """The key of a request for a namespace in this state."""
        text = json.dumps([self._salt, operation, state, request], sort_keys=True, default=str)
        return f"vector-memory:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def find(self, key: str) -> dict[str, Any] | None:
        """The response, marked as `cached`."""
        found = None if self._shelf is None else self._shelf.get(key)
        return None if found is None else {**json.loads(found), "cached": True}

    def keep(self, key: str, response: Mapping[str, Any]) -> None:
        """Keep a response, unless it is large."""
        if self._shelf is None:
            return
        value = json.dumps(response, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(value) <= ENTRY_BYTES_MAX:
            self._shelf.put(key, value)


class LocalShelf:
    """A bounded table in this process, which evicts the least recently used values."""

    def __init__(self, ttl_s: float, bytes_max: int = BYTES_MAX, now: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._now = now
        self._lock = threading.Lock()
        self._entries = BoundedCache[str, tuple[float, bytes]](bytes_max, lambda entry: len(entry[1]))

    def get(self, key: str) -> bytes | None:
        """Return what was put there, while its time lasts."""
        with self._lock:
            expires_at, value = self._entries.get(key) or (0.0, b"")
            if self._now() < expires_at:
                return value
            self._entries.remove(key)
            return None

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        with self._lock:
            self._entries.put(key, (self._now() + self._ttl_s, value))


class RedisShelf:
    """A Redis server that several workers share. Where it fails, nothing is found and nothing kept for a while."""

    def __init__(self, url: str, ttl_s: float) -> None:
        """Connect when first asked.

        Raises:
            ImportError: the extra `redis` is not installed.
            ValueError: the URL is none of Redis.
        """
        import redis

        self._failure: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
        self._ttl_ms = round(ttl_s * 1000)
        self._paused_until = 0.0

    def get(self, key: str) -> bytes | None:
        """What was put there, while its time lasts."""
        found = self._asked(lambda: self._redis.get(key))
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self._asked(lambda: self._redis.set(key, value, px=self._ttl_ms))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return ask()
        except self._failure as error:
            self._paused_until = time.monotonic() + REDIS_PAUSE_S
            log.warning("cache.unreachable", extra={"reason": type(error).__name__})
            return None
