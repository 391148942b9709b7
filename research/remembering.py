"""Stores an answer as a memory if the caller asks for it: the part that memories support, marked as a model's words.

Such a memory is weaker evidence than any other, so `recall.py` leaves it out of later research. It expires no later
than the first of the memories that it rests on.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Final

from memory_service.clock import wall_ms
from memory_service.metadata import canonical_json
from research.context.recall import BY_MODEL, Recall
from research.drafts import Draft
from research.grounding import citations
from research.grounding.sentences import ends
from research.grounding.strictness import SupportedText
from research.sources import Sources
from vector_memory.errors import ServiceError
from vector_memory.fields import JSON
from vector_memory.memories import NewMemory
from vector_memory.research import NotRemembered, ResearchRequest
from vector_memory.retrieval import Hit

KEY_PREFIX: Final = "research-"

_ANSWER_CHARS_MAX = 4_000
_QUERY_CHARS_MAX = 1_000
_MODEL_CHARS_MAX = 300

# Half of the metadata's limit. The question and the other fields need at most the other half.
_SOURCES_BYTES_MAX = 8_192

log = logging.getLogger(__name__)


def remember(
    request: ResearchRequest, sources: Sources, draft: Draft, kept: SupportedText | None, recall: Recall
) -> tuple[str | None, NotRemembered | None]:
    """Store an answer, and return its key, or the reason why it was not stored.

    Args:
        request: the question.
        sources: the memories that the answer was made from.
        draft: the answer.
        kept: what the memories support of it; None if no LLM wrote it.
        recall: the memories to store it in.
    """
    if request.context_only:
        return None, "context_only"
    if not sources.passages:
        return None, "abstained"
    if draft.error is not None:
        return None, "degraded"
    if draft.reply is None:
        return None, "quoted"
    if draft.is_truncated:
        return None, "truncated"
    if kept is None or not any(citation.verdict == "supported" for citation in kept.citations):
        return None, "unsupported"
    memory = memory_of(request, kept, sources.retrieved.hits, draft.model, wall_ms())
    try:
        return recall.store(memory).key, None
    except ServiceError as error:
        # The answer has been paid for, so the caller gets it all the same.
        log.warning("research.not_stored", extra={"code": error.code, "reason": error.message})
        return None, "not stored"


def memory_of(
    request: ResearchRequest, kept: SupportedText, hits: Sequence[Hit], model: str | None, now_ms: int
) -> NewMemory:
    """Make a memory of an answer. The same question with the same filter gets the same key.

    Args:
        request: the question.
        kept: what the memories support of the answer.
        hits: the memories that the answer was made from.
        model: the model that wrote the answer.
        now_ms: the present time in milliseconds since the Unix epoch.
    """
    cited = list(dict.fromkeys(citation.key for citation in kept.citations if citation.verdict != "unsupported"))
    verdicts = [citation.verdict for citation in kept.citations]
    metadata: dict[str, JSON] = {
        "provenance": BY_MODEL,
        "source": "research",
        "query": request.query[:_QUERY_CHARS_MAX],
        "model": None if model is None else model[:_MODEL_CHARS_MAX],
        "sources": _as_many_as_fit(cited),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in ("supported", "weak")},
    }
    expiries_ms = [hit.memory.expires_at_ms for hit in hits if hit.memory.key in cited]
    ttls_s = [max(1, (expiry_ms - now_ms) // 1000) for expiry_ms in expiries_ms if expiry_ms is not None]
    return NewMemory(
        content=f"Question: {request.query}\nAnswer: {_shortened(citations.without_unknown(kept.text, 0))}",
        key=_key(request),
        namespace=request.namespace,
        metadata=metadata,
        ttl_seconds=min(ttls_s, default=None),
    )


def _key(request: ResearchRequest) -> str:
    question = json.dumps([" ".join(request.query.split()), request.filter], sort_keys=True)
    return KEY_PREFIX + hashlib.sha256(question.encode()).hexdigest()[:32]


def _as_many_as_fit(keys: Sequence[str]) -> list[str]:
    taken, bytes_left = [], _SOURCES_BYTES_MAX
    for key in keys:
        bytes_left -= len(canonical_json(key).encode()) + 1
        if bytes_left < 0:
            break
        taken.append(key)
    return taken


def _shortened(text: str) -> str:
    """Return the first sentences that fit, or the beginning of a single sentence that is too long."""
    if len(text) <= _ANSWER_CHARS_MAX:
        return text
    stop = max((stop for stop in ends(text[: _ANSWER_CHARS_MAX + 1]) if stop <= _ANSWER_CHARS_MAX), default=0)
    return text[: stop or _ANSWER_CHARS_MAX]
