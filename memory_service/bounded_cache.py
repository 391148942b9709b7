"""A cache with a bound on the size of all its values together, which evicts the least recently used first."""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Values by key, the least recently used first. Not thread-safe: the caller holds a lock.

    ```python
    cache = BoundedCache[str, bytes](size_max=1_000_000, size_of=len)
    cache.put("key", b"value")
    cache.get("key")  # b"value", or None after an eviction
    ```
    """

    def __init__(self, size_max: int, size_of: Callable[[V], int]) -> None:
        self._size_max = size_max
        self._size_of = size_of
        self._size = 0
        self._values: dict[K, V] = {}  # a dictionary keeps the order in which its keys came

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys, the least recently used first."""
        return iter(self._values)

    def get(self, key: K) -> V | None:
        """Return a value, which becomes the most recently used one."""
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value in place of the one under its key; one that is larger than the whole cache is not kept."""
        self.remove(key)
        if self._size_of(value) > self._size_max:
            return
        self._values[key] = value
        self._size += self._size_of(value)
        while self._size > self._size_max:
            self.remove(next(iter(self._values)))

    def remove(self, key: K) -> None:
        """Remove a value, if there is one."""
        value = self._values.pop(key, None)
        if value is not None:
            self._size -= self._size_of(value)
