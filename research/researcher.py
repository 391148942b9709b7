"""Answers questions from memories: retrieve, pack, ask, verify the citations.

Knows no model, no protocol and no storage: memories come from a `Recall`, completions from `Endpoints`. The
gateway above translates requests into `ResearchRequest` and answers into its own words.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from memory_service.clock import wall_ms
from research import remembering
from research.context.budget import Filled, Window, fill
from research.context.packing import room
from research.context.prompt import build
from research.context.recall import Recall, recall_for
from research.grounding import citations, claims, extractive
from research.grounding.claims import Sentence, SentenceReader
from research.grounding.strictness import Kept, keep_supported
from research.grounding.verification import verify
from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints, Reply
from research.llm.settings import LLMSettings
from research.trace import Stopwatch, Trace
from vector_memory.errors import LimitExceeded, LLMNotConfigured, ServiceError
from vector_memory.research import (
    Answer,
    ChatMessage,
    Citation,
    Cited,
    Context,
    Failed,
    LLMFailure,
    Miss,
    NotRemembered,
    Passage,
    ResearchRequest,
    Step,
    Token,
)
from vector_memory.retrieval import Hit, Retrieved
from vector_memory.times import iso_time

ABSTAINED: Final = "No memory matches this question, so there is nothing to answer it from."
IRRELEVANT: Final = "The memories do not seem to answer this question; `nearest` shows what comes closest."

NEAREST_MAX = 3
"""Memories that are shown where none is relevant enough."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What an answer is made from; without passages, what came nearest."""

    filled: Filled
    retrieved: Retrieved
    asked_at_ms: int
    nearest: tuple[Miss, ...] = ()


