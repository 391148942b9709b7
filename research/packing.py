"""Fits passages into a model's window, and says what did not fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_service.clock import iso_time
from memory_service.errors import LimitExceeded
from memory_service.model import Hit, Memory
from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from research.model import Passage
from research.prompt import build, passage_line, quote
from research.sentences import ends

# What a chat template puts around two messages; Llama 3.1's also states two dates, together about 40 tokens.
_TEMPLATE_TOKENS = 64

# Below this no passage is worth sending: a number, a date, even one in emoji, and a sentence or two.
_ROOM_TOKENS_MIN = 256

# A date is a short plain text; whatever else `event_time` holds is no date and stays in the metadata.
_DATE_CHARS_MAX = 40


@dataclass(frozen=True, slots=True)
class Packed:
    """The passages that fit, numbered from 1 in the order of the hits, and how many hits did not."""

    passages: tuple[Passage, ...]
    omitted: int


def room(question: str, *, context_tokens: int, max_tokens: int) -> int:
    """Tokens left for passages, beside instructions, question and answer.

    Raises:
        LimitExceeded: question and answer leave no room.
    """
    frame = sum(estimate_tokens(message["content"]) for message in build(question, ()))
    left = context_tokens - max_tokens - frame - _TEMPLATE_TOKENS
    if left < _ROOM_TOKENS_MIN:
        raise LimitExceeded(
            f"The question and max_tokens {max_tokens:,} leave no room for memories in the model's window of "
            f"{context_tokens:,} tokens; shorten the question, lower max_tokens or raise LLM_CONTEXT_TOKENS.",
            field="max_tokens",
        )
    return left


def pack(hits: Sequence[Hit], room_tokens: int) -> Packed:
    """Take the hits in their order, best first, and leave out each that does not fit any more.

    Only the best is cut to fit, at the end of a sentence or a word: one that fills the window alone would otherwise
    leave nothing to answer from.
    """
    passages: list[Passage] = []
    for hit in hits:
        passage = _passage(hit, len(passages) + 1)
        if not passages and _cost(passage) > room_tokens:
            passage = _clipped(hit, room_tokens)
        if _cost(passage) <= room_tokens:
            passages.append(passage)
            room_tokens -= _cost(passage)
    return Packed(tuple(passages), omitted=len(hits) - len(passages))


def _passage(hit: Hit, n: int, content: str | None = None) -> Passage:
    memory = hit.memory
    return Passage(
        n=n,
        key=memory.key,
        namespace=memory.namespace,
        content=memory.content if content is None else content,
        metadata=memory.metadata,
        score=hit.score,
        date=_date(memory),
        created_at=iso_time(memory.created_at_ms),
        truncated=content is not None,
    )


def _date(memory: Memory) -> str:
    said = memory.metadata.get("event_time")
    if isinstance(said, str) and 0 < len(said) <= _DATE_CHARS_MAX and quote(said) == f'"{said}"':
        return said
    return iso_time(memory.created_at_ms)


def _cost(passage: Passage) -> int:
    line = passage_line(passage.n, passage.date, passage.content, truncated=passage.truncated)
    return estimate_tokens(line + "\n")


def _clipped(hit: Hit, room_tokens: int) -> Passage:
    text = hit.memory.content
    end = _longest_prefix(
        min(len(text) - 1, room_tokens * CHARS_PER_TOKEN_MAX),
        lambda chars: _cost(_passage(hit, 1, text[:chars])) <= room_tokens,
    )
    return _passage(hit, 1, text[: _boundary(text, end)])


def _longest_prefix(chars_max: int, fits: Callable[[int], bool]) -> int:
    """The largest number of characters up to `chars_max` that fits, by bisection; 0 when none does."""
    low, high = 0, chars_max
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _boundary(text: str, end: int) -> int:
    """The last end of a sentence before `end`, else of a word; one that gives up more than half is not taken."""
    sentence = max((stop for stop in ends(text[: end + 1]) if stop <= end), default=0)
    if sentence > end // 2:
        return sentence
    word = max(text.rfind(" ", 0, end + 1), text.rfind("\n", 0, end + 1))
    return word if word > end // 2 else end
