"""Retrieves again for the question of a trace, and compares the result with the one in the trace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from memory_service.model import Hit, Mode
from memory_service.retrieval.request import Retrieval
from research.context.recall import Recall, recall_for
from research.model import ResearchRequest
from research.trace import Fate, Seen, fates, version

_GONE = {"deleted": "It was deleted.", "expired": "Its time was over."}


@dataclass(frozen=True, slots=True)
class VanishedHit:
    """A memory that is in the trace and is not retrieved now.

    Attributes:
        key: its key.
        reason: why it is not retrieved; `outranked` if the memory itself is unchanged.
        message: the reason in a sentence.
        rank: its rank among all present candidates, from 1; None if it is no candidate.
    """

    key: str
    reason: Literal["deleted", "updated", "expired", "outranked"]
    message: str
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class NewHit:
    """A memory that is retrieved now and is not in the trace.

    Attributes:
        key: its key.
        reason: `stored` or `updated` since then, or `risen` if the memory itself is unchanged.
    """

    key: str
    reason: Literal["stored", "updated", "risen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The hits of a trace and the present hits, compared.

    Attributes:
        then: keys of the hits of the trace, best first.
        now: the present hits, best first.
        mode: how the present hits were ranked.
        kept: keys that are in both, with the same contents.
        changed: keys that are in both, with other contents now.
        vanished: hits of the trace that are not retrieved now.
        new: present hits that are not in the trace.
    """

    then: tuple[str, ...]
    now: tuple[Hit, ...]
    mode: Mode
    kept: tuple[str, ...]
    changed: tuple[str, ...]
    vanished: tuple[VanishedHit, ...]
    new: tuple[NewHit, ...]


def replay(request: ResearchRequest, seen: Sequence[Seen], asked_at_ms: int, recall: Recall) -> Replay:
    """Retrieve again, and return what is different. No LLM is asked.

    Args:
        request: the question.
        seen: the hits of the trace, best first.
        asked_at_ms: when they were retrieved, in milliseconds since the Unix epoch.
        recall: the memories.
    """
    fate_by_key = fates(recall, request.namespace, seen)
    retrieval, retrieved = recall_for(request, recall)
    now = {hit.memory.key: hit for hit in retrieved.hits}
    then = {one.key: one for one in seen}
    in_both = [key for key in then if key in now]
    kept = tuple(key for key in in_both if version(now[key].memory) == then[key].version)
    return Replay(
        then=tuple(then),
        now=retrieved.hits,
        mode=retrieved.mode,
        kept=kept,
        changed=tuple(key for key in in_both if key not in kept),
        vanished=tuple(_vanished(key, fate_by_key[key], retrieval, recall) for key in then if key not in now),
        new=tuple(_new(hit, asked_at_ms) for key, hit in now.items() if key not in then),
    )


def _vanished(key: str, fate: Fate, retrieval: Retrieval, recall: Recall) -> VanishedHit:
    match fate:
        case "deleted" | "expired":
            return VanishedHit(key, fate, _GONE[fate])
        case "updated" | "unchanged":
            explanation = recall.retrieve(replace(retrieval, why_not=key)).explanation
            why_not = None if explanation is None else explanation.why_not
            message, rank = ("", None) if why_not is None else (why_not.message, why_not.rank)
            return VanishedHit(key, "updated" if fate == "updated" else "outranked", message, rank)


def _new(hit: Hit, asked_at_ms: int) -> NewHit:
    if hit.memory.created_at_ms > asked_at_ms:
        return NewHit(hit.memory.key, "stored")
    return NewHit(hit.memory.key, "updated" if hit.memory.updated_at_ms > asked_at_ms else "risen")
