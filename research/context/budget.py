"""Fills the model's window with passages, and builds the prompt that holds them.

The estimate of `memory_service/tokens.py` is usually too high, so it leaves out passages that would fit. Where the
LLM's server counts the tokens of a prompt, the room is corrected by that count and filled again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from memory_service.tokens import TEMPLATE_TOKENS, estimate_tokens
from research.context.packing import Candidate, PackedPassages, candidates_of, pack_candidates
from research.context.prompt import build
from research.llm.counting import Count
from vector_memory.errors import LimitExceeded
from vector_memory.research import ChatMessage
from vector_memory.retrieval import Hit

CountTokens = Callable[[Sequence[ChatMessage]], Awaitable[Count | None]]

# Share of the corrected room that is used: the next prompt holds other passages, and its tokens may be shorter.
_CAUTION = 0.97
_COUNTS_MAX = 4

# A smaller room holds no useful passage: a number, a date (even one in emoji) and one or two sentences.
_ROOM_TOKENS_MIN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBudget:
    """How much the prompt of one question may hold.

    Attributes:
        question: the question that the prompt asks.
        window_tokens: tokens of prompt and answer together.
        answer_tokens: tokens that are kept free for the answer.
        room_tokens: tokens that are left for passages, by the estimate.
        passages_max: the most passages; None takes as many as fit.
    """

    question: str
    window_tokens: int
    answer_tokens: int
    room_tokens: int
    passages_max: int | None = None

    @property
    def frame_tokens(self) -> int:
        """Tokens of instructions, question and chat template, by the estimate."""
        return self.window_tokens - self.answer_tokens - self.room_tokens


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A prompt, the passages in it, and who counted its tokens."""

    packed: PackedPassages
    prompt: tuple[ChatMessage, ...]
    tokens_counted: Literal["server", "estimate"]


def plan(question: str, *, window_tokens: int, answer_tokens: int, passages_max: int | None = None) -> PromptBudget:
    """Divide the window between the question, its answer and passages.

    Raises:
        LimitExceeded: question and answer leave no room for passages.
    """
    frame_tokens = sum(estimate_tokens(message["content"]) for message in build(question, ())) + TEMPLATE_TOKENS
    room_tokens = window_tokens - answer_tokens - frame_tokens
    if room_tokens < _ROOM_TOKENS_MIN:
        raise LimitExceeded(
            f"The question and max_tokens {answer_tokens:,} leave no room for memories in the model's window of "
            f"{window_tokens:,} tokens; shorten the question, lower max_tokens or raise LLM_CONTEXT_TOKENS.",
            field="max_tokens",
        )
    return PromptBudget(
        question=question,
        window_tokens=window_tokens,
        answer_tokens=answer_tokens,
        room_tokens=room_tokens,
        passages_max=passages_max,
    )


async def fill(budget: PromptBudget, hits: Sequence[Hit], count: CountTokens | None) -> FilledPrompt:
    """Pack hits into a prompt, by the server's count of tokens if `count` gives one.

    Raises:
        LimitExceeded: the window that the server states leaves no room for passages.
    """
    candidates = await asyncio.to_thread(candidates_of, hits)
    packed = await _pack(budget, candidates, budget.room_tokens)
    if count is None or not packed.passages:
        return FilledPrompt(packed, build(budget.question, packed.passages), "estimate")
    return await _fill_by_count(budget, candidates, packed, count)


async def _pack(budget: PromptBudget, candidates: Sequence[Candidate], room_tokens: int) -> PackedPassages:
    return await asyncio.to_thread(pack_candidates, candidates, room_tokens, budget.passages_max)


async def _fill_by_count(
    budget: PromptBudget, candidates: Sequence[Candidate], packed: PackedPassages, count: CountTokens
) -> FilledPrompt:
    """Correct the room by counts until nothing more fits. The last prompt that fits wins."""
    fitting: FilledPrompt | None = None
    for _ in range(_COUNTS_MAX):
        prompt = build(budget.question, packed.passages)
        counted = await count(prompt)
        if counted is None:
            return fitting or FilledPrompt(packed, prompt, "estimate")
        window_tokens = min(budget.window_tokens, counted.window or budget.window_tokens)
        prompt_tokens_max = window_tokens - budget.answer_tokens
        if counted.tokens <= prompt_tokens_max:
            fitting = FilledPrompt(packed, prompt, "server")
            if not packed.lacks_room:
                return fitting
        elif fitting is not None:
            # The last correction overshot; the prompt before it fits.
            return fitting
        room_tokens = _corrected_room(packed, budget.frame_tokens, counted.tokens, prompt_tokens_max)
        packed = await _pack(budget, candidates, room_tokens)
        if fitting is None and not packed.passages:
            raise LimitExceeded(
                f"The question and max_tokens {budget.answer_tokens:,} leave no room for memories in the window of "
                f"{counted.window or budget.window_tokens:,} tokens that the LLM's server states; shorten the question "
                "or lower max_tokens.",
                field="max_tokens",
            )
        if fitting is not None and packed.tokens <= fitting.packed.tokens:
            return fitting
    return fitting or FilledPrompt(packed, build(budget.question, packed.passages), "server")


def _corrected_room(packed: PackedPassages, frame_tokens: int, counted_tokens: int, prompt_tokens_max: int) -> int:
    """Return the room for passages, in the estimate's tokens.

    Args:
        packed: the passages of the prompt that was counted.
        frame_tokens: tokens of the rest of that prompt, by the estimate.
        counted_tokens: tokens of that prompt, by the server.
        prompt_tokens_max: tokens that a prompt may have, by the server.
    """
    spare_tokens = prompt_tokens_max - counted_tokens
    # Estimated tokens per counted token. Assume the same ratio for further passages. It is at least 1, so that the
    # room never changes by less than the difference: the count may include a template that the estimate lacks.
    estimated_per_counted = max(1.0, (packed.tokens + frame_tokens) / counted_tokens)
    return int((packed.tokens + spare_tokens * estimated_per_counted) * _CAUTION)
