"""What travels over HTTP and in jobs: request bodies as strict models, responses as plain dicts.

Types are checked here, strictly and without unknown fields; bounds are checked by the services, which every door
shares. The bounds in the schemas below only inform.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from memory_service.retrieval.request import RETRIEVALS_MAX
from pydantic import BaseModel, ConfigDict, Field, Json, SkipValidation, TypeAdapter, ValidationError

from gateway.observability.logs import request_id
from memory_service import checks, metadata
from memory_service.documents import names
from memory_service.documents.model import LibraryDocs, NewDocument, PlacedChunk
from memory_service.model import Deleted
from memory_service.retrieval import request as retrieval
from research import model as research
from vector_memory.documents import LIBRARIES_MAX, Document, DocumentsPage, Form, Library, Uploaded
from vector_memory.errors import InvalidInput, ServiceError, UnsupportedForm
from vector_memory.memories import (
    DEFAULT_NAMESPACE,
    Consistency,
    DuplicatesPage,
    Embedding,
    Event,
    Memory,
    NewMemory,
    Page,
    Receipt,
    Refused,
    Stored,
)
from vector_memory.research import Answer, Cited, Context, Failed, ResearchRequest, Step, Token
from vector_memory.retrieval import Condition, Hit, Mode, Retrieval, Retrieved
from vector_memory.times import iso_time

DELETED_KEYS_MAX = 1_000
"""Keys that the answer to a bulk delete lists; the count is always whole."""


def _shown(**bounds: int | float) -> dict[str, Any]:
    """Bounds for the schema, which the services enforce."""
    return dict(bounds)


Namespace = Annotated[
    str,
    Field(
        description="A hard wall between tenants.",
        json_schema_extra=_shown(minLength=1, maxLength=checks.NAMESPACE_CHARS_MAX),
    ),
]
Key = Annotated[
    str,
    Field(
        description="Your name for the memory, unique in its namespace.",
        json_schema_extra=_shown(minLength=1, maxLength=checks.KEY_CHARS_MAX),
    ),
]
DocumentId = Annotated[
    str,
    Field(
        description="Your name for the document, without `#`.",
        json_schema_extra=_shown(minLength=1, maxLength=names.ID_CHARS_MAX),
    ),
]
FilterObject = Annotated[
    dict[str, Any],
    Field(
        description="Conditions on metadata and times, such as "
        '{"lead": "acme", "importance": {"$gte": 0.5}, "created_at": {"$gte": "2026-09-01"}}. Operators: $eq $ne $gt '
        "$gte $lt $lte $in $nin $exists $contains $and $or $not.",
        examples=[{"kind": {"$in": ["call", "email"]}}],
    ),
]


ConsistencyWord = Annotated[
    Literal["eventual", "strong"],
    Field(description="strong: see every write acknowledged by any worker, not only those of a moment ago."),
]


AsOf = Annotated[
    str | None,
    Field(
        description="Look at the memories of that time (ISO 8601), at most as long ago as versions are kept.",
        examples=["2026-09-14T08:00:00Z"],
    ),
]


WantsReceipt = Annotated[
    bool, Field(description="Also say in which files the bytes of what was deleted still are, and until when.")
]


class Body(BaseModel):
    """A request body: strict types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class EmbeddingBody(Body):
    """The vectors of a memory."""

    revision: str = Field(description="Of the embedder's weights; equal ones make equal vectors.")
    vectors: str = Field(description="Base64 of little-endian float32 rows, one for each window of the content.")


