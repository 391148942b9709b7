"""Answers questions from memories: retrieve, pack, ask, verify the citations.

Knows no model, no protocol and no storage: memories come from a `Recall`, completions from an `LLMClient`. The
gateway above translates requests into `ResearchRequest` and answers into its own words.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from memory_service.clock import iso_time, wall_ms
from memory_service.errors import LLMNotConfigured
from memory_service.retrieval import Retrieval
from research import citations, claims, extractive
from research.claims import Sentence
from research.llm import LLMClient
from research.model import Answer, ChatMessage, Citation, Passage, ResearchRequest
from research.packing import Packed, pack, room
from research.prompt import build
from research.recall import Recall
from research.settings import LLMSettings
from research.strictness import keep_supported
from research.verification import verify

ABSTAINED: Final = "No memory matches this question, so there is nothing to answer it from."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Verified:
    """What of an answer's text goes out, and what its citations are worth."""

    text: str
    citations: tuple[Citation, ...] = ()
    uncited: tuple[tuple[int, int], ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Draft:
    """An answer's text and where it came from, before it is put together with its passages."""

    text: str = ""
    model: str | None = None
    tokens_used: int = 0
    sentences: tuple[Sentence, ...] = ()
    unknown: tuple[int, ...] = ()
    truncated: bool = False
    prompt: tuple[ChatMessage, ...] | None = None


class Researcher:
    """The one object of this package that others call. Any number of questions may be asked at once."""

    def __init__(self, recall: Recall, settings: LLMSettings, llm: LLMClient | None) -> None:
        """Args:
        llm: None when no endpoint is configured; the researcher closes it.
        """
        self._recall = recall
        self._settings = settings
        self._llm = llm

    async def research(self, request: ResearchRequest) -> Answer:
        """Answer a question from the memories of its namespace.

        Raises:
            LLMNotConfigured: there is no LLM, no fallback is set, and the prompt alone was not asked for.
            LimitExceeded: question and `max_tokens` leave no room for memories in the model's window.
            ServiceError: whatever retrieve or the LLM raise; a failing LLM is never replaced in silence.
        """
        started = time.perf_counter()
        if self._llm is None and self._settings.fallback == "none" and not request.context_only:
            raise LLMNotConfigured
        packed = await self._passages(request)
        draft = await self._draft(request, packed.passages)
        verified = await asyncio.to_thread(self._verified, request, draft, packed.passages)
        answer = _answer(packed, draft, verified, started)
        _report(request, answer)
        return answer

    async def close(self) -> None:
        """Close the connections to the LLM."""
        if self._llm is not None:
            await self._llm.close()

    async def _passages(self, request: ResearchRequest) -> Packed:
        room_tokens = room(request.query, context_tokens=self._settings.context_tokens, max_tokens=request.max_tokens)
        retrieval = Retrieval(
            request.query,
            namespace=request.namespace,
            k=request.k,
            filter=request.filter,
            min_score=request.min_score,
        )
        found = await asyncio.to_thread(self._recall.retrieve, retrieval)
        return await asyncio.to_thread(pack, found.hits, room_tokens)

    async def _draft(self, request: ResearchRequest, passages: Sequence[Passage]) -> _Draft:
        if request.context_only:
            return _Draft(prompt=build(request.query, passages))
        if not passages:
            return _Draft(text=ABSTAINED)
        if self._llm is not None:
            return await self._generated(self._llm, request, passages)
        return await asyncio.to_thread(self._quoted, request, passages)

    async def _generated(self, llm: LLMClient, request: ResearchRequest, passages: Sequence[Passage]) -> _Draft:
        messages = build(request.query, passages)
        completion = await llm.complete(messages, max_tokens=request.max_tokens, temperature=request.temperature)
        text = citations.without_unknown(completion.text, len(passages))
        return _Draft(
            text=text,
            model=completion.model,
            tokens_used=completion.tokens_used,
            sentences=tuple(claims.read(text)),
            unknown=citations.find(completion.text, len(passages)).unknown,
            truncated=completion.finish_reason == "length",
        )

    def _quoted(self, request: ResearchRequest, passages: Sequence[Passage]) -> _Draft:
        extract = extractive.extract(request.query, passages, self._recall.embed)
        return _Draft(text=extract.text, model=extractive.MODEL, sentences=extract.sentences)

    def _verified(self, request: ResearchRequest, draft: _Draft, passages: Sequence[Passage]) -> _Verified:
        found = verify(draft.sentences, passages, self._recall.embed)
        if request.strict and draft.sentences and draft.model != extractive.MODEL:
            kept = keep_supported(draft.text, draft.sentences, found)
            return _Verified(kept.text, kept.citations, removed=kept.removed)
        return _Verified(draft.text, tuple(one for cited in found for one in cited), claims.uncited(draft.sentences))


def _answer(packed: Packed, draft: _Draft, verified: _Verified, started: float) -> Answer:
    return Answer(
        result=verified.text,
        model=draft.model,
        tokens_used=draft.tokens_used,
        latency_ms=round((time.perf_counter() - started) * 1000),
        timestamp=iso_time(wall_ms()),
        citations=verified.citations,
        unknown_citations=draft.unknown,
        uncited=verified.uncited,
        removed=verified.removed,
        context=packed.passages,
        omitted=packed.omitted,
        abstained=not packed.passages,
        truncated=draft.truncated,
        prompt=draft.prompt,
    )


def _report(request: ResearchRequest, answer: Answer) -> None:
    """Numbers and names only: neither the question nor a memory belongs into a log."""
    log.info(
        "research.answered",
        extra={
            "namespace": request.namespace,
            "k": request.k,
            "context_only": request.context_only,
            "passages": len(answer.context),
            "omitted": answer.omitted,
            "citations": len(answer.citations),
            "supported": sum(citation.verdict == "supported" for citation in answer.citations),
            "unsupported": sum(citation.verdict == "unsupported" for citation in answer.citations),
            "unknown_citations": len(answer.unknown_citations),
            "uncited": len(answer.uncited),
            "removed": len(answer.removed),
            "model": answer.model,
            "tokens_used": answer.tokens_used,
            "latency_ms": answer.latency_ms,
            "abstained": answer.abstained,
            "truncated": answer.truncated,
        },
    )
