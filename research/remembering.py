"""Makes a memory of an answer, on request: what the memories support of it, marked as the words of a model.

Such a memory is no source of equal rank: `recall.py` leaves it out of further research. It goes no later than the
first of the memories that it rests on.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from memory_service.metadata import canonical_json
from research.context.recall import BY_MODEL
from research.grounding import citations
from research.grounding.sentences import ends
from research.grounding.strictness import Kept
from vector_memory.fields import JSON
from vector_memory.memories import NewMemory
from vector_memory.research import ResearchRequest
from vector_memory.retrieval import Hit

KEY_PREFIX: Final = "research-"

_ANSWER_CHARS_MAX = 4_000
_QUERY_CHARS_MAX = 1_000
_MODEL_CHARS_MAX = 300

# Half of what metadata may have: the question and the rest need at most the other half.
_SOURCES_BYTES_MAX = 8_192


def is_supported(kept: Kept) -> bool:
    """Whether a memory says what is left of an answer, not only something like it."""
    return any(citation.verdict == "supported" for citation in kept.citations)


def memory_of(request: ResearchRequest, kept: Kept, hits: Sequence[Hit], model: str | None, now_ms: int) -> NewMemory:
    """An answer as a memory of the question's namespace; the same question with the same filter has the same key.

    Args:
        request: the question.
        kept: of the answer, what the memories support.
        hits: memories that it was answered from.
        model: that answered.
        now_ms: when, in milliseconds since the Unix epoch.
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
    ends_ms = [hit.memory.expires_at_ms for hit in hits if hit.memory.key in cited]
    left_s = [max(1, (end_ms - now_ms) // 1000) for end_ms in ends_ms if end_ms is not None]
    return NewMemory(
        content=f"Question: {request.query}\nAnswer: {_short(citations.without_unknown(kept.text, 0))}",
        key=_key(request),
        namespace=request.namespace,
        metadata=metadata,
        ttl_seconds=min(left_s, default=None),
    )


def _key(request: ResearchRequest) -> str:
    asked = json.dumps([" ".join(request.query.split()), request.filter], sort_keys=True)
    return KEY_PREFIX + hashlib.sha256(asked.encode()).hexdigest()[:32]


def _as_many_as_fit(keys: Sequence[str]) -> list[str]:
    taken, bytes_left = [], _SOURCES_BYTES_MAX
    for key in keys:
        bytes_left -= len(canonical_json(key).encode()) + 1
        if bytes_left < 0:
            break
        taken.append(key)
    return taken


def _short(text: str) -> str:
    """Its first sentences; of one sentence without end, the beginning."""
    if len(text) <= _ANSWER_CHARS_MAX:
        return text
    whole = max((stop for stop in ends(text[: _ANSWER_CHARS_MAX + 1]) if stop <= _ANSWER_CHARS_MAX), default=0)
    return text[: whole or _ANSWER_CHARS_MAX]