class StoreBody(Body):
    """A memory to keep."""

    content: str = Field(
        description="The text to remember.",
        json_schema_extra=_shown(minLength=1, maxLength=checks.CONTENT_CHARS_MAX),
        examples=["Dana drinks oat flat white, never before ten."],
    )
    key: Key | None = Field(default=None, description="Without one, a key is derived from the content.")
    namespace: Namespace = DEFAULT_NAMESPACE
    metadata: dict[str, Any] | None = Field(
        default=None, description=f"Any JSON object of up to {metadata.BYTES_MAX} bytes.", examples=[{"lead": "acme"}]
    )
    ttl_seconds: int | None = Field(
        default=None,
        description="Lifetime from now; without it the memory stays.",
        json_schema_extra=_shown(minimum=1, maximum=checks.TTL_SECONDS_MAX),
    )
    created_at: str | None = Field(
        default=None, description="For imports: when it was first stored (ISO 8601); without it now."
    )
    expires_at: str | None = Field(
        default=None, description="End of its lifetime (ISO 8601), instead of `ttl_seconds`."
    )
    embedding: EmbeddingBody | None = Field(
        default=None,
        description="For imports: its vectors, as a listing with `embeddings` has them. They are used if they are of "
        "this service's embedder; otherwise the content is embedded as ever.",
    )

    def memory(self) -> NewMemory:
        """The domain's value."""
        embedding = (
            None
            if self.embedding is None
            else Embedding(revision=self.embedding.revision, vectors=self.embedding.vectors)
        )
        return NewMemory(**{**dict(self), "embedding": embedding})


class BatchBody(Body):
    """Memories to keep, each judged on its own."""

    memories: SkipValidation[list[StoreBody]] = Field(
        description="Each may name its own namespace.",
        json_schema_extra=_shown(minItems=1, maxItems=checks.BATCH_ITEMS_MAX),
    )
    namespace: Namespace = Field(default=DEFAULT_NAMESPACE, description="For the memories that name none.")


class UpdateBody(Body):
    """What to change about a memory; what is left out stays as it is."""

    content: str | None = Field(
        default=None,
        description="Replaces the text.",
        json_schema_extra=_shown(minLength=1, maxLength=checks.CONTENT_CHARS_MAX),
    )
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="Merged key by key at the top level; null removes a key.",
        examples=[{"status": "won", "draft": None}],
    )
    ttl_seconds: int | None = Field(
        default=None,
        description="A new lifetime from now; without it the end of its lifetime stays.",
        json_schema_extra=_shown(minimum=1, maximum=checks.TTL_SECONDS_MAX),
    )


class RetrieveBody(Body):
    """What to look for: a `query`, or what is `like` a memory."""

    query: str | None = Field(
        default=None,
        description="What to look for, in words.",
        json_schema_extra=_shown(minLength=1, maxLength=checks.QUERY_CHARS_MAX),
        examples=["what does Dana drink?"],
    )
    like: Key | None = Field(default=None, description="Instead of a query: find what is like the memory of this key.")
    k: int = Field(
        default=5,
        description="How many memories to return; as many as match if they are fewer.",
        json_schema_extra=_shown(minimum=1, maximum=checks.K_MAX),
    )
    namespace: Namespace = DEFAULT_NAMESPACE
    filter: FilterObject | None = None
    after: str | None = Field(
        default=None,
        description="Only what happened then or later (ISO 8601): by `event_time`, or else by when it was stored.",
        examples=["2026-09-01"],
    )
    before: str | None = Field(default=None, description="Only what happened earlier than then (ISO 8601).")
    mode: Literal["dense", "lexical", "hybrid"] | None = Field(
        default=None,
        description="Rank by meaning, by words, or by both and a memory's surroundings (default; dense with `like` and "
        "`as_of`).",
    )
    recency_half_life_days: float | None = Field(
        default=None,
        description="A score falls by half for every so many days of age.",
        json_schema_extra=_shown(minimum=retrieval.HALF_LIFE_DAYS_MIN, maximum=retrieval.HALF_LIFE_DAYS_MAX),
    )
    importance_weight: float = Field(
        default=0.0,
        description="So much of the metadata `importance` (0 to 1) is added to a score.",
        json_schema_extra=_shown(minimum=0, maximum=1),
    )
    diversity: float = Field(
        default=0.0,
        description="How much a hit that resembles those before it stands back (maximal marginal relevance).",
        json_schema_extra=_shown(minimum=0, maximum=1),
    )
    per_session: int | None = Field(
        default=None,
        description="At most so many memories of one session.",
        json_schema_extra=_shown(minimum=1, maximum=retrieval.PER_SESSION_MAX),
    )
    min_score: float | None = Field(
        default=None,
        description="Leave out memories with a lower score.",
        json_schema_extra=_shown(minimum=-1, maximum=1),
    )
    min_relevance: float | None = Field(
        default=None,
        description="Leave out memories that are less likely to answer the query; with none left, `abstained` is true "
        "and `nearest` shows what came nearest. In hybrid mode.",
        json_schema_extra=_shown(minimum=0, maximum=1),
    )
    max_tokens: int | None = Field(
        default=None,
        description="Return as many whole memories as fit, by an estimate that is rather too high; `truncated` tells "
        "whether some did not.",
        json_schema_extra=_shown(minimum=1, maximum=retrieval.MAX_TOKENS_MAX),
    )
    as_of: AsOf = None
    consistency: ConsistencyWord = "eventual"
    explain: bool = Field(default=False, description="Also tell how the answer came about.")
    why_not: Key | None = Field(default=None, description="Also tell why the memory with this key did not come back.")

    def retrieval(self) -> Retrieval:
        """The domain's value.

        Raises:
            InvalidInput: a value is out of bounds.
        """
        mode = None if self.mode is None else Mode(self.mode)
        return Retrieval(**{**dict(self), "mode": mode, "consistency": Consistency(self.consistency)})


