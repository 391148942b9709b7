"""Answers questions from memories: retrieve, pack, ask, verify the citations.

Knows no model, no protocol and no storage: memories come from a `Recall`, completions from `Endpoints`. The
gateway above translates requests into `ResearchRequest` and answers into its own words.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from memory_service.clock import iso_time, wall_ms
from memory_service.errors import LimitExceeded, LLMNotConfigured, ServiceError
from memory_service.model import Hit
from memory_service.retrieval import Retrieval
from research import citations, claims, extractive
from research.budget import Filled, Window, fill
from research.claims import Sentence, SentenceReader
from research.deadline import Deadline
from research.endpoints import Endpoints, Reply
from research.events import Cited, Context, Failed, Step, Token
from research.model import Answer, ChatMessage, Citation, LLMFailure, Miss, Passage, ResearchRequest
from research.packing import room
from research.prompt import build
from research.recall import Recall
from research.settings import LLMSettings
from research.strictness import keep_supported
from research.verification import verify

ABSTAINED: Final = "No memory matches this question, so there is nothing to answer it from."
IRRELEVANT: Final = "The memories do not seem to answer this question; `nearest` shows what comes closest."

NEAREST_MAX = 3
"""Memories that are shown where none is relevant enough."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What an answer is made from; without passages, what came nearest."""

    filled: Filled
    nearest: tuple[Miss, ...] = ()


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
    reply: Reply | None = None
    error: LLMFailure | None = None


class Researcher:
    """The one object of this package that others call. Any number of questions may be asked at once."""

    def __init__(self, recall: Recall, settings: LLMSettings, llm: Endpoints | None) -> None:
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
        deadline = self._deadline(request)
        self._check(request)
        found = await self._found(request, deadline)
        draft = await self._draft(request, found, deadline)
        return await self._finished(request, found, draft, started)

    async def research_stream(self, request: ResearchRequest) -> AsyncGenerator[Step]:
        """Answer a question, and tell what happens on the way. Closing the iterator ends the LLM's work.

        Yields:
            The passages first, then the answer's text piece by piece with the verdicts on each sentence that is
            complete, then the whole answer; or, once it has begun, Failed instead of an error.

        Raises:
            ServiceError: as `research`, before the passages.
        """
        started = time.perf_counter()
        deadline = self._deadline(request)
        self._check(request)
        found = await self._found(request, deadline)
        packed = found.filled.packed
        yield Context(packed.passages, packed.omitted, found.filled.counted)
        draft: _Draft | None = None
        try:
            if self._llm is not None and packed.passages and not request.context_only:
                async with aclosing(self._pieces(self._llm, request, packed.passages, deadline)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Reply):
                            draft = _drafted(piece, packed.passages)
                        else:
                            yield piece
            else:
                draft = await self._draft(request, found, deadline)
                if draft.text:
                    yield Token(draft.text)
        except ServiceError as error:
            if request.on_llm_error == "fail":
                log.warning("research.failed", extra={"code": error.code, "reason": error.message})
                yield Failed(error)
                return
            draft = _degraded(error)
        assert draft is not None, "a stream without error ends in a reply"
        yield await self._finished(request, found, draft, started)

    async def close(self) -> None:
        """Close the connections to the LLM."""
        if self._llm is not None:
            await self._llm.close()

    def _deadline(self, request: ResearchRequest) -> Deadline:
        return Deadline.after(self._settings.timeout_s if request.timeout_s is None else request.timeout_s)

    def _check(self, request: ResearchRequest) -> None:
        is_llm_needed = not request.context_only and request.on_llm_error == "fail"
        if self._llm is None and self._settings.fallback == "none" and is_llm_needed:
            raise LLMNotConfigured
        if request.context_tokens is not None and request.context_tokens > self._settings.context_tokens:
            raise LimitExceeded(
                f"context_tokens must be at most {self._settings.context_tokens:,}, the model's window "
                "(LLM_CONTEXT_TOKENS).",
                field="context_tokens",
            )

    async def _found(self, request: ResearchRequest, deadline: Deadline) -> _Found:
        window = Window(
            request.context_tokens or self._settings.context_tokens, request.max_tokens, passages_max=request.passages
        )
        # Refuses a question that leaves no room before anything is asked.
        room(request.query, context_tokens=window.tokens, max_tokens=window.answer_tokens)
        retrieval = Retrieval(
            request.query,
            namespace=request.namespace,
            k=request.k,
            filter=request.filter,
            min_score=request.min_score,
        )
        hits = (await asyncio.to_thread(self._recall.retrieve, retrieval)).hits
        if not request.context_only and self._is_irrelevant(request, hits):
            return _Found(await fill(request.query, (), window, None), tuple(_miss(hit) for hit in hits[:NEAREST_MAX]))
        llm = None if request.context_only else self._llm  # which then is not told of the question either
        count = None if llm is None else (lambda messages: llm.count(messages, deadline))
        return _Found(await fill(request.query, hits, window, count))

    def _is_irrelevant(self, request: ResearchRequest, hits: Sequence[Hit]) -> bool:
        """Whether not even the most relevant of the hits is likely enough to answer the question."""
        least = self._settings.min_relevance if request.min_relevance is None else request.min_relevance
        known = [hit.relevance for hit in hits if hit.relevance is not None]
        return bool(known) and max(known) < least

    async def _draft(self, request: ResearchRequest, found: _Found, deadline: Deadline) -> _Draft:
        passages = found.filled.packed.passages
        if request.context_only:
            return _Draft(prompt=build(request.query, passages))
        if not passages:
            return _Draft(text=IRRELEVANT if found.nearest else ABSTAINED)
        if self._llm is not None:
            return await self._generated(self._llm, request, passages, deadline)
        if self._settings.fallback == "none":
            return _degraded(LLMNotConfigured())
        return await asyncio.to_thread(self._quoted, request, passages)

    async def _generated(
        self, llm: Endpoints, request: ResearchRequest, passages: Sequence[Passage], deadline: Deadline
    ) -> _Draft:
        try:
            reply = await llm.complete(
                build(request.query, passages),
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                deadline=deadline,
            )
        except ServiceError as error:
            if request.on_llm_error == "fail":
                raise
            return _degraded(error)
        return _drafted(reply, passages)

    async def _pieces(
        self, llm: Endpoints, request: ResearchRequest, passages: Sequence[Passage], deadline: Deadline
    ) -> AsyncGenerator[Token | Cited | Reply]:
        """The answer as it comes, with verdicts on each sentence as soon as it is whole, and the reply last."""
        reader = SentenceReader()
        stream = llm.stream(
            build(request.query, passages),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            deadline=deadline,
        )
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        yield Token(piece)
                        whole = reader.feed(piece)
                    case Reply():
                        whole = reader.finish()
                cited = [sentence for sentence in whole if sentence.claims]
                if cited:
                    found = await asyncio.to_thread(verify, cited, passages, self._recall.embed)
                    for citation in (one for of_sentence in found for one in of_sentence):
                        yield Cited(citation)
                if isinstance(piece, Reply):
                    yield piece

    def _quoted(self, request: ResearchRequest, passages: Sequence[Passage]) -> _Draft:
        extract = extractive.extract(request.query, passages, self._recall.embed)
        return _Draft(text=extract.text, model=extractive.MODEL, sentences=extract.sentences)

    async def _finished(self, request: ResearchRequest, found: _Found, draft: _Draft, started: float) -> Answer:
        verified = await asyncio.to_thread(self._verified, request, draft, found.filled.packed.passages)
        answer = _answer(found, draft, verified, started)
        _report(request, answer)
        return answer

    def _verified(self, request: ResearchRequest, draft: _Draft, passages: Sequence[Passage]) -> _Verified:
        found = verify(draft.sentences, passages, self._recall.embed)
        if request.strict and draft.sentences and draft.model != extractive.MODEL:
            kept = keep_supported(draft.text, draft.sentences, found)
            return _Verified(kept.text, kept.citations, removed=kept.removed)
        return _Verified(draft.text, tuple(one for cited in found for one in cited), claims.uncited(draft.sentences))


