"""Preparing writes: check what a caller sends, and embed what needs new vectors.

This runs in the caller's thread, before the commit, so that many callers share the model's runs. What it reads of the
catalog may have changed by the time of the commit: planning then answers `Stale`, and the items are prepared again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memory_service import checks, metadata
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.embedding.queue import EmbeddingQueue
from memory_service.portable_vectors import imported
from memory_service.projection.catalog import Catalog
from vector_memory.errors import InvalidInput
from vector_memory.memories import NewMemory, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedMemory:
    """A checked memory on its way into the journal.

    Attributes:
        key: as sent, or derived from the content.
        metadata: canonical JSON text.
        ttl_ms: lifetime from the commit on; None leaves the end to `expires_at_ms`.
        created_at_ms: when the memory was first stored elsewhere. None keeps the time of the memory that it replaces;
            a new one takes the time of the commit.
        expires_at_ms: end of the lifetime; None means no end.
        vectors: (windows, dim) float32; None if the catalog holds the same content under this key, with its vectors.
    """

    namespace: str
    key: str
    content: str
    metadata: str
    ttl_ms: int | None
    created_at_ms: int | None
    expires_at_ms: int | None
    vectors: Vectors | None


class Preparer:
    """Turns the memories that callers send into `PreparedMemory`."""

    def __init__(
        self, catalog: Catalog, embedding: EmbeddingQueue, fingerprint: Fingerprint, now_ms: Callable[[], int]
    ) -> None:
        self._catalog = catalog
        self._embedding = embedding
        self._fingerprint = fingerprint
        self._now_ms = now_ms

    def check(self, memory: NewMemory) -> PreparedMemory | Refused:
        """Check one memory, and decode the vectors that it brings, if this service's embedder made them."""
        try:
            return _check(memory, self._fingerprint, self._now_ms())
        except InvalidInput as error:
            return Refused(namespace=memory.namespace, key=memory.key, error=error)

    def embed(self, memories: Sequence[PreparedMemory], *, reuse: bool = True) -> tuple[PreparedMemory, ...]:
        """Give every memory its vectors.

        Args:
            memories: checked ones.
            reuse: leave the vectors out where the catalog holds the same content under the same key.

        Raises:
            Unavailable: too many texts wait for the model.
        """
        held = self._catalog.contents({(it.namespace, it.key) for it in memories}) if reuse else {}
        # A key that comes twice is popped by its first item. The second one needs vectors, since the first may change
        # what the catalog holds.
        is_held = [held.pop((it.namespace, it.key), None) == it.content for it in memories]
        pairs = list(zip(memories, is_held, strict=True))
        # All texts of the batch are embedded together, so that they share the model's runs.
        texts = [it.content for it, known in pairs if not known and it.vectors is None]
        embedded = iter(self._embedding.windows(texts))
        return tuple(
            replace(it, vectors=None)
            if known
            else it
            if it.vectors is not None
            else replace(it, vectors=next(embedded))
            for it, known in pairs
        )


def _check(memory: NewMemory, fingerprint: Fingerprint, now_ms: int) -> PreparedMemory:
    if memory.ttl_seconds is not None and memory.expires_at is not None:
        raise InvalidInput("Send either ttl_seconds or expires_at, and not both.", field="expires_at")
    return PreparedMemory(
        namespace=memory.namespace,
        key=memory.key if memory.key is not None else checks.derived_key(memory.content),
        content=memory.content,
        metadata=metadata.canonical(memory.metadata),
        ttl_ms=None if memory.ttl_seconds is None else memory.ttl_seconds * 1000,
        created_at_ms=None if memory.created_at is None else checks.created_at(memory.created_at, now_ms),
        expires_at_ms=None if memory.expires_at is None else checks.expires_at(memory.expires_at, now_ms),
        vectors=imported(memory.embedding, fingerprint),
    )