class RetrieveBatchBody(Body):
    """Several things to look for, whose queries share the model's runs."""

    queries: list[RetrieveBody] = Field(json_schema_extra=_shown(minItems=1, maxItems=RETRIEVALS_MAX))

    def retrievals(self) -> list[Retrieval]:
        """The domain's values.

        Raises:
            InvalidInput: a value is out of bounds; the field says which of the queries has it.
        """
        return [_retrieval_at(at, body) for at, body in enumerate(self.queries)]


def _retrieval_at(at: int, body: RetrieveBody) -> Retrieval:
    try:
        return body.retrieval()
    except InvalidInput as error:
        raise InvalidInput(error.message, field=f"queries[{at}].{error.field}") from error


class DuplicatesBody(Body):
    """What to look through for near-duplicates."""

    namespace: Namespace = DEFAULT_NAMESPACE
    filter: FilterObject | None = None
    threshold: float = Field(
        default=0.95,
        description="How alike two memories are at least, as a cosine.",
        json_schema_extra=_shown(minimum=checks.DUPLICATES_THRESHOLD_MIN, maximum=1),
    )
    limit: int = Field(
        default=200,
        description="How many memories to look at for a page.",
        json_schema_extra=_shown(minimum=1, maximum=checks.LIMIT_MAX),
    )
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")


class DeleteBody(Body):
    """What to delete: either `keys` or whatever matches `filter`."""

    keys: list[Key] | None = Field(default=None, json_schema_extra=_shown(minItems=1, maxItems=checks.BATCH_ITEMS_MAX))
    filter: FilterObject | None = None
    namespace: Namespace = DEFAULT_NAMESPACE
    dry_run: bool = Field(default=False, description="Say what would be deleted and delete nothing.")
    receipt: WantsReceipt = False


