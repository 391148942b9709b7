"""A group commit in the making: its records, and the state that they lead to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.journal.records import Mutation, Put, Record, RememberedReply, Removal
from memory_service.projection.applying import Projection
from memory_service.projection.catalog_schema import Version
from vector_memory.errors import Unavailable

_SHARED_FIELDS = ("content", "metadata", "created_at_ms", "expires_at_ms", "vectors")
"""Fields that a put and the version it makes have in common."""


@dataclass(slots=True, kw_only=True)
class Group:
    """Records that are planned and not yet written. Reads see the projection as if they were applied already."""

    projection: Projection
    tick: Callable[[], Stamp]
    now_ms: int
    records: list[Record] = field(default_factory=list)
    _versions: dict[tuple[str, str], Version | None] = field(default_factory=dict)
    _replies: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)

    def version(self, namespace: str, key: str) -> Version | None:
        """Return the memory under a key. The catalog is read once per key and group."""
        if (namespace, key) not in self._versions:
            self._versions[namespace, key] = self.projection.catalog.version(namespace, key)
        return self._versions[namespace, key]

    def vectors(self, namespace: str, version: Version) -> Vectors:
        """Return a version's vectors (windows, dim)."""
        if version.vectors is not None:
            return version.vectors
        index = self.projection.index(namespace)
        assert index is not None, "a memory in the catalog has vectors in its namespace's index"
        assert version.id is not None, "a planned version brings its vectors"
        return index.dense.vectors(version.id)

    def has_vectors(self, namespace: str, version: Version) -> bool:
        """Return whether a version's vectors can be read; the index of its namespace may be lost (`index_cache.py`)."""
        if version.vectors is not None:
            return True
        try:
            return self.projection.index(namespace) is not None
        except Unavailable:
            return False

    def reply(self, namespace: str, idempotency_key: str) -> tuple[str, Any] | None:
        """Return digest and result of the request that used this idempotency key, if there was one."""
        planned = self._replies.get((namespace, idempotency_key))
        return planned or self.projection.catalog.reply(namespace, idempotency_key)

    def write(self, stamp: Stamp, mutation: Mutation) -> None:
        """Add a record."""
        self.records.append(Record(stamp, mutation))
        # Later requests of the group see this record as if it were applied.
        match mutation:
            case Put() as put:
                shared = {name: getattr(put, name) for name in _SHARED_FIELDS}
                self._versions[put.namespace, put.key] = Version(id=None, stamp=stamp, **shared)
            case Removal(namespace, key):
                self._versions[namespace, key] = None
            case RememberedReply(namespace, key, digest, result):
                self._replies[namespace, key] = (digest, result)
