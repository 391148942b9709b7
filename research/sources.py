"""Gathers what an answer is made from: memories are retrieved, judged relevant or not, and packed into the prompt."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from memory_service.clock import wall_ms
from research.context.budget import CountTokens, FilledPrompt, PromptBudget, fill
from research.context.recall import Recall, recall_for
from research.trace import Stopwatch
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
    budget: PromptBudget,
    recall: Recall,
    *,
    relevance_min: float,
    count: CountTokens | None,
    watch: Stopwatch,
) -> Sources:
    """Retrieve memories for a question and fill its prompt with them.

    Args:
        request: the question.
        budget: what the prompt may hold.
        recall: the memories.
        relevance_min: abstain if no memory is at least this likely to answer, 0 to 1.
        count: counts a prompt by the LLM's server; None estimates.
        watch: takes the time of both steps.

    Raises:
        ServiceError: any error of retrieving, or the server's own window leaves no room for passages.
    """
    asked_at_ms = wall_ms()
    _, retrieved = await asyncio.to_thread(recall_for, request, recall)
    watch.lap("retrieve")
    is_abstaining = not request.context_only and _are_irrelevant(retrieved.hits, relevance_min)
    filled = await fill(budget, () if is_abstaining else retrieved.hits, count)
    watch.lap("pack")
    nearest = retrieved.hits[:NEAREST_MAX] if is_abstaining else ()
    return Sources(
        filled=filled, retrieved=retrieved, asked_at_ms=asked_at_ms, nearest=tuple(_miss(hit) for hit in nearest)
    )


def _are_irrelevant(hits: Sequence[Hit], relevance_min: float) -> bool:
    relevances = [hit.relevance for hit in hits if hit.relevance is not None]
    return bool(relevances) and max(relevances) < relevance_min


def _miss(hit: Hit) -> Miss:
    memory = hit.memory
    return Miss(
        key=memory.key,
        namespace=memory.namespace,
        content=memory.content,
        score=hit.score,
        relevance=hit.relevance,
    )
