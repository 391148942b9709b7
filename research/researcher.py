"""Answers questions from memories: retrieve, fill the prompt, ask the LLM, verify the citations.

This module knows no model, no protocol and no storage. Memories come from a `Recall`, completions from `Endpoints`.
The gateway above translates its requests into `ResearchRequest`, and answers into its own words.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from research import drafts
from research.context.recall import Recall
from research.drafts import Draft
from research.grounding.claims import SentenceReader
from research.grounding.verification import verify
from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints, LLMReply
from research.llm.settings import LLMSettings
from research.remembering import remember
from research.sources import Sources, gather
from research.trace import Stopwatch, Trace
from vector_memory.errors import LLMNotConfigured, ServiceError
from vector_memory.research import Answer, Cited, Context, Failed, ResearchRequest, Step, Token

ABSTAINED: Final = "No memory matches this question, so there is nothing to answer it from."
IRRELEVANT: Final = "The memories do not seem to answer this question; `nearest` shows what comes closest."

_LOGGED_FIELDS = "model tokens_used tokens_counted latency_ms endpoint cost abstained truncated degraded"

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
            draft = drafts.of_error(error)
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
                        if isinstance(piece, LLMReply):
                            draft = drafts.of_reply(piece, packed.passages)
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
            draft = drafts.of_error(error)
        assert draft is not None, "a stream without error ends in a reply"
        yield await self._finish(request, sources, draft, watch)

    async def close(self) -> None:
        """Close the connections to the LLM."""
        if self._llm is not None:
            await self._llm.close()

    def _deadline(self, request: ResearchRequest) -> Deadline:
        return Deadline.after(self._settings.timeout_s if request.timeout_s is None else request.timeout_s)

    async def _gather(self, request: ResearchRequest, deadline: Deadline, watch: Stopwatch) -> Sources:
        is_llm_needed = not request.context_only and request.on_llm_error == "fail"
        if self._llm is None and self._settings.fallback == "none" and is_llm_needed:
            raise LLMNotConfigured
        return await gather(request, self._settings, self._recall, self._llm, deadline=deadline, watch=watch)

    async def _draft(self, request: ResearchRequest, sources: Sources, deadline: Deadline) -> Draft:
        if request.context_only:
            return Draft()
        if not sources.passages:
            return Draft(text=IRRELEVANT if sources.nearest else ABSTAINED)
        if self._llm is not None:
            reply = await self._llm.complete(_body(request, sources), deadline=deadline)
            return drafts.of_reply(reply, sources.passages)
        if self._settings.fallback == "none":
            return drafts.of_error(LLMNotConfigured())
        return await asyncio.to_thread(drafts.of_quotations, request.query, sources.passages, self._recall.embed)

    async def _generate_stream(
        self, llm: Endpoints, request: ResearchRequest, sources: Sources, deadline: Deadline
    ) -> AsyncGenerator[Token | Cited | LLMReply]:
        """Yield the text as it comes, the verdicts on each complete sentence, and the reply last."""
        reader = SentenceReader()
        async with aclosing(llm.stream(_body(request, sources), deadline=deadline)) as pieces:
            async for piece in pieces:
                match piece:
                    case str():
                        yield Token(text=piece)
                        sentences = reader.feed(piece)
                    case LLMReply():
                        sentences = reader.finish()
                citing = [sentence for sentence in sentences if sentence.claims]
                if citing:
                    verified = await asyncio.to_thread(verify, citing, sources.passages, self._recall.embed)
                    for citation in (citation for of_sentence in verified for citation in of_sentence):
                        yield Cited(citation=citation)
                if isinstance(piece, LLMReply):
                    yield piece

    async def _finish(self, request: ResearchRequest, sources: Sources, draft: Draft, watch: Stopwatch) -> Answer:
        watch.lap("generate")
        verified = await asyncio.to_thread(
            drafts.verify, draft, sources.passages, self._recall.embed, is_strict=request.strict
        )
        watch.lap("verify")
        memory: drafts.MemoryOutcome = (None, None)
        if request.remember:
            memory = await asyncio.to_thread(remember, request, sources, draft, verified.supported, self._recall)
            watch.lap("remember")
        answer = drafts.assemble(request, sources, draft, verified, memory, latency_ms=watch.total_ms)
        _log_answer(request, answer)
        self._count(answer)
        if request.trace and self._keep_trace is not None:
            trace = _trace(request, sources, answer, watch)
            trace_id = await asyncio.to_thread(self._keep_trace, trace)
            answer = answer.model_copy(update={"trace_id": trace_id})
        return answer


def _body(request: ResearchRequest, sources: Sources) -> dict[str, Any]:
    messages = list(sources.filled.prompt)
    return {"messages": messages, "max_tokens": request.max_tokens, "temperature": request.temperature}


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
    fields = {name: getattr(request, name) for name in ("namespace", "k", "context_only")}
    fields |= {"passages": len(answer.context), "citations": len(verdicts)}
    fields |= {verdict: verdicts.count(verdict) for verdict in ("supported", "unsupported")}
    fields |= {name: len(getattr(answer, name)) for name in ("omitted", "unknown_citations", "uncited", "removed")}
    fields |= {name: getattr(answer, name) for name in _LOGGED_FIELDS.split()}
    log.info("research.answered", extra=fields | {"remembered": answer.remembered is not None})
