"""Drafts: an answer's text before its citations are verified, and how an answer is assembled from one.

This module asks neither the memories nor an LLM. `Researcher` makes the drafts, and says which of them it wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from memory_service.clock import wall_ms
from research.grounding import citations, claims, extractive, verification
from research.grounding.claims import Sentence
from research.grounding.extractive import Embed
from research.grounding.strictness import SupportedText, keep_supported
from research.llm.endpoints import LLMReply
from research.sources import Sources
from vector_memory.errors import ServiceError
from vector_memory.research import Answer, Citation, LLMFailure, NotRemembered, Passage, ResearchRequest
from vector_memory.times import iso_time

MemoryOutcome: TypeAlias = tuple[str | None, NotRemembered | None]
"""The key of the memory that was made of an answer, or the reason why none was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An answer's text and its origin.

    Attributes:
        text: the text with its marks, without marks of unknown passages; empty without an answer.
        model: the model that wrote it, or `extractive`; None if nothing was generated.
        sentences: the sentences of the text; empty if they need no verdicts.
        unknown_citations: numbers that the text cited and no passage has.
        reply: the reply of the LLM; None if no LLM wrote the text.
        error: why the LLM failed, if it did.
    """

    text: str = ""
    model: str | None = None
    sentences: tuple[Sentence, ...] = ()
    unknown_citations: tuple[int, ...] = ()
    reply: LLMReply | None = None
    error: LLMFailure | None = None

    @property
    def is_truncated(self) -> bool:
        """Whether the text stops early. A server whose window is full before max_tokens also says `length`."""
        return self.reply is not None and self.reply.completion.finish_reason == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedText:
    """A draft's text after its citations were verified.

    Attributes:
        uncited: characters [start, end) of sentences that state something and cite nothing.
        removed: sentences that were left out for a strict question.
        supported: what the memories support of the text; None if no LLM wrote it.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    uncited: tuple[tuple[int, int], ...] = ()
    removed: tuple[str, ...] = ()
    supported: SupportedText | None = None


def of_reply(reply: LLMReply, passages: Sequence[Passage]) -> Draft:
    """Read the sentences and citations of an LLM's reply."""
    completion = reply.completion
    text = citations.without_unknown(completion.text, len(passages))
    sentences, unknown = tuple(claims.read(text)), citations.find(completion.text, len(passages)).unknown
    return Draft(text=text, model=completion.model, sentences=sentences, unknown_citations=unknown, reply=reply)


def of_quotations(question: str, passages: Sequence[Passage], embed: Embed) -> Draft:
    """Quote the passages instead of asking an LLM."""
    extract = extractive.extract(question, passages, embed)
    return Draft(text=extract.text, model=extractive.MODEL, sentences=extract.sentences)


def of_error(error: ServiceError) -> Draft:
    """Make a draft without text, for an answer that has passages only."""
    return Draft(error=LLMFailure(code=error.code, message=error.message))


def verify(draft: Draft, passages: Sequence[Passage], embed: Embed, *, is_strict: bool) -> VerifiedText:
    """Judge every citation of a draft, and leave out what no passage supports if the question is strict."""
    citations_by_sentence = verification.verify(draft.sentences, passages, embed)
    supported = None if draft.reply is None else keep_supported(draft.text, draft.sentences, citations_by_sentence)
    if is_strict and supported is not None:
        return VerifiedText(
            text=supported.text, citations=supported.citations, removed=supported.removed, supported=supported
        )
    return VerifiedText(
        text=draft.text,
        citations=tuple(citation for of_sentence in citations_by_sentence for citation in of_sentence),
        uncited=claims.uncited(draft.sentences),
        supported=supported,
    )


def assemble(
    request: ResearchRequest,
    sources: Sources,
    draft: Draft,
    verified: VerifiedText,
    memory: MemoryOutcome,
    *,
    latency_ms: int,
) -> Answer:
    """Put an answer together. It has no trace id yet."""
    packed, reply = sources.filled.packed, draft.reply
    return Answer(
        result=verified.text,
        model=draft.model,
        tokens_used=reply.completion.tokens_used if reply else 0,
        latency_ms=latency_ms,
        timestamp=iso_time(wall_ms()),
        citations=verified.citations,
        unknown_citations=draft.unknown_citations,
        uncited=verified.uncited,
        removed=verified.removed,
        context=packed.passages,
        omitted=packed.omitted,
        abstained=not packed.passages,
        nearest=sources.nearest,
        truncated=draft.is_truncated,
        prompt=sources.filled.prompt if request.context_only else None,
        endpoint=reply.endpoint if reply else None,
        prompt_tokens=reply.completion.prompt_tokens if reply else 0,
        completion_tokens=reply.completion.completion_tokens if reply else 0,
        tokens_counted=sources.filled.tokens_counted,
        cost=reply.cost if reply else None,
        degraded=draft.error is not None,
        llm_error=draft.error,
        remembered=memory[0],
        not_remembered=memory[1],
    )
