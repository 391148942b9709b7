"""Retrieves for a question again, and compares with what came for it then."""

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
class Vanished:
    """A memory that came then and does not come now.

    Attributes:
        reason: `outranked` when the memory itself is as it was.
        message: the same in a sentence.
        rank: its place among all candidates of today, from 1; None when it is none.
    """

    key: str
    reason: Literal["deleted", "updated", "expired", "outranked"]
    message: str
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class New:
    """A memory that comes now and did not come then.

    Attributes:
        reason: `stored` or `updated` since then, or `risen` when the memory itself is as it was.
    """

    key: str
    reason: Literal["stored", "updated", "risen"]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came then and what comes now, both best first.

    Attributes:
        then: keys.
        now: hits.
        kept: keys that come in both, and say the same.
        changed: keys that come in both, and say something else now.
    """

    then: tuple[str, ...]
    now: tuple[Hit, ...]
    mode: Mode
    kept: tuple[str, ...]
    changed: tuple[str, ...]
    vanished: tuple[Vanished, ...]
    new: tuple[New, ...]


def replay(request: ResearchRequest, seen: Sequence[Seen], asked_at_ms: int, recall: Recall) -> Replay:
    """Retrieve again, and say what is different. No LLM is asked.

    Args:
        request: the question.
        seen: what came then, best first.
        asked_at_ms: when that was.
        recall: the memories.
    """
    now_fates = fates(recall, request.namespace, seen)
    retrieval, found = recall_for(request, recall)
    now = {hit.memory.key: hit for hit in found.hits}
    then = {one.key: one for one in seen}
    in_both = [key for key in then if key in now]
    kept = tuple(key for key in in_both if version(now[key].memory) == then[key].version)
    return Replay(
        then=tuple(then),
        now=found.hits,
        mode=found.mode,
        kept=kept,
        changed=tuple(key for key in in_both if key not in kept),
        vanished=tuple(_vanished(key, now_fates[key], retrieval, recall) for key in then if key not in now),
        new=tuple(_new(hit, asked_at_ms) for key, hit in now.items() if key not in then),
    )


def _vanished(key: str, fate: Fate, retrieval: Retrieval, recall: Recall) -> Vanished:
    match fate:
        case "deleted" | "expired":
            return Vanished(key, fate, _GONE[fate])
        case "updated" | "unchanged":
            explanation = recall.retrieve(replace(retrieval, why_not=key)).explanation
            why_not = None if explanation is None else explanation.why_not
            message, rank = ("", None) if why_not is None else (why_not.message, why_not.rank)
            return Vanished(key, "updated" if fate == "updated" else "outranked", message, rank)


def _new(hit: Hit, asked_at_ms: int) -> New:
    if hit.memory.created_at_ms > asked_at_ms:
        return New(hit.memory.key, "stored")
    return New(hit.memory.key, "updated" if hit.memory.updated_at_ms > asked_at_ms else "risen")
