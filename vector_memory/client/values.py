"""What the operations return, and how it is read from the wire's JSON.

Most are the domain's own values. Those here stand for what only a door tells. Unknown fields are passed over, so that a
client understands a newer service.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypedDict

from memory_service.documents.model import Document, DocumentsPage, Library, Uploaded
from memory_service.filters.grammar import time_ms
from memory_service.model import (
    JSON,
    Alike,
    Compacted,
    Consistency,
    Duplicated,
    DuplicatesPage,
    Embedding,
    Event,
    EventKind,
    Hit,
    Memory,
    Mode,
    Page,
    Receipt,
    Refused,
    Stored,
    StoreStatus,
)
from memory_service.retrieval.request import Condition, Explanation, Retrieved, WhyNot
from research.events import Cited, Context, Failed, Token
from research.model import Answer, Citation, LLMFailure, Miss, Omitted, Passage
from vector_memory.client.requests import Response
from vector_memory.client.server_sent import Event as Sent
from vector_memory.errors import ServiceError


class RetrieveFields(TypedDict, total=False):
    """The fields of a `Retrieval` beside its query; see there for their meaning and bounds."""

    like: str | None
    namespace: str
    k: int
    filter: Mapping[str, JSON] | None
    after: str | None
    before: str | None
    mode: Mode | str | None
    recency_half_life_days: float | None
    importance_weight: float
    diversity: float
    per_session: int | None
    min_score: float | None
    min_relevance: float | None
    max_tokens: int | None
    as_of: str | None
    consistency: Consistency | str
    explain: bool
    why_not: str | None


class ResearchFields(TypedDict, total=False):
    """The fields of a `ResearchRequest` beside its query; see there for their meaning and bounds."""

    namespace: str
    k: int
    filter: Mapping[str, JSON] | None
    min_score: float | None
    max_tokens: int
    temperature: float
    context_only: bool
    strict: bool
    min_relevance: float | None
    context_tokens: int | None
    passages: int | None
    timeout_s: float | None
    on_llm_error: Literal["fail", "context"]
    remember: bool
    include_model: bool
    trace: bool


ResearchEvent: TypeAlias = Context | Token | Cited | Answer
"""What a streamed research tells; where it fails, the error is raised."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete deleted.

    Attributes:
        count: how many.
        keys: of them, the first 1,000 in order of key; none of a document's chunks.
        missing: keys that were asked for and are not there.
        dry_run: nothing was deleted; this is what would be.
        receipt: in which files the bytes still are, where it was asked for and something was deleted.
    """

    namespace: str
    count: int
    keys: tuple[str, ...]
    missing: tuple[str, ...] = ()
    dry_run: bool = False
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How the service is.

    Attributes:
        status: `healthy`, or `degraded` when not all that was written can be read.
        problems: why it is degraded.
        model: the embedder's usual name.
    """

    status: str
    problems: tuple[str, ...]
    version: str
    memories: int
    namespaces: int
    model: str
    is_llm_configured: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """How much there is.

    Attributes:
        namespaces: memories of each, by name.
        model: the embedder's usual name.
        revision: sha256 of its weights, in hex; vectors of equal revisions can be exchanged.
    """

    memories: int
    namespaces: Mapping[str, int]
    model: str
    revision: str
    dim: int


@dataclass(frozen=True, slots=True)
class Part:
    """Where a chunk of a document stands.

    Attributes:
        key: of the memory that has its text.
        number: from 1, in reading order.
        start, end: its span, in characters of the extracted text; exact when the document is complete.
        headings: of the sections it stands in, outermost first.
        page: of a PDF.
    """

    key: str
    number: int
    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, slots=True)
class PlacedDocument:
    """A document and its chunks, in reading order."""

    document: Document
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class DocsChunk:
    """What a library says in one place."""

    key: str
    document_id: str
    title: str | None
    headings: tuple[str, ...]
    content: str
    score: float