class ResearchBody(Body):
    """A question to the memories."""

    query: str = Field(
        description="The question.",
        json_schema_extra=_shown(minLength=1, maxLength=research.QUERY_CHARS_MAX),
        examples=["Why did the deal with Acme stall?"],
    )
    namespace: Namespace = DEFAULT_NAMESPACE
    k: int = Field(
        default=8,
        description="How many memories to retrieve.",
        json_schema_extra=_shown(minimum=1, maximum=research.K_MAX),
    )
    filter: FilterObject | None = None
    min_score: float | None = Field(default=None, json_schema_extra=_shown(minimum=-1, maximum=1))
    max_tokens: int = Field(
        default=2_000,
        description="Tokens the answer may have.",
        json_schema_extra=_shown(minimum=research.MAX_TOKENS_MIN, maximum=research.MAX_TOKENS_MAX),
    )
    temperature: float = Field(default=0.7, json_schema_extra=_shown(minimum=0, maximum=research.TEMPERATURE_MAX))
    context_only: bool = Field(default=False, description="Return passages and the ready prompt; call no LLM.")
    strict: bool = Field(
        default=False, description="Leave out of the answer what no cited memory supports; `removed` tells what."
    )
    min_relevance: float | None = Field(
        default=None,
        description="Abstain, with `nearest`, when no memory is at least so likely to answer; default: the operator's.",
        json_schema_extra=_shown(minimum=0, maximum=1),
    )
    context_tokens: int | None = Field(
        default=None,
        description="Tokens that prompt and answer may have together; default: the model's window.",
        json_schema_extra=_shown(minimum=research.CONTEXT_TOKENS_MIN, maximum=research.CONTEXT_TOKENS_MAX),
    )
    passages: int | None = Field(
        default=None,
        description="Passages that the prompt may hold; default: as many as fit.",
        json_schema_extra=_shown(minimum=1, maximum=research.K_MAX),
    )
    timeout_s: float | None = Field(
        default=None,
        description="Seconds for everything; default: the operator's setting.",
        json_schema_extra=_shown(minimum=research.TIMEOUT_S_MIN, maximum=research.TIMEOUT_S_MAX),
    )
    on_llm_error: Literal["fail", "context"] = Field(
        default="fail", description="context: when the LLM fails, answer with the passages, `degraded` and `llm_error`."
    )
    remember: bool = Field(
        default=False, description="Store the answer as a memory, if the memories support it; `remembered` is its key."
    )
    include_model: bool = Field(
        default=False, description="Also read memories that a language model wrote (`provenance` is `model`)."
    )
    trace: bool = Field(
        default=False, description="Keep for an hour how the answer came about, under `trace_id` of the answer."
    )
    stream: bool = Field(
        default=False,
        description="Answer with server-sent events: `context`, then `token` for each piece of text, then `answer` "
        "or `error`.",
    )

    def request(self) -> ResearchRequest:
        """The domain's value.

        Raises:
            InvalidInput: a value is out of bounds.
        """
        return ResearchRequest(**{name: value for name, value in self if name != "stream"})


class StoreDocumentBody(Body):
    """A document to keep: `content`, or `content_base64`."""

    content: str | None = Field(default=None, description="The text of a document.", examples=["# Setup\\n\\nRun it."])
    content_base64: str | None = Field(default=None, description="Its bytes in base64, such as those of a PDF.")
    form: str | None = Field(
        default=None,
        description="What it is written in; by default text, and pdf for content_base64.",
        json_schema_extra={"enum": [form.value for form in Form]},
    )
    id: DocumentId | None = Field(default=None, description="Without one, an id is derived from the source.")
    namespace: Namespace = DEFAULT_NAMESPACE
    title: str | None = Field(
        default=None,
        description="By default its own.",
        json_schema_extra=_shown(minLength=1, maxLength=names.TITLE_CHARS_MAX),
    )
    library: str | None = Field(
        default=None,
        description="The library whose documentation it is part of.",
        json_schema_extra=_shown(minLength=1, maxLength=names.LIBRARY_CHARS_MAX),
    )
    topic: str | None = Field(
        default=None,
        description="What it is about.",
        json_schema_extra=_shown(minLength=1, maxLength=names.TOPIC_CHARS_MAX),
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description=f"Of all its chunks; up to {names.METADATA_BYTES_MAX} bytes of JSON."
    )

    def document(self) -> NewDocument:
        """The domain's value.

        Raises:
            InvalidInput: neither or both contents, or no base64.
            UnsupportedForm: of another form.
        """
        source: str | bytes
        match self.content, self.content_base64:
            case str() as source, None:
                form = self.form or Form.TEXT
            case None, str() as encoded:
                form, source = self.form or Form.PDF, _from_base64(encoded)
            case _:
                raise InvalidInput("Send either content or content_base64, and not both.", field="content")
        return new_document(source, form, **self.model_dump(include=set(_ABOUT_DOCUMENT)))


