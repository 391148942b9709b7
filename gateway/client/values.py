"""What the operations return, and how it is read from the wire's JSON.

Most are the domain's own values. Those here stand for what only a door tells. Unknown fields are passed over, so that a
client understands a newer service.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from gateway.client.requests import Response
from memory_service.errors import ServiceError
from memory_service.filters import time_ms
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
from memory_service.retrieval import Condition, Explanation, Retrieved, WhyNot
from research.model import Answer, Citation, LLMFailure, Miss, Omitted, Passage


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


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete deleted.

    Attributes:
        count: how many.
        keys: of them, the first 1,000 in order of key.
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
    from gateway.client.errors import failure

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