@dataclass(frozen=True, slots=True)
class Docs:
    """Chunks of a library, in reading order within each document, the best document first.

    Attributes:
        tokens: an estimate that is rather too high.
        truncated: more would have been returned with a larger budget.
    """

    library: str
    chunks: tuple[DocsChunk, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A tool that can be called.

    Attributes:
        input_schema: JSON Schema of its parameters.
        hints: `read_only`, `destructive`, `idempotent`, `open_world`.
        output_schema: of its result, where there is one.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    hints: Mapping[str, bool]
    output_schema: Mapping[str, Any] | None = None


def memory(body: Mapping[str, Any]) -> Memory:
    """A memory."""
    expires_at = body["expires_at"]
    return Memory(
        body["namespace"],
        body["key"],
        body["content"],
        body["metadata"],
        time_ms(body["created_at"], "created_at"),
        time_ms(body["updated_at"], "updated_at"),
        None if expires_at is None else time_ms(expires_at, "expires_at"),
    )


def hit(body: Mapping[str, Any]) -> Hit:
    """A retrieved memory."""
    signals = body.get("scores", {})
    return Hit(memory(body), body["score"], signals.get("dense"), signals.get("lexical"), body.get("relevance"))


def retrieved(body: Mapping[str, Any]) -> Retrieved:
    """What a retrieve found."""
    return Retrieved(
        hits=tuple(hit(each) for each in body["memories"]),
        mode=Mode(body["mode"]),
        nearest=tuple(hit(each) for each in body.get("nearest", ())),
        truncated=body.get("truncated", False),
        tokens=body.get("tokens"),
        explanation=_explanation(body["explanation"]) if "explanation" in body else None,
    )


def _explanation(body: Mapping[str, Any]) -> Explanation:
    why_not = body["why_not"]
    return Explanation(
        meaning=body["meaning"],
        terms=tuple(body["terms"]),
        speakers=tuple(body["speakers"]),
        is_about_when=body["is_about_when"],
        coherence=body["coherence"],
        memories=body["memories"],
        candidates=body["candidates"],
        filter=None if body["filter"] is None else _condition(body["filter"]),
        signals=tuple({name: value for name, value in each.items() if name != "key"} for each in body["signals"]),
        why_not=None
        if why_not is None
        else WhyNot(why_not["key"], why_not["reason"], why_not["message"], why_not["rank"], why_not["signals"]),
    )


def _condition(body: Mapping[str, Any]) -> Condition:
    return Condition(body["condition"], body["matches"], tuple(_condition(part) for part in body.get("parts", ())))


def stored(body: Mapping[str, Any]) -> Stored:
    """A durable store."""
    created_at_ms, updated_at_ms = time_ms(body["created_at"], "created_at"), time_ms(body["updated_at"], "updated_at")
    return Stored(body["namespace"], body["key"], StoreStatus(body["status"]), created_at_ms, updated_at_ms)


def stored_or_refused(body: Mapping[str, Any]) -> Stored | Refused:
    """One item of a batch."""
    if body["status"] != "refused":
        return stored(body)
    from vector_memory.client.errors import failure

    error: ServiceError = failure(Response(422, {"error": body["error"]}))
    return Refused(body["namespace"], body["key"], error)


def page(body: Mapping[str, Any], *, embeddings: bool) -> Page:
    """One page of a listing."""
    memories = tuple(memory(each) for each in body["memories"])
    vectors = tuple(_embedding(each.get("embedding")) for each in body["memories"]) if embeddings else None
    return Page(memories, body["next_cursor"], vectors)


def _embedding(body: Mapping[str, Any] | None) -> Embedding | None:
    return None if body is None else Embedding(body["revision"], body["vectors"])


def duplicates(body: Mapping[str, Any]) -> DuplicatesPage:
    """One page of near-duplicates."""
    found = tuple(
        Duplicated(memory(each), tuple(Alike(memory(other), other["score"]) for other in each["alike"]))
        for each in body["duplicates"]
    )
    return DuplicatesPage(found, body["examined"], body["next_cursor"])


def event(body: Mapping[str, Any], of: Mapping[str, Any]) -> Event:
    """One event in the history of a memory."""
    left = memory({"key": of["key"], "namespace": of["namespace"], **body}) if "content" in body else None
    return Event(EventKind(body["event"]), time_ms(body["at"], "at"), left)


def receipt(body: Mapping[str, Any]) -> Receipt:
    """Where bytes still are."""
    return Receipt(body["id"], time_ms(body["deleted_at"], "deleted_at"), tuple(body["files"]))


def deletion_of_document(body: Mapping[str, Any]) -> Deletion:
    """The outcome of deleting a document, counted in chunks."""
    return Deletion(body["namespace"], body["chunks"], (), receipt=_receipt(body))


def deletion_of_one(body: Mapping[str, Any]) -> Deletion:
    """The outcome of deleting one memory."""
    return Deletion(body["namespace"], 1, (body["key"],), receipt=_receipt(body))


def deletion(body: Mapping[str, Any]) -> Deletion:
    """The outcome of deleting many."""
    keys, missing = tuple(body["keys"]), tuple(body["missing"])
    return Deletion(body["namespace"], body["deleted"], keys, missing, body["dry_run"], _receipt(body))


def _receipt(body: Mapping[str, Any]) -> Receipt | None:
    return receipt(body["receipt"]) if body.get("receipt") else None


_OF_ANSWER: Mapping[str, type[Any]] = {
    "citations": Citation,
    "context": Passage,
    "omitted": Omitted,
    "nearest": Miss,
}


def answer(body: Mapping[str, Any]) -> Answer:
    """What research found; what a newer service tells besides is left out."""
    values = {name: _frozen(value) for name, value in _known(body, Answer).items()}
    for name, kind in _OF_ANSWER.items():
        values[name] = tuple(kind(**_known(each, kind)) for each in values[name])
    failure = values.get("llm_error")
    values["llm_error"] = None if failure is None else LLMFailure(failure["code"], failure["message"])
    return Answer(**{"prompt": None, **values})


def research_event(sent: Sent) -> ResearchEvent | Failed | None:
    """An event of a streamed research; None for one that only a newer service knows."""
    match sent.name:
        case "context":
            passages = tuple(Passage(**_known(each, Passage)) for each in sent.data["context"])
            omitted = tuple(Omitted(**_known(each, Omitted)) for each in sent.data["omitted"])
            return Context(passages, omitted, sent.data["tokens_counted"])
        case "token":
            return Token(sent.data["text"])
        case "citation":
            return Cited(Citation(**_known(sent.data, Citation)))
        case "answer":
            return answer(sent.data)
        case "error":
            from vector_memory.client.errors import SUCCESS, failure

            return Failed(failure(Response(SUCCESS.start, sent.data)))
    return None


def document(body: Mapping[str, Any]) -> Document:
    """A document."""
    updated_at = body["updated_at"]
    return Document(
        **{name: body[name] for name in _OF_DOCUMENT},
        is_complete=body["state"] == "complete",
        updated_at_ms=None if updated_at is None else time_ms(updated_at, "updated_at"),
    )


_OF_DOCUMENT = ("id", "namespace", "title", "library", "topic", "form", "bytes", "sha256", "chunks")


def uploaded(body: Mapping[str, Any]) -> Uploaded:
    """What an upload did."""
    return Uploaded(document(body), body["stored"], body["updated"], body["unchanged"], body["deleted"])


def placed(body: Mapping[str, Any]) -> PlacedDocument:
    """A document and its chunks."""
    return PlacedDocument(document(body), tuple(Part(**_known(each, Part)) for each in body["parts"]))


def documents_page(body: Mapping[str, Any]) -> DocumentsPage:
    """One page of a listing of documents."""
    return DocumentsPage(tuple(document(each) for each in body["documents"]), body["next_cursor"])


def library(body: Mapping[str, Any]) -> Library:
    """A library."""
    return Library(**_known(body, Library))


def docs(body: Mapping[str, Any]) -> Docs:
    """What a library says."""
    chunks = tuple(DocsChunk(**_known(each, DocsChunk)) for each in body["chunks"])
    return Docs(body["library"], chunks, body["tokens"], body["truncated"])


def tool(body: Mapping[str, Any]) -> ToolDescription:
    """A tool; its schemas as they are."""
    output = body.get("output_schema")
    return ToolDescription(body["name"], body["description"], body["input_schema"], body["hints"], output)


def _frozen(value: Any) -> Any:
    """A list as a tuple, and so those inside it."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _known(body: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    return {field.name: _frozen(body[field.name]) for field in fields(kind) if field.name in body}


def compacted(body: Mapping[str, Any]) -> Compacted:
    """What a compaction took away."""
    kept = tuple((each["journal"], each["reason"]) for each in body["kept"])
    return Compacted(tuple(body["removed"]), body["removed_bytes"], kept)


def health(body: Mapping[str, Any]) -> Health:
    """How the service is."""
    return Health(
        body["status"],
        tuple(body["problems"]),
        body["version"],
        body["memories"],
        body["namespaces"],
        body["embedder"]["model"],
        body["vllm_configured"],
    )


def stats(body: Mapping[str, Any]) -> Stats:
    """How much there is."""
    embedder = body["embedder"]
    namespaces = {each["namespace"]: each["memories"] for each in body["namespaces"]}
    return Stats(body["memories"], namespaces, embedder["model"], embedder["revision"], embedder["dim"])