@dataclass(frozen=True, slots=True)
class _Verified:
    """What of an answer's text goes out, what its citations are worth, and what of it the memories support."""

    text: str
    citations: tuple[Citation, ...] = ()
    uncited: tuple[tuple[int, int], ...] = ()
    removed: tuple[str, ...] = ()
    kept: Kept | None = None


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

    def __init__(
        self,
        recall: Recall,
        settings: LLMSettings,
        llm: Endpoints | None,
        keep_trace: Callable[[Trace], str | None] | None = None,
        count: Callable[[Answer | ServiceError], None] = lambda _outcome: None,
    ) -> None:
        """Args:
        llm: None when no endpoint is configured; the researcher closes it.
        keep_trace: keeps a trace where it was asked for, and gives the id by which it is found; it may block.
        count: is told every answer, and every error of the LLM that ends in none; it does not block.
        """
        self._recall = recall
        self._settings = settings
        self._llm = llm
        self._keep_trace = keep_trace
        self._count = count

    async def research(self, request: ResearchRequest) -> Answer:
        """Answer a question from the memories of its namespace.

        Raises:
            LLMNotConfigured: there is no LLM, no fallback is set, and the prompt alone was not asked for.
            LimitExceeded: question and `max_tokens` leave no room for memories in the model's window.
            ServiceError: whatever retrieve or the LLM raise; a failing LLM is never replaced in silence.
        """
        watch = Stopwatch()
        deadline = self._deadline(request)
        self._check(request)
        found = await self._found(request, deadline, watch)
        draft = await self._draft(request, found, deadline)
        return await self._finished(request, found, draft, watch)

    async def research_stream(self, request: ResearchRequest) -> AsyncGenerator[Step]:
        """Answer a question, and tell what happens on the way. Closing the iterator ends the LLM's work.

        Yields:
            The passages first, then the answer's text piece by piece with the verdicts on each sentence that is
            complete, then the whole answer; or, once it has begun, Failed instead of an error.

        Raises:
            ServiceError: as `research`, before the passages.
        """
        watch = Stopwatch()
        deadline = self._deadline(request)
        self._check(request)
        found = await self._found(request, deadline, watch)
        packed = found.filled.packed
        yield Context(context=packed.passages, omitted=packed.omitted, tokens_counted=found.filled.counted)
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
                    yield Token(text=draft.text)
        except ServiceError as error:
            if request.on_llm_error == "fail":
                log.warning("research.failed", extra={"code": error.code, "reason": error.message})
                self._count(error)
                yield Failed(error=error)
                return
            draft = _degraded(error)
        assert draft is not None, "a stream without error ends in a reply"
        yield await self._finished(request, found, draft, watch)

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

    async def _found(self, request: ResearchRequest, deadline: Deadline, watch: Stopwatch) -> _Found:
        window = Window(
            request.context_tokens or self._settings.context_tokens, request.max_tokens, passages_max=request.passages
        )
        # Refuses a question that leaves no room before anything is asked.
        room(request.query, context_tokens=window.tokens, max_tokens=window.answer_tokens)
        asked_at_ms = wall_ms()
        _, retrieved = await asyncio.to_thread(recall_for, request, self._recall)
        hits = retrieved.hits
        watch.lap("retrieve")
        if not request.context_only and self._is_irrelevant(request, hits):
            nearest = tuple(_miss(hit) for hit in hits[:NEAREST_MAX])
            return _Found(await fill(request.query, (), window, None), retrieved, asked_at_ms, nearest)
        llm = None if request.context_only else self._llm  # which then is not told of the question either
        count = None if llm is None else (lambda messages: llm.count(messages, deadline))
        filled = await fill(request.query, hits, window, count)
        watch.lap("pack")
        return _Found(filled, retrieved, asked_at_ms)

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
                self._count(error)
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
                        yield Token(text=piece)
                        whole = reader.feed(piece)
                    case Reply():
                        whole = reader.finish()
                cited = [sentence for sentence in whole if sentence.claims]
                if cited:
                    found = await asyncio.to_thread(verify, cited, passages, self._recall.embed)
                    for citation in (one for of_sentence in found for one in of_sentence):
                        yield Cited(citation=citation)
                if isinstance(piece, Reply):
                    yield piece

    def _quoted(self, request: ResearchRequest, passages: Sequence[Passage]) -> _Draft:
        extract = extractive.extract(request.query, passages, self._recall.embed)
        return _Draft(text=extract.text, model=extractive.MODEL, sentences=extract.sentences)

    async def _finished(self, request: ResearchRequest, found: _Found, draft: _Draft, watch: Stopwatch) -> Answer:
        watch.lap("generate")
        verified = await asyncio.to_thread(self._verified, request, draft, found.filled.packed.passages)
        watch.lap("verify")
        answer = _answer(found, draft, verified)
        if request.remember:
            key, reason = await asyncio.to_thread(self._remembered, request, found, answer, verified.kept)
            answer = answer.model_copy(update={"remembered": key, "not_remembered": reason})
            watch.lap("remember")
        answer = answer.model_copy(update={"latency_ms": watch.total_ms})
        _report(request, answer)
        self._count(answer)
        if request.trace and self._keep_trace is not None:
            trace = _trace(request, found, answer, watch)
            trace_id = await asyncio.to_thread(self._keep_trace, trace)
            answer = answer.model_copy(update={"trace_id": trace_id})
        return answer

    def _remembered(
        self, request: ResearchRequest, found: _Found, answer: Answer, kept: Kept | None
    ) -> tuple[str | None, NotRemembered | None]:
        """The key under which an answer was stored, or why it was not."""
        if request.context_only:
            return None, "context_only"
        if answer.abstained:
            return None, "abstained"
        if answer.degraded:
            return None, "degraded"
        if answer.endpoint is None:
            return None, "quoted"
        if answer.truncated:
            return None, "truncated"
        if kept is None or not remembering.is_supported(kept):
            return None, "unsupported"
        memory = remembering.memory_of(request, kept, found.retrieved.hits, answer.model, wall_ms())
        try:
            return self._recall.store(memory).key, None
        except ServiceError as error:  # the answer has been paid for, and goes out all the same
            log.warning("research.not_stored", extra={"code": error.code, "reason": error.message})
            return None, "not stored"

    def _verified(self, request: ResearchRequest, draft: _Draft, passages: Sequence[Passage]) -> _Verified:
        found = verify(draft.sentences, passages, self._recall.embed)
        kept = None if draft.reply is None else keep_supported(draft.text, draft.sentences, found)
        if request.strict and kept is not None:
            return _Verified(kept.text, kept.citations, removed=kept.removed, kept=kept)
        cited = tuple(one for of_sentence in found for one in of_sentence)
        return _Verified(draft.text, cited, claims.uncited(draft.sentences), kept=kept)


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
    return _Draft(error=LLMFailure(code=error.code, message=error.message))


def _miss(hit: Hit) -> Miss:
    return Miss(
        key=hit.memory.key,
        namespace=hit.memory.namespace,
        content=hit.memory.content,
        score=hit.score,
        relevance=hit.relevance,
    )


def _trace(request: ResearchRequest, found: _Found, answer: Answer, watch: Stopwatch) -> Trace:
    is_asked = bool(answer.context) or request.context_only
    prompt = build(request.query, answer.context) if is_asked else None
    return Trace(request, found.retrieved, prompt, answer, watch.laps_ms, found.asked_at_ms)


def _answer(found: _Found, draft: _Draft, verified: _Verified) -> Answer:
    packed, reply = found.filled.packed, draft.reply
    return Answer(
        result=verified.text,
        model=draft.model,
        tokens_used=draft.tokens_used,
        latency_ms=0,
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
            "remembered": answer.remembered is not None,
        },
    )
