"""Answers questions from memories: retrieve, fill the prompt, ask the LLM, verify the citations.

This module knows no model, no protocol and no storage. Memories come from a `Recall`, completions from `Endpoints`.
The gateway above translates its requests into `ResearchRequest`, and answers into its own words.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from research.context.budget import plan
from research.context.recall import Recall
from research.drafts import Draft, assemble, draft_of_error, draft_of_quotations, draft_of_reply, verify_draft
from research.grounding.claims import SentenceReader
from research.grounding.verification import verify
from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints, Reply
from research.llm.settings import LLMSettings
from research.remembering import remember
from research.sources import Sources, gather
from research.trace import Stopwatch, Trace
from vector_memory.errors import LimitExceeded, LLMNotConfigured, ServiceError
from vector_memory.research import Answer, Cited, Context, Failed, ResearchRequest, Step, Token

ABSTAINED: Final = "No memory matches this question, so there is nothing to answer it from."
IRRELEVANT: Final = "The memories do not seem to answer this question; `nearest` shows what comes closest."

log = logging.getLogger(__name__)


class Researcher:
    """Answers questions. Any number of questions may run at once.

    Example:
        researcher = Researcher(recall, settings, connect(settings))
        answer = await researcher.research(ResearchRequest(query="Who moved the launch?"))
    """

    def __init__(
        self,
        recall: Recall,
        settings: LLMSettings,
        llm: Endpoints | None,
        keep_trace: Callable[[Trace], str | None] | None = None,
        count: Callable[[Answer | ServiceError], None] = lambda _outcome: None,
    ) -> None:
        """Make a researcher.

        Args:
            recall: the memories.
            settings: limits and fallbacks.
            llm: the LLM, which the researcher closes; None if no endpoint is configured.
            keep_trace: keeps the trace of a question that asks for one, and returns its id; it may block.
            count: receives every answer, and every LLM error that leaves a question without one; it must not block.
        """
        self._recall = recall
        self._settings = settings
        self._llm = llm
        self._keep_trace = keep_trace
        self._count = count

    async def research(self, request: ResearchRequest) -> Answer:
        """Answer a question from the memories of its namespace.

        Raises:
            LLMNotConfigured: there is no LLM, no fallback is set, and the question needs one.
            LimitExceeded: question and `max_tokens` leave no room for memories in the model's window.
            ServiceError: any error of retrieving or of the LLM. A failing LLM is never replaced in silence.
        """
        watch = Stopwatch()
        deadline = self._deadline(request)
        sources = await self._gather(request, deadline, watch)
        try:
            draft = await self._draft(request, sources, deadline)
        except ServiceError as error:
            if request.on_llm_error == "fail":
                self._count(error)
                raise
            draft = draft_of_error(error)
        return await self._finish(request, sources, draft, watch)

    async def research_stream(self, request: ResearchRequest) -> AsyncGenerator[Step]:
        """Answer a question step by step. Closing the iterator ends the LLM's work.

        Yields:
            The passages first. Then the answer's text piece by piece, with the verdicts on each sentence that is
            complete. The whole answer is last, or Failed if an error ends the text.

        Raises:
            ServiceError: as `research`, before the passages.
        """
        watch = Stopwatch()
        deadline = self._deadline(request)
        sources = await self._gather(request, deadline, watch)
        packed = sources.filled.packed
        yield Context(context=packed.passages, omitted=packed.omitted, tokens_counted=sources.filled.tokens_counted)
        draft: Draft | None = None
        try:
            if self._llm is not None and packed.passages and not request.context_only:
                async with aclosing(self._generate_stream(self._llm, request, sources, deadline)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Reply):
                            draft = draft_of_reply(piece, packed.passages)
                        else:
                            yield piece
            else:
                draft = await self._draft(request, sources, deadline)
                if draft.text:
                    yield Token(text=draft.text)
        except ServiceError as error:
            if request.on_llm_error == "fail":
                log.warning("research.failed", extra={"code": error.code, "reason": error.message})
                self._count(error)
                yield Failed(error=error)
                return
            draft = draft_of_error(error)
        assert draft is not None, "a stream without error ends in a reply"
        yield await self._finish(request, sources, draft, watch)

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

    async def _gather(self, request: ResearchRequest, deadline: Deadline, watch: Stopwatch) -> Sources:
        self._check(request)
        # A question that leaves no room is refused here, before anything is retrieved.
        budget = plan(
            request.query,
            window_tokens=request.context_tokens or self._settings.context_tokens,
            answer_tokens=request.max_tokens,
            passages_max=request.passages,
        )
        llm = None if request.context_only else self._llm  # with context_only no LLM may learn of the question
        return await gather(
            request,
            budget,
            self._recall,
            relevance_min=self._settings.min_relevance if request.min_relevance is None else request.min_relevance,
            count=None if llm is None else (lambda messages: llm.count(messages, deadline)),
            watch=watch,
        )

    async def _draft(self, request: ResearchRequest, sources: Sources, deadline: Deadline) -> Draft:
        if request.context_only:
            return Draft()
        if not sources.passages:
            return Draft(text=IRRELEVANT if sources.nearest else ABSTAINED)
        if self._llm is not None:
            reply = await self._llm.complete(
                sources.filled.prompt,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                deadline=deadline,
            )
            return draft_of_reply(reply, sources.passages)
        if self._settings.fallback == "none":
            return draft_of_error(LLMNotConfigured())
        return await asyncio.to_thread(draft_of_quotations, request.query, sources.passages, self._recall.embed)

    async def _generate_stream(
        self, llm: Endpoints, request: ResearchRequest, sources: Sources, deadline: Deadline
    ) -> AsyncGenerator[Token | Cited | Reply]:
        """Yield the text as it comes, the verdicts on each complete sentence, and the reply last."""
        reader = SentenceReader()
        stream = llm.stream(
            sources.filled.prompt,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            deadline=deadline,
        )
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        yield Token(text=piece)
                        sentences = reader.feed(piece)
                    case Reply():
                        sentences = reader.finish()
                citing = [sentence for sentence in sentences if sentence.claims]
                if citing:
                    verified = await asyncio.to_thread(verify, citing, sources.passages, self._recall.embed)
                    for citation in (citation for of_sentence in verified for citation in of_sentence):
                        yield Cited(citation=citation)
                if isinstance(piece, Reply):
                    yield piece

    async def _finish(self, request: ResearchRequest, sources: Sources, draft: Draft, watch: Stopwatch) -> Answer:
        watch.lap("generate")
        verified = await asyncio.to_thread(
            verify_draft, draft, sources.passages, self._recall.embed, is_strict=request.strict
        )
        watch.lap("verify")
        remembered, not_remembered = None, None
        if request.remember:
            remembered, not_remembered = await asyncio.to_thread(
                remember, request, sources, draft, verified.kept, self._recall
            )
            watch.lap("remember")
        answer = assemble(
            request,
            sources,
            draft,
            verified,
            remembered=remembered,
            not_remembered=not_remembered,
            latency_ms=watch.total_ms,
        )
        _log_answer(request, answer)
        self._count(answer)
        if request.trace and self._keep_trace is not None:
            trace = _trace(request, sources, answer, watch)
            trace_id = await asyncio.to_thread(self._keep_trace, trace)
            answer = answer.model_copy(update={"trace_id": trace_id})
        return answer


def _trace(request: ResearchRequest, sources: Sources, answer: Answer, watch: Stopwatch) -> Trace:
    is_prompt_used = bool(sources.passages) or request.context_only
    return Trace(
        request=request,
        retrieved=sources.retrieved,
        prompt=sources.filled.prompt if is_prompt_used else None,
        answer=answer,
        timings_ms=watch.laps_ms,
        asked_at_ms=sources.asked_at_ms,
    )


def _log_answer(request: ResearchRequest, answer: Answer) -> None:
    """Log numbers and names only: the text of a question or a memory does not belong in a log."""
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
