"""Memories: the requests and answers of store, update, get, list, history, delete, receipts and near-duplicates.

Times are milliseconds since the Unix epoch in Python (`created_at_ms`) and ISO 8601 in UTC on the wire (`created_at`).
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, SkipValidation, WithJsonSchema

from vector_memory.errors import InvalidInput, ServiceError, error_of
from vector_memory.fields import JSON, BoundedText, Items, Number, Request, Timestamp, Value, WholeNumber, is_none

Metadata: TypeAlias = Mapping[str, JSON]

DEFAULT_NAMESPACE = "default"

NAMESPACE = BoundedText(128, "use a shorter one")
KEY = BoundedText(512, "use a shorter one")
CONTENT = BoundedText(100_000, "store a longer text in parts", blank="send the text to remember")
"""Bounds of a memory's text. 100,000 characters are about 100 windows of the model and take some seconds to embed. A
longer text can be stored as a document, which is kept in chunks."""

METADATA_BYTES_MAX = 16_384
"""Bound of the metadata as JSON in UTF-8. Metadata hold labels and facts; long text belongs into the content."""

TTL_SECONDS = WholeNumber(1, 10 * 365 * 24 * 3600)
LIMIT = WholeNumber(1, 1_000)
BATCH = Items(1_000)
"""Bounds of a batch. Embedding 1,000 long texts takes about as long as a client waits."""

DUPLICATES_THRESHOLD = Number(0.5, 1)
"""Bounds of the cosine from which two memories count as near-duplicates. Below 0.5 they have little in common."""

DELETED_KEYS_MAX = 1_000
"""Most keys that the answer to a bulk delete lists. Its count is always complete."""

Namespace = Annotated[str, NAMESPACE, Field(description="A hard wall between tenants.")]
Key = Annotated[str, KEY, Field(description="Your name for the memory, unique in its namespace.")]
Filter = Annotated[
    Mapping[str, Any],
    Field(
        description="Conditions on metadata and times, such as "
        '{"lead": "acme", "importance": {"$gte": 0.5}, "created_at": {"$gte": "2026-09-01"}}. Operators: $eq $ne $gt '
        "$gte $lt $lte $in $nin $exists $contains $and $or $not.",
        examples=[{"kind": {"$in": ["call", "email"]}}],
    ),
]
AsOf = Annotated[
    str,
    Field(
        description="Show the memories as they were at this time (ISO 8601), at most as long ago as versions are kept.",
        examples=["2026-09-14T08:00:00Z"],
    ),
]
WantsReceipt = Annotated[
    bool, Field(description="Also report which files still hold the bytes of what was deleted, and until when.")
]
Cursor = Annotated[str, Field(description="`next_cursor` of the page before.")]
TtlSeconds = Annotated[int, TTL_SECONDS]


class Consistency(StrEnum):
    """What a read sees of other workers' writes: all but those of the last moment, or every acknowledged one."""

    EVENTUAL = "eventual"
    STRONG = "strong"


ConsistencyWord = Annotated[
    Consistency,
    Field(
        strict=False,
        description="`strong` sees every write that any worker acknowledged; `eventual` may miss the last moment's.",
    ),
]


class StoreStatus(StrEnum):
    """What a store did: it made the memory, changed it, or found it unchanged."""

    STORED = "stored"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


class EventKind(StrEnum):
    """What happened to a memory: a store made or changed it; a delete or the end of its lifetime removed it."""

    STORED = "stored"
    UPDATED = "updated"
    DELETED = "deleted"
    EXPIRED = "expired"


class Embedding(Value):
    """The vectors of a memory, as exports carry them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    revision: str = Field(description="Revision of the embedder's weights; equal revisions make equal vectors.")
    vectors: str = Field(description="Base64 of little-endian float32 rows, one for each window of the content.")


# -- requests ----------------------------------------------------------------------------------------------------------


class NewMemory(Request):
    """A memory to store."""

    content: Annotated[str, CONTENT] = Field(
        description="The text to remember.", examples=["Dana drinks oat flat white, never before ten."]
    )
    key: Key | None = Field(default=None, description="Without a key, one is derived from the content.")
    namespace: Namespace = DEFAULT_NAMESPACE
    metadata: Mapping[str, Any] | None = Field(
        default=None, description=f"Any JSON object of up to {METADATA_BYTES_MAX} bytes.", examples=[{"lead": "acme"}]
    )
    ttl_seconds: TtlSeconds | None = Field(
        default=None, description="Lifetime in seconds from now; without it the memory stays."
    )
    created_at: str | None = Field(
        default=None, description="For imports: when the memory was first stored (ISO 8601); default: now."
    )
    expires_at: str | None = Field(
        default=None, description="End of the lifetime (ISO 8601), instead of `ttl_seconds`."
    )
    embedding: Embedding | None = Field(
        default=None,
        description="For imports: the memory's vectors, as a listing with `embeddings` returns them. They are used if "
        "this service has the same embedder; otherwise the content is embedded.",
    )


class Batch(Request):
    """Memories to store, each judged on its own."""

    memories: SkipValidation[list[NewMemory]] = Field(
        description="Each may name its own namespace.", json_schema_extra=BATCH.shown()
    )
    namespace: Namespace = Field(default=DEFAULT_NAMESPACE, description="Namespace of the memories that name none.")


class Update(Request):
    """What to change about a memory; a field that is left out stays as it is."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE
    content: Annotated[str, CONTENT] | None = Field(default=None, description="Replaces the text.")
    metadata: Mapping[str, Any] | None = Field(
        default=None,
        description="Merged key by key at the top level; null removes a key.",
        examples=[{"status": "won", "draft": None}],
    )
    ttl_seconds: TtlSeconds | None = Field(
        default=None, description="A new lifetime in seconds from now; without it the lifetime stays."
    )