def _drafted(reply: Reply, passages: Sequence[Passage]) -> _Draft:
    """The draft of a completion, however it was transported."""
    completion = reply.completion
    text = citations.without_unknown(completion.text, len(passages))
    return _Draft(
        text=text,
        model=completion.model,
        tokens_used=completion.tokens_used,
        sentences=tuple(claims.read(text)),
        unknown=citations.find(completion.text, len(passages)).unknown,
        # A server whose window is full before max_tokens are spent shortens the answer, and says `length` alike.
        truncated=completion.finish_reason == "length",
        reply=reply,
    )


def _degraded(error: ServiceError) -> _Draft:
    return _Draft(error=LLMFailure(error.code, error.message))


def _miss(hit: Hit) -> Miss:
    return Miss(hit.memory.key, hit.memory.namespace, hit.memory.content, hit.score, hit.relevance)


def _answer(found: _Found, draft: _Draft, verified: _Verified, started: float) -> Answer:
    packed, reply = found.filled.packed, draft.reply
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
        nearest=found.nearest,
        truncated=draft.truncated,
        prompt=draft.prompt,
        endpoint=reply.endpoint if reply else None,
        prompt_tokens=reply.completion.prompt_tokens if reply else 0,
        completion_tokens=reply.completion.completion_tokens if reply else 0,
        tokens_counted=found.filled.counted,
        cost=reply.cost if reply else None,
        degraded=draft.error is not None,
        llm_error=draft.error,
    )


def _report(request: ResearchRequest, answer: Answer) -> None:
    """Numbers and names only: neither the question nor a memory belongs into a log."""
    verdicts = [citation.verdict for citation in answer.citations]
    log.info(
        "research.answered",
        extra={
            "namespace": request.namespace,
            "k": request.k,
            "context_only": request.context_only,
            "passages": len(answer.context),
            "omitted": len(answer.omitted),
            "citations": len(verdicts),
            "supported": verdicts.count("supported"),
            "unsupported": verdicts.count("unsupported"),
            "unknown_citations": len(answer.unknown_citations),
            "uncited": len(answer.uncited),
            "removed": len(answer.removed),
            "model": answer.model,
            "tokens_used": answer.tokens_used,
            "latency_ms": answer.latency_ms,
            "abstained": answer.abstained,
            "truncated": answer.truncated,
            "endpoint": answer.endpoint,
            "tokens_counted": answer.tokens_counted,
            "cost": answer.cost,
            "degraded": answer.degraded,
        },
    )
