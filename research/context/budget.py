"""Fills the window with passages, by the server's own count of tokens where it gives one.

The estimate (`tokens.py`) is rather too high, so by it alone some passages are left out that would fit. With a count of
the prompt that it leads to, the room is measured anew in the estimate's own tokens, and filled again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from research.context.packing import Candidate, Packed, candidates, pack_candidates, room
from research.context.prompt import build
from research.llm.counting import Count
from vector_memory.errors import LimitExceeded
from vector_memory.research import ChatMessage
from vector_memory.retrieval import Hit

CountTokens = Callable[[Sequence[ChatMessage]], Awaitable[Count | None]]

# A count is of one prompt; the next, with other passages in it, may have tokens of other lengths.
_CAUTION = 0.97
_COUNTS_MAX = 4


@dataclass(frozen=True, slots=True)
class Window:
    """How much a prompt may hold.

    Attributes:
        tokens: of prompt and answer together.
        answer_tokens: of these, for the answer.
        passages_max: None takes as many as fit.
    """

    tokens: int
    answer_tokens: int
    passages_max: int | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """What the prompt is made of, and by whom its tokens were counted."""

    packed: Packed
    counted: Literal["server", "estimate"]


async def fill(question: str, hits: Sequence[Hit], window: Window, count: CountTokens | None) -> Filled:
    """Pack hits into a window, by the counts of a server where there is one to ask.

    Raises:
        LimitExceeded: question and answer leave no room for passages.
    """
    room_tokens = room(question, context_tokens=window.tokens, max_tokens=window.answer_tokens)
    found = await asyncio.to_thread(candidates, hits)
    packed = await asyncio.to_thread(pack_candidates, found, room_tokens, window.passages_max)
    if count is None or not packed.passages:
        return Filled(packed, "estimate")
    return await _filled_by_count(question, found, packed, window, count)


async def _filled_by_count(
    question: str, found: Sequence[Candidate], packed: Packed, window: Window, count: CountTokens
) -> Filled:
    room_tokens = room(question, context_tokens=window.tokens, max_tokens=window.answer_tokens)
    frame_tokens = window.tokens - window.answer_tokens - room_tokens
    fitting: Packed | None = None
    for _ in range(_COUNTS_MAX):
        counted = await count(build(question, packed.passages))
        if counted is None:
            return Filled(fitting or packed, "server" if fitting else "estimate")
        prompt_max = min(window.tokens, counted.window or window.tokens) - window.answer_tokens
        if counted.tokens <= prompt_max:
            if not packed.lacks_room:
                return Filled(packed, "server")
            fitting = packed
        elif fitting is not None:
            return Filled(fitting, "server")
        room_tokens = _room_by_count(packed, frame_tokens, counted.tokens, prompt_max)
        packed = await asyncio.to_thread(pack_candidates, found, room_tokens, window.passages_max)
        if fitting is None and not packed.passages:
            raise LimitExceeded(
                f"The question and max_tokens {window.answer_tokens:,} leave no room for memories in the window of "
                f"{counted.window or window.tokens:,} tokens that the LLM's server states; shorten the question or "
                "lower max_tokens.",
                field="max_tokens",
            )
        if fitting is not None and packed.tokens <= fitting.tokens:
            return Filled(fitting, "server")
    return Filled(fitting or packed, "server")


def _room_by_count(packed: Packed, frame_tokens: int, counted: int, prompt_max: int) -> int:
    """The room for passages in the estimate's tokens, if the estimate is as wrong for the rest as for these.

    Never changed by less than the difference: what the template costs may be in the count and not in the estimate.

    Args:
        packed: the passages that were counted.
        frame_tokens: of all else in the prompt, by the estimate.
        counted: tokens of the whole prompt.
        prompt_max: tokens that it may have.
    """
    spare = prompt_max - counted
    estimated_each = max(1.0, (packed.tokens + frame_tokens) / counted)
    return int((packed.tokens + spare * estimated_each) * _CAUTION)