class Get(Request):
    """Which memory to read."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE
    as_of: AsOf | None = None
    consistency: ConsistencyWord = Consistency.EVENTUAL


class GetHistory(Request):
    """Which memory's history to read."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE
    consistency: ConsistencyWord = Consistency.EVENTUAL


class Listing(Request):
    """Which memories to list."""

    namespace: Namespace = DEFAULT_NAMESPACE
    filter: Filter | None = None
    limit: Annotated[int, LIMIT] = Field(default=100, description="Memories on a page.")
    cursor: Cursor | None = None
    as_of: AsOf | None = None
    consistency: ConsistencyWord = Consistency.EVENTUAL
    embeddings: bool = Field(default=False, description="For exports: also return each memory's vectors.")


class Delete(Request):
    """Which memory to delete."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE
    receipt: WantsReceipt = False


class BulkDelete(Request):
    """Which memories to delete: either those of `keys`, or all that match `filter`."""

    keys: Annotated[list[str], BATCH] | None = Field(default=None, description="Keys of up to 1,000 memories.")
    filter: Filter | None = None
    namespace: Namespace = DEFAULT_NAMESPACE
    dry_run: bool = Field(default=False, description="Report what would be deleted, and delete nothing.")
    receipt: WantsReceipt = False


class Redeem(Request):
    """Which receipt to redeem."""

    receipt: str = Field(description="The `id` of a delete's receipt.")


class DuplicateSearch(Request):
    """Which memories to examine for near-duplicates."""

    namespace: Namespace = DEFAULT_NAMESPACE
    filter: Filter | None = None
    threshold: Annotated[float, DUPLICATES_THRESHOLD] = Field(
        default=0.95, description="Least cosine of two memories that count as near-duplicates."
    )
    limit: Annotated[int, LIMIT] = Field(default=200, description="Memories to examine for a page.")
    cursor: Cursor | None = None


# -- answers -----------------------------------------------------------------------------------------------------------


class Memory(Value):
    """One remembered text, unique by namespace and key."""

    key: str
    namespace: str
    content: str
    metadata: dict[str, Any]
    created_at_ms: Timestamp = Field(alias="created_at", description="When it was first stored.")
    updated_at_ms: Timestamp = Field(alias="updated_at", description="When it was last changed.")
    expires_at_ms: Timestamp | None = Field(alias="expires_at", description="End of its lifetime; null: it stays.")
    embedding: Embedding | None = Field(
        default=None, exclude_if=is_none, description="Its vectors, in a listing that asks for them."
    )

    @property
    def memory(self) -> "Memory":
        """Return this value itself. Hits and near-duplicates are memories with more fields."""
        return self


class Page(Value):
    """One page of a listing, newest first."""

    memories: tuple[Memory, ...]
    cursor: str | None = Field(alias="next_cursor", description="Cursor of the next page; null on the last page.")

    @property
    def embeddings(self) -> tuple[Embedding | None, ...]:
        """The vectors of each memory, in a listing that asks for them."""
        return tuple(memory.embedding for memory in self.memories)


class Stored(Value):
    """A durable store or update."""

    key: str
    namespace: str
    status: StoreStatus
    created_at_ms: Timestamp = Field(alias="created_at")
    updated_at_ms: Timestamp = Field(alias="updated_at")


def _error_body(error: ServiceError) -> dict[str, Any]:
    return error.body()


ErrorBody = Annotated[
    Any,
    BeforeValidator(lambda sent: sent if isinstance(sent, ServiceError) else error_of(sent)),
    PlainSerializer(_error_body, return_type=dict[str, Any]),
    WithJsonSchema(ServiceError.SCHEMA),
]
"""An error of `vector_memory.errors` in Python, and an object with `code`, `message` and `field` in JSON."""


def _as_utf8(text: str | None) -> str | None:
    """Return a text that the caller sent, or None if it has no UTF-8 form."""
    return None if text is None or text != text.encode("utf-8", "replace").decode() else text


Echo = Annotated[str | None, PlainSerializer(_as_utf8, return_type=str | None)]


class Refused(Value):
    """One item of a batch that was not stored, and why; the others are unaffected."""

    key: Echo = Field(description="As sent; null if it could not be read.")
    namespace: Echo = Field(description="As sent; null if it could not be read.")
    status: Literal["refused"] = "refused"
    error: ErrorBody


class StoredBatch(Value):
    """The results of a batch, in the order of the request, and how many there are of each status."""

    results: tuple[Stored | Refused, ...]
    stored: int
    updated: int
    unchanged: int
    refused: int

    @classmethod
    def of(cls, results: Sequence[Stored | Refused]) -> Self:
        """Build the answer to a batch from its results, and count them by status."""
        counts = dict.fromkeys(("stored", "updated", "unchanged", "refused"), 0)
        for result in results:
            counts[str(result.status)] += 1
        return cls(results=tuple(results), **counts)


class Event(Value):
    """One event in a memory's history. The other fields show the memory as it was from then on."""

    kind: EventKind = Field(alias="event")
    at_ms: Timestamp = Field(alias="at")
    content: str | None = Field(default=None, exclude_if=is_none, description="Absent if the memory was removed.")
    metadata: dict[str, Any] | None = Field(default=None, exclude_if=is_none)
    created_at_ms: Timestamp | None = Field(default=None, alias="created_at", exclude_if=is_none)
    updated_at_ms: Timestamp | None = Field(default=None, alias="updated_at", exclude_if=is_none)
    expires_at_ms: Timestamp | None = Field(default=None, alias="expires_at", exclude_if=is_none)

    @classmethod
    def of(cls, memory: Memory) -> Self:
        """Build the event that gave a memory its present state: its store, or its last update."""
        kind = EventKind.STORED if memory.created_at_ms == memory.updated_at_ms else EventKind.UPDATED
        fields = {name: value for name, value in memory if name not in ("namespace", "key", "embedding")}
        return cls(kind=kind, at_ms=memory.updated_at_ms, **fields)


