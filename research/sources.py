"""Gathers what an answer is made from: memories are retrieved, judged relevant or not, and packed into the prompt."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from memory_service.clock import wall_ms
from research.context.budget import FilledPrompt, fill, plan
from research.context.recall import Recall, recall_for
from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints
from research.llm.settings import LLMSettings
from research.trace import Stopwatch
from vector_memory.errors import LimitExceeded
from vector_memory.research import Miss, Passage, ResearchRequest
from vector_memory.retrieval import Hit, Retrieved

NEAREST_MAX = 3
"""Memories that an answer shows as its nearest ones if none is relevant enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The memories that came for a question, and the prompt that was made of them.

    Attributes:
        filled: the prompt; it has no passages if none of the memories is relevant enough.
        retrieved: the memories and how they were found.
        asked_at_ms: when they were retrieved, in milliseconds since the Unix epoch.
        nearest: the memories that came closest if none is relevant enough; else empty.
    """

    filled: FilledPrompt
    retrieved: Retrieved
    asked_at_ms: int
    nearest: tuple[Miss, ...] = ()

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The passages of the prompt, best first."""
        return self.filled.packed.passages


async def gather(
    request: ResearchRequest,
    settings: LLMSettings,
    recall: Recall,
    llm: Endpoints | None,
    *,
    deadline: Deadline,
    watch: Stopwatch,
) -> Sources:
    """Retrieve memories for a question and fill its prompt with them.

    Args:
        request: the question.
        settings: the model's window, and the relevance below which an answer abstains.
        recall: the memories.
        llm: the LLM whose server may count the prompt; None estimates.
        deadline: bounds the counts.
        watch: takes the time of both steps.

    Raises:
        LimitExceeded: the question wants a larger window than the model's, or leaves no room for memories.
        ServiceError: any error of retrieving.
    """
    # A question that leaves no room is refused before anything is retrieved.
    window, passages_max = _window_tokens(request, settings), request.passages
    budget = plan(request.query, window_tokens=window, answer_tokens=request.max_tokens, passages_max=passages_max)
    asked_at_ms = wall_ms()
    _, retrieved = await asyncio.to_thread(recall_for, request, recall)
    watch.lap("retrieve")
    is_abstaining = _are_irrelevant(request, settings, retrieved.hits)
    # With context_only no LLM may learn of the question.
    count = None if llm is None or request.context_only else partial(llm.count, deadline=deadline)
    filled = await fill(budget, () if is_abstaining else retrieved.hits, count)
    watch.lap("pack")
    nearest = tuple(_miss(hit) for hit in retrieved.hits[:NEAREST_MAX]) if is_abstaining else ()
    return Sources(filled=filled, retrieved=retrieved, asked_at_ms=asked_at_ms, nearest=nearest)


def _window_tokens(request: ResearchRequest, settings: LLMSettings) -> int:
    if request.context_tokens is not None and request.context_tokens > settings.context_tokens:
        raise LimitExceeded(
            f"context_tokens must be at most {settings.context_tokens:,}, the model's window (LLM_CONTEXT_TOKENS).",
            field="context_tokens",
        )
    return request.context_tokens or settings.context_tokens


def _are_irrelevant(request: ResearchRequest, settings: LLMSettings, hits: Sequence[Hit]) -> bool:
    if request.context_only:
        return False
    relevance_min = settings.min_relevance if request.min_relevance is None else request.min_relevance
    relevances = [hit.relevance for hit in hits if hit.relevance is not None]
    return bool(relevances) and max(relevances) < relevance_min


def _miss(hit: Hit) -> Miss:
    memory = hit.memory
    return Miss(
        key=memory.key, namespace=memory.namespace, content=memory.content, score=hit.score, relevance=hit.relevance
    )
