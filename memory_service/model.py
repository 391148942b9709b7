"""The values of the domain: what a memory is, and what the verbs take and give.

Times are whole milliseconds since the Unix epoch, UTC. A score is a cosine in [-1, 1], higher is better.
This module imports nothing of ours but the errors' words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from vector_memory.errors import ServiceError

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
Metadata: TypeAlias = Mapping[str, JSON]

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vectors of a memory as they are exported.

    Attributes:
        revision: of the embedder's fingerprint.
        vectors: base64 of little-endian float32, (windows, dim).
    """

    revision: str
    vectors: str


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory that a caller wants kept.

    Attributes:
        key: the caller's name for it; None derives one from the content, so a retried store is the same store.
        ttl_seconds: lifetime from the moment of storing; None keeps it until it is deleted.
        created_at: when it was first stored elsewhere (ISO 8601), for imports; None for now.
        expires_at: the end of its lifetime (ISO 8601), instead of `ttl_seconds`.
        embedding: its vectors; used where they are of this service's embedder, and made anew otherwise.
    """

    content: str
    key: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    metadata: Metadata | None = None
    ttl_seconds: int | None = None
    created_at: str | None = None
    expires_at: str | None = None
    embedding: Embedding | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """One remembered text, unique by (namespace, key)."""

    namespace: str
    key: str
    content: str
    metadata: Metadata
    created_at_ms: int
    updated_at_ms: int
    expires_at_ms: int | None


class EventKind(StrEnum):
    """What happened to a memory: a store made or changed it, a delete or the end of its time removed it."""

    STORED = "stored"
    UPDATED = "updated"
    DELETED = "deleted"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Event:
    """One event in a memory's history.

    Attributes:
        memory: as it was from then on; None when it was removed.
    """

    kind: EventKind
    at_ms: int
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that retrieve found.

    Attributes:
        score: what it is ranked by, higher is better: by meaning a cosine, by words the share of the query's words
            that it has, otherwise what `ranking.py` makes of both.
        dense: cosine of its best window, if meaning was asked for.
        lexical: share of the query's words, weighted by their rarity, if words were asked for.
        relevance: 0 to 1, how likely it answers the query (docs/retrieval.md), in hybrid mode.
    """

    memory: Memory
    score: float
    dense: float | None = None
    lexical: float | None = None
    relevance: float | None = None


class Mode(StrEnum):
    """What retrieve ranks by: meaning, words, or both with what stands around a memory."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Consistency(StrEnum):
    """What a read sees of other workers' writes: those of a moment ago, or every acknowledged one."""

    EVENTUAL = "eventual"
    STRONG = "strong"


class StoreStatus(StrEnum):
    """What a store did: made the memory, changed it, or found it just so."""

    STORED = "stored"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Stored:
    """A durable store."""

    namespace: str
    key: str
    status: StoreStatus
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """One item of a batch that was not stored, and why; the others are unaffected.

    Attributes:
        namespace: as sent; None when not even that can be told, as with the key.
    """

    namespace: str | None
    key: str | None
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Deleted:
    """A durable delete.

    Attributes:
        keys: what was deleted (or would be, on a dry run), in order of key.
        missing: keys that were asked for and are not there.
        receipt: tells in which files the bytes still are (`MemoryService.receipt`); None when nothing was deleted.
    """

    namespace: str
    keys: tuple[str, ...]
    missing: tuple[str, ...]
    dry_run: bool
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, newest first; `cursor` is None on the last page.

    Attributes:
        embeddings: of each memory, where they were asked for; None for one that was changed meanwhile.
    """

    memories: tuple[Memory, ...]
    cursor: str | None
    embeddings: tuple[Embedding | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Alike:
    """A memory and how alike it is.

    Attributes:
        score: the least cosine of the other's windows, each with its best match in this memory.
    """

    memory: Memory
    score: float


@dataclass(frozen=True, slots=True)
class Duplicated:
    """A memory and the earlier ones that say almost the same, most alike first."""

    memory: Memory
    alike: tuple[Alike, ...]


@dataclass(frozen=True, slots=True)
class DuplicatesPage:
    """One page of the report; `cursor` is None on the last. A page may hold none and not be the last.

    Attributes:
        examined: how many memories were looked at for this page.
    """

    duplicates: tuple[Duplicated, ...]
    examined: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where the bytes of what was deleted may still be.

    Attributes:
        files: relative to the data folder; none once the bytes are gone.
    """

    id: str
    deleted_at_ms: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction took away and what it left.

    Attributes:
        removed: journals that are gone.
        removed_bytes: their size.
        kept: journals that still hold bytes which a later compaction may take away, with the reason.
    """

    removed: tuple[str, ...]
    removed_bytes: int
    kept: tuple[tuple[str, str], ...]