class History(Value):
    """What happened to a memory since it was last deleted, newest first."""

    key: str
    namespace: str
    events: tuple[Event, ...]


class Receipt(Value):
    """Which files may still hold the bytes of what was deleted."""

    id: str
    deleted_at_ms: Timestamp = Field(alias="deleted_at")
    bytes: Literal["pending", "gone"]
    files: tuple[str, ...] = Field(description="Relative to the data folder; empty once the bytes are gone.")
    message: str

    _MESSAGES: ClassVar = {
        "pending": "No call returns what was deleted. These files may still hold its bytes until a compaction: "
        "POST /v1/admin/compact replaces them now, except journals of other workers, which go when they have been "
        "silent for a day.",
        "gone": "No call returns what was deleted, and no file of the data folder holds its bytes.",
    }

    @classmethod
    def of(cls, *, id: str, deleted_at_ms: int, files: Sequence[str]) -> Self:
        """Build the receipt of a delete from the files that still hold its bytes."""
        state: Literal["pending", "gone"] = "pending" if files else "gone"
        return cls(id=id, deleted_at_ms=deleted_at_ms, bytes=state, files=tuple(files), message=cls._MESSAGES[state])


OptionalReceipt = Annotated[
    Receipt | None,
    Field(exclude_if=is_none, description="Present if it was asked for and something was deleted."),
]


class Deleted(Value):
    """The durable delete of one memory."""

    key: str
    namespace: str
    status: Literal["deleted"] = "deleted"
    receipt: OptionalReceipt = None

    @property
    def count(self) -> int:
        """The number of deleted memories, under the name that a bulk delete uses."""
        return 1

    @property
    def keys(self) -> tuple[str, ...]:
        """The deleted keys, under the name that a bulk delete uses."""
        return (self.key,)


class Deletion(Value):
    """A durable bulk delete, or with `dry_run` what it would delete."""

    namespace: str
    count: int = Field(alias="deleted", description="Memories deleted.")
    keys: tuple[str, ...] = Field(description=f"Their keys in order, at most {DELETED_KEYS_MAX:,}.")
    keys_truncated: bool = Field(default=False, description="There are more keys than `keys` lists.")
    missing: tuple[str, ...] = Field(default=(), description="Keys that were sent and are not there.")
    dry_run: bool = False
    receipt: OptionalReceipt = None


class Alike(Memory):
    """A memory that resembles another."""

    score: float = Field(
        description="The least cosine of this memory's windows, each with its best match in the other memory."
    )


class Duplicated(Memory):
    """A memory and the earlier ones that say almost the same, most alike first."""

    alike: tuple[Alike, ...]


class DuplicatesPage(Value):
    """One page of the report on near-duplicates. A page may be empty without being the last."""

    duplicates: tuple[Duplicated, ...]
    examined: int = Field(description="Memories examined for this page.")
    cursor: str | None = Field(alias="next_cursor", description="Cursor of the next page; null on the last page.")


def either(first: object, second: object, names: tuple[str, str]) -> None:
    """Require exactly one of two fields.

    Raises:
        InvalidInput: both or neither were sent.
    """
    if (first is None) == (second is None):
        raise InvalidInput(f"Send either {names[0]} or {names[1]}, and not both.", field=names[0])
