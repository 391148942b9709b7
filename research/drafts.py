"""Drafts: an answer's text before its citations are verified, and how an answer is assembled from one.

This module asks neither the memories nor an LLM. `Researcher` makes the drafts, and says which of them it wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_service.clock import wall_ms
from research.grounding import citations, claims, extractive
from research.grounding.claims import Sentence
from research.grounding.extractive import Embed
from research.grounding.strictness import SupportedText, keep_supported
from research.grounding.verification import verify
from research.llm.endpoints import Reply
from research.sources import Sources
from vector_memory.errors import ServiceError
from vector_memory.research import Answer, Citation, LLMFailure, NotRemembered, Passage, ResearchRequest
from vector_memory.times import iso_time


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
    reply: Reply | None = None
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
        kept: what the memories support of the text; None if no LLM wrote it.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    uncited: tuple[tuple[int, int], ...] = ()
    removed: tuple[str, ...] = ()
    kept: SupportedText | None = None


def draft_of_reply(reply: Reply, passages: Sequence[Passage]) -> Draft:
    """Read the sentences and citations of an LLM's reply."""
    completion = reply.completion
    text = citations.without_unknown(completion.text, len(passages))
    return Draft(
        text=text,
        model=completion.model,
        sentences=tuple(claims.read(text)),
        unknown_citations=citations.find(completion.text, len(passages)).unknown,
        reply=reply,
    )


def draft_of_quotations(question: str, passages: Sequence[Passage], embed: Embed) -> Draft:
    """Quote the passages instead of asking an LLM."""
    extract = extractive.extract(question, passages, embed)
    return Draft(text=extract.text, model=extractive.MODEL, sentences=extract.sentences)


def draft_of_error(error: ServiceError) -> Draft:
    """Make a draft without text, for an answer that has passages only."""
    return Draft(error=LLMFailure(code=error.code, message=error.message))


def verify_draft(draft: Draft, passages: Sequence[Passage], embed: Embed, *, is_strict: bool) -> VerifiedText:
    """Judge every citation of a draft, and leave out what no passage supports if the question is strict."""
    citations_by_sentence = verify(draft.sentences, passages, embed)
    kept = None if draft.reply is None else keep_supported(draft.text, draft.sentences, citations_by_sentence)
    if is_strict and kept is not None:
        return VerifiedText(text=kept.text, citations=kept.citations, removed=kept.removed, kept=kept)
    return VerifiedText(
        text=draft.text,
        citations=tuple(citation for of_sentence in citations_by_sentence for citation in of_sentence),
        uncited=claims.uncited(draft.sentences),
        kept=kept,
    )


def assemble(
    request: ResearchRequest,
    sources: Sources,
    draft: Draft,
    verified: VerifiedText,
    *,
    remembered: str | None,
    not_remembered: NotRemembered | None,
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
        remembered=remembered,
        not_remembered=not_remembered,
    )
