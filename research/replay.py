"""Retrieves for a question again, and compares with what came for it then."""

from collections.abc import Sequence

from research.context.recall import Recall, recall_for
from research.trace import Seen, fates, version
from vector_memory.research import Fate, NewHit, Replay, ResearchRequest, TracedHit, VanishedHit
from vector_memory.retrieval import Hit, Retrieval

_GONE = {"deleted": "It was deleted.", "expired": "Its time was over."}


def replay(trace_id: str, request: ResearchRequest, seen: Sequence[Seen], asked_at_ms: int, recall: Recall) -> Replay:
    """Retrieve again, and say what is different. No LLM is asked.

    Args:
        trace_id: of the trace.
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
        trace_id=trace_id,
        then=tuple(then),
        now=tuple(TracedHit.of(hit) for hit in found.hits),
        mode=found.mode,
        kept=kept,
        changed=tuple(key for key in in_both if key not in kept),
        vanished=tuple(_vanished(key, now_fates[key], retrieval, recall) for key in then if key not in now),
        new=tuple(_new(hit, asked_at_ms) for key, hit in now.items() if key not in then),
    )


def _vanished(key: str, fate: Fate, retrieval: Retrieval, recall: Recall) -> VanishedHit:
    match fate:
        case "deleted" | "expired":
            return VanishedHit(key=key, reason=fate, message=_GONE[fate])
        case "updated" | "unchanged":
            explanation = recall.retrieve(retrieval.model_copy(update={"why_not": key})).explanation
            why_not = None if explanation is None else explanation.why_not
            message, rank = ("", None) if why_not is None else (why_not.message, why_not.rank)
            return VanishedHit(
                key=key, reason="updated" if fate == "updated" else "outranked", message=message, rank=rank
            )


def _new(hit: Hit, asked_at_ms: int) -> NewHit:
    if hit.memory.created_at_ms > asked_at_ms:
        return NewHit(key=hit.key, reason="stored")
    return NewHit(key=hit.key, reason="updated" if hit.updated_at_ms > asked_at_ms else "risen")
