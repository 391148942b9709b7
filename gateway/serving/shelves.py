"""Shelves, where the response cache and the traces keep bytes for some time: in this process, or in Redis."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.settings import GatewaySettings
from memory_service.bounded_cache import BoundedCache
from vector_memory.errors import StartupError

log = logging.getLogger(__name__)

BYTES_MAX = 32 * 1024 * 1024
"""Bound on all values of one shelf in this process together."""

REDIS_TIMEOUT_S = 0.2
"""How long Redis may take to answer: a cache must not slow reads down."""

REDIS_PAUSE_S = 10.0
"""How long Redis is left alone after it failed."""


class Shelf(Protocol):
    """A place where values are kept for some time."""

    def get(self, key: str) -> bytes | None:
        """Return what was put there, while its time lasts."""

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""


def open_shelf(settings: GatewaySettings, ttl_s: float) -> Shelf:
    """Return a shelf in Redis if one is configured, else in this process.

    Raises:
        StartupError: REDIS_URL cannot be used.
    """
    if settings.redis_url is None:
        return LocalShelf(ttl_s)
    try:
        return RedisShelf(settings.redis_url.get_secret_value(), ttl_s)
    except ImportError as error:
        raise StartupError("REDIS_URL needs the extra redis: pip install 'vector-memory[redis]'.") from error
    except ValueError as error:
        raise StartupError("REDIS_URL must be such as redis://host:6379/0.") from error


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
    """A Redis server that several workers share. After it failed, nothing is found and nothing kept for a while."""

    def __init__(self, url: str, ttl_s: float) -> None:
        """Prepare a connection, which the first call opens.

        Raises:
            ImportError: the extra `redis` is not installed.
            ValueError: the URL is not one of Redis.
        """
        import redis

        self._failure: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
        self._ttl_ms = round(ttl_s * 1000)
        self._paused_until = 0.0

    def get(self, key: str) -> bytes | None:
        """Return what was put there, while its time lasts."""
        found = self._call(lambda: self._redis.get(key))
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self._call(lambda: self._redis.set(key, value, px=self._ttl_ms))

    def _call(self, command: Callable[[], Any]) -> Any:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return command()
        except self._failure as error:
            self._paused_until = time.monotonic() + REDIS_PAUSE_S
            log.warning("cache.unreachable", extra={"reason": type(error).__name__})
            return None