def _from_base64(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise InvalidInput("content_base64 is not base64.", field="content_base64") from error


_ABOUT_DOCUMENT = ("id", "namespace", "title", "library", "topic", "metadata")


def new_document(source: str | bytes, form: str, **about: Any) -> NewDocument:
    """A document as the domain has it.

    Raises:
        UnsupportedForm: of another form.
    """
    if form not in list(Form):
        raise UnsupportedForm(f"form must be one of {', '.join(Form)}.", field="form")
    about["metadata"] = about.get("metadata") or {}
    return NewDocument(source, Form(form), **about)


class DocumentPart(Body):
    """The fields of an upload beside its file."""

    form: str | None = None
    id: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    title: str | None = None
    library: str | None = None
    topic: str | None = None
    metadata: Json[dict[str, Any]] | None = None

    def document(self, source: bytes, form: str) -> NewDocument:
        """The domain's value."""
        return new_document(source, form, **self.model_dump(include=set(_ABOUT_DOCUMENT)))


class ListDocumentsQuery(BaseModel):
    """The query string of a listing of documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Namespace = DEFAULT_NAMESPACE
    library: str | None = Field(default=None, description="Only those of this library.")
    limit: int = Field(default=100, json_schema_extra=_shown(minimum=1, maximum=checks.LIMIT_MAX))
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")
    consistency: ConsistencyWord = "eventual"


class LibrariesQuery(BaseModel):
    """The query string of looking for a library."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, description="As you would say it; without one, all.", examples=["fastapi"])
    namespace: Namespace = DEFAULT_NAMESPACE
    limit: int = Field(default=LIBRARIES_MAX, json_schema_extra=_shown(minimum=1, maximum=LIBRARIES_MAX))
    consistency: ConsistencyWord = "eventual"


class DocsQuery(BaseModel):
    """The query string of reading a library."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = Field(default=None, description="A question or some words; without one, how documents begin.")
    tokens: int = Field(
        default=5_000,
        description="What may be returned, by an estimate that is rather too high.",
        json_schema_extra=_shown(minimum=1, maximum=retrieval.MAX_TOKENS_MAX),
    )
    namespace: Namespace = DEFAULT_NAMESPACE
    consistency: ConsistencyWord = "eventual"


class ReplayBody(Body):
    """Which trace is meant, beside its id."""

    namespace: Namespace = DEFAULT_NAMESPACE


class ListQuery(BaseModel):
    """The query string of a listing; the filter is JSON text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Namespace = DEFAULT_NAMESPACE
    filter: str | None = Field(default=None, description='JSON text, such as {"lead": "acme"}.')
    limit: int = Field(default=100, json_schema_extra=_shown(minimum=1, maximum=checks.LIMIT_MAX))
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")
    as_of: AsOf = None
    consistency: ConsistencyWord = "eventual"
    embeddings: bool = Field(default=False, description="For exports: also return each memory's vectors.")


class OneQuery(BaseModel):
    """The query string of a call about one memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Namespace = DEFAULT_NAMESPACE


class HistoryQuery(OneQuery):
    """The query string of reading what happened to one memory."""

    consistency: ConsistencyWord = "eventual"


class GetQuery(HistoryQuery):
    """The query string of reading one memory."""

    as_of: AsOf = None


class DeleteQuery(OneQuery):
    """The query string of deleting one memory."""

    receipt: WantsReceipt = False


_STORE_BODY = TypeAdapter(StoreBody)


def batch_item(raw: object, namespace: str) -> NewMemory | Refused:
    """One raw item of a batch; refused when it is malformed.

    Args:
        raw: whatever the caller sent.
        namespace: the batch's, for an item that names none.
    """
    if isinstance(raw, dict):
        raw = {"namespace": namespace, **raw}
    try:
        return _STORE_BODY.validate_python(raw).memory()
    except ValidationError as error:
        sent = raw if isinstance(raw, dict) else {}
        own, key = (value if isinstance(value := sent.get(name), str) else None for name in ("namespace", "key"))
        return Refused(namespace=own, key=key, error=invalid(error.errors(include_url=False)[0]))


def invalid(error: Mapping[str, Any], skip: int = 0) -> InvalidInput:
    """A pydantic error as ours, naming the field.

    Args:
        error: one of `ValidationError.errors()`.
        skip: leading parts of its location to leave out, such as "body".
    """
    field = _path(error["loc"][skip:])
    match error["type"]:
        case "missing":
            return InvalidInput(f"{field or 'The body'} is required.", field=field or None)
        case "extra_forbidden":
            return InvalidInput(f"{field} is not a field of this request; check its spelling.", field=field)
        case "model_type" | "model_attributes_type" | "dict_type":
            return InvalidInput(f"{field or 'The body'} must be a JSON object.", field=field or None)
    reason = str(error["msg"]).removeprefix("Input should be ")
    return InvalidInput(f"{field} must be {reason}." if reason != error["msg"] else f"{field}: {reason}.", field=field)


def _path(parts: Sequence[str | int]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".")


def error_body(error: ServiceError, request_id: str | None) -> dict[str, Any]:
    """An error for a caller."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.field is not None:
        body["field"] = error.field
    if request_id is not None:
        body["request_id"] = request_id
    return body


def memory_body(memory: Memory) -> dict[str, Any]:
    """A memory for a caller."""
    return {
        "key": memory.key,
        "namespace": memory.namespace,
        "content": memory.content,
        "metadata": memory.metadata,
        "created_at": iso_time(memory.created_at_ms),
        "updated_at": iso_time(memory.updated_at_ms),
        "expires_at": None if memory.expires_at_ms is None else iso_time(memory.expires_at_ms),
    }


def hit_body(hit: Hit) -> dict[str, Any]:
    """A retrieved memory with its score."""
    signals = {name: value for name, value in (("dense", hit.dense), ("lexical", hit.lexical)) if value is not None}
    relevance = {} if hit.relevance is None else {"relevance": round(hit.relevance, 4)}
    return {**memory_body(hit.memory), "score": hit.score, "scores": signals, **relevance}


def retrieved_body(found: Retrieved, asked: Retrieval) -> dict[str, Any]:
    """What a retrieve found."""
    body: dict[str, Any] = {"memories": [hit_body(hit) for hit in found.hits], "mode": found.mode.value}
    if asked.min_relevance is not None:
        body |= {"abstained": not found.hits, "nearest": [hit_body(hit) for hit in found.nearest]}
    if asked.max_tokens is not None:
        body |= {"tokens": found.tokens, "truncated": found.truncated}
    if found.explanation is not None:
        body["explanation"] = explanation_body(found)
    return body


def explanation_body(found: Retrieved) -> dict[str, Any]:
    """How an answer came about; the signals by the keys of the hits."""
    assert found.explanation is not None
    body = asdict(found.explanation)
    keys = [hit.memory.key for hit in found.hits]
    body["signals"] = [{"key": key, **signals} for key, signals in zip(keys, found.explanation.signals, strict=True)]
    body["filter"] = None if found.explanation.filter is None else _condition(found.explanation.filter)
    return body


def _condition(condition: Condition) -> dict[str, Any]:
    shown: dict[str, Any] = {"condition": condition.shown, "matches": condition.matches}
    return {**shown, "parts": [_condition(part) for part in condition.parts]} if condition.parts else shown


def stored_body(result: Stored | Refused) -> dict[str, Any]:
    """The result of a store, or of one item of a batch."""
    match result:
        case Stored():
            return {
                "key": result.key,
                "namespace": result.namespace,
                "status": result.status.value,
                "created_at": iso_time(result.created_at_ms),
                "updated_at": iso_time(result.updated_at_ms),
            }
        case Refused(namespace, key, error):
            sent = {"key": _sendable(key), "namespace": _sendable(namespace)}
            return {**sent, "status": "refused", "error": error_body(error, None)}


def _sendable(text: str | None) -> str | None:
    """A text as it was sent; None where half of a surrogate pair makes it none."""
    return None if text is None or text != text.encode("utf-8", "replace").decode() else text


def page_body(page: Page) -> dict[str, Any]:
    """One page of a listing."""
    memories = [memory_body(memory) for memory in page.memories]
    if page.embeddings is not None:
        for body, embedding in zip(memories, page.embeddings, strict=True):
            body["embedding"] = None if embedding is None else asdict(embedding)
    return {"memories": memories, "next_cursor": page.cursor}


def duplicates_body(page: DuplicatesPage) -> dict[str, Any]:
    """One page of near-duplicates."""
    found = [
        {
            **memory_body(each.memory),
            "alike": [{**memory_body(other.memory), "score": other.score} for other in each.alike],
        }
        for each in page.duplicates
    ]
    return {"duplicates": found, "examined": page.examined, "next_cursor": page.cursor}


def deleted_body(deleted: Deleted) -> dict[str, Any]:
    """The outcome of a bulk delete."""
    return {
        "namespace": deleted.namespace,
        "deleted": len(deleted.keys),
        "keys": list(deleted.keys[:DELETED_KEYS_MAX]),
        "keys_truncated": len(deleted.keys) > DELETED_KEYS_MAX,
        "missing": list(deleted.missing),
        "dry_run": deleted.dry_run,
    }


def history_body(key: str, namespace: str, events: Sequence[Event]) -> dict[str, Any]:
    """What happened to a memory, newest first; an event that left a memory shows it as it was from then on."""
    return {"key": key, "namespace": namespace, "events": [_event(event) for event in events]}


def _event(event: Event) -> dict[str, Any]:
    shown: dict[str, Any] = {"event": event.kind.value, "at": iso_time(event.at_ms)}
    if event.memory is not None:
        shown |= {name: value for name, value in memory_body(event.memory).items() if name not in ("key", "namespace")}
    return shown


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    """Where the bytes of what was deleted still are."""
    return {
        "id": receipt.id,
        "deleted_at": iso_time(receipt.deleted_at_ms),
        "bytes": "pending" if receipt.files else "gone",
        "files": list(receipt.files),
        "message": _BYTES_PENDING if receipt.files else _BYTES_GONE,
    }


_BYTES_PENDING = (
    "No call returns what was deleted. These files may still hold its bytes until a compaction: POST /v1/admin/compact "
    "replaces them now, save for journals of other workers, which go when they have been silent for a day."
)
_BYTES_GONE = "No call returns what was deleted, and no file of the data folder holds its bytes."


def step_body(step: Step) -> tuple[str, dict[str, Any]]:
    """A step of a streamed research: the event's name, and its data."""
    match step:
        case Context():
            return "context", asdict(step)
        case Token(text):
            return "token", {"text": text}
        case Cited(citation):
            return "citation", asdict(citation)
        case Answer():
            return "answer", answer_body(step)
        case Failed(error):
            return "error", {"error": error_body(error, request_id.get())}


def answer_body(answer: Answer) -> dict[str, Any]:
    """The outcome of research; `prompt` only when it was asked for."""
    body = asdict(answer)
    if answer.prompt is None:
        del body["prompt"]
    return body


def document_body(document: Document) -> dict[str, Any]:
    """A document for a caller."""
    body = asdict(document)
    del body["is_complete"], body["updated_at_ms"]
    body["state"] = "complete" if document.is_complete else "partial"
    body["updated_at"] = None if document.updated_at_ms is None else iso_time(document.updated_at_ms)
    return body


def uploaded_body(uploaded: Uploaded) -> dict[str, Any]:
    """What an upload did, in chunks."""
    counts = {name: getattr(uploaded, name) for name in ("stored", "updated", "unchanged", "deleted")}
    return {**document_body(uploaded.document), **counts}


def placed_body(document: Document, chunks: Sequence[PlacedChunk]) -> dict[str, Any]:
    """A document and where its chunks stand; their texts are in their memories."""
    shown = []
    for chunk in chunks:
        metadata = chunk.memory.metadata
        at = {"key": chunk.memory.key, "number": chunk.number, "start": chunk.start, "end": chunk.end}
        page = {"page": metadata["page"]} if "page" in metadata else {}
        shown.append({**at, "headings": metadata.get("headings", []), **page})
    return {**document_body(document), "parts": shown}


def documents_body(page: DocumentsPage) -> dict[str, Any]:
    """One page of a listing of documents."""
    return {"documents": [document_body(document) for document in page.documents], "next_cursor": page.cursor}


def libraries_body(libraries: Sequence[Library]) -> dict[str, Any]:
    """Libraries that a name may mean, best first."""
    return {"libraries": [asdict(library) for library in libraries]}


def docs_body(docs: LibraryDocs) -> dict[str, Any]:
    """What a library says, in reading order."""
    chunks = [
        {
            "key": hit.memory.key,
            "document_id": hit.memory.metadata.get("document_id"),
            "title": hit.memory.metadata.get("title"),
            "headings": hit.memory.metadata.get("headings", []),
            "content": hit.memory.content,
            "score": hit.score,
        }
        for hit in docs.hits
    ]
    return {"library": docs.library, "chunks": chunks, "tokens": docs.tokens, "truncated": docs.truncated}
