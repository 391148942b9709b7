"""What the write path is asked and what it answers: requests to the committer, and their outcomes."""

from dataclasses import dataclass
from typing import TypeAlias

from memory_service.embedding.embedder import Vectors
from memory_service.filters.grammar import Filter
from memory_service.model import DeleteOutcome
from memory_service.writing.preparing import PreparedMemory
from vector_memory.memories import Metadata, Refused, Stored


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's name for one request, and the digest that tells another request under the same name."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Store these memories (at least one), in order. Answered with `Stored` or `Refused` for each, or with `Stale`."""

    items: tuple[PreparedMemory, ...]
    idempotency: Idempotency | None = None

    @property
    def namespace(self) -> str:
        """The namespace that remembers the idempotency key; the request's digest covers the other namespaces."""
        return self.items[0].namespace


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Delete by key, or whatever matches the filter at the time of the commit. Answered with `DeleteOutcome`."""

    namespace: str
    keys: tuple[str, ...] | None
    filter: Filter | None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """Change the memory that the key has at the time of the commit. Answered like a store of one memory.

    Attributes:
        content: None keeps the text.
        embedded: a text and its vectors (windows, dim), used if this is the text after the update. None if the vectors
            that the memory has will do.
        metadata: changes, which `metadata.merged` merges into the metadata of the memory; None changes none.
        ttl_ms: lifetime from the commit on; None keeps the end of the lifetime.
    """

    namespace: str
    key: str
    content: str | None
    embedded: tuple[str, Vectors] | None
    metadata: Metadata | None
    ttl_ms: int | None
    idempotency: Idempotency | None = None


WriteRequest: TypeAlias = StoreRequest | DeleteRequest | UpdateRequest


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing was written: a content changed after its vectors were left out, or its vectors are lost.

    Prepare the request again, with vectors.
    """


WriteOutcome: TypeAlias = list[Stored | Refused] | DeleteOutcome | Stale
