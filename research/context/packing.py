"""Fits passages into a model's window, and says what was left out and why.

What matters first is relevance: hits are taken in their order. Then diversity: what says nearly the same as a passage
that is in already comes behind all others. Then recency: of equal hits, and of such repetitions, the newest first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from memory_service.tokens import CHARS_PER_TOKEN_MAX, TEMPLATE_TOKENS, estimate_tokens
from research.context.prompt import build, passage_line, quote
from research.context.shingles import Shingles, are_alike, shingles
from research.grounding.sentences import ends
from vector_memory.errors import LimitExceeded
from vector_memory.memories import Memory, Metadata
from vector_memory.research import PROVENANCES, Omitted, Passage, Provenance
from vector_memory.retrieval import Hit
from vector_memory.times import iso_time

# Below this no passage is worth sending: a number, a date, even one in emoji, and a sentence or two.
_ROOM_TOKENS_MIN = 256

# A date is a short plain text; whatever else `event_time` holds is no date and stays in the metadata.
_DATE_CHARS_MAX = 40

# A name; whatever longer text `speaker` holds is none and stays in the metadata.
_SPEAKER_CHARS_MAX = 80


@dataclass(frozen=True, slots=True)
class Packed:
    """The passages that fit.

    Attributes:
        passages: numbered from 1 in the order of the prompt.
        omitted: the other hits, in the order of the hits.
        tokens: of the passages, by the estimate that they were packed by.
    """

    passages: tuple[Passage, ...]
    omitted: tuple[Omitted, ...]
    tokens: int

    @property
    def lacks_room(self) -> bool:
        """Whether more room would hold more passages, or longer ones."""
        return any(left.reason != "passages" for left in self.omitted) or any(p.truncated for p in self.passages)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit, and what tells whether it repeats another."""

    hit: Hit
    shingles: Shingles


def room(question: str, *, context_tokens: int, max_tokens: int) -> int:
    """Tokens left for passages, beside instructions, question and answer.

    Raises:
        LimitExceeded: question and answer leave no room.
    """
    frame = sum(estimate_tokens(message["content"]) for message in build(question, ()))
    left = context_tokens - max_tokens - frame - TEMPLATE_TOKENS
    if left < _ROOM_TOKENS_MIN:
        raise LimitExceeded(
            f"The question and max_tokens {max_tokens:,} leave no room for memories in the model's window of "
            f"{context_tokens:,} tokens; shorten the question, lower max_tokens or raise LLM_CONTEXT_TOKENS.",
            field="max_tokens",
        )
    return left


def candidates(hits: Sequence[Hit]) -> list[Candidate]:
    """Prepare hits for packing: best first, and of equal ones the newest."""
    ordered = (
        hit
        for _, equals in groupby(hits, key=lambda hit: hit.score)
        for hit in sorted(equals, key=lambda hit: -hit.memory.created_at_ms)
    )
    return [Candidate(hit, shingles(hit.memory.content)) for hit in ordered]


def pack(hits: Sequence[Hit], room_tokens: int, passages_max: int | None = None) -> Packed:
    """Prepare hits and pack them once."""
    return pack_candidates(candidates(hits), room_tokens, passages_max)


def pack_candidates(found: Sequence[Candidate], room_tokens: int, passages_max: int | None = None) -> Packed:
    """Take the candidates in their order, and leave out each that does not fit any more.

    Only the best is cut to fit, at the end of a sentence or a word: one that fills the window alone would otherwise
    leave nothing to answer from.
    """
    packing = _Packing(room_tokens, len(found) if passages_max is None else passages_max)
    repeated = [one for one in found if not packing.take(one)]
    for one in sorted(repeated, key=lambda one: -one.hit.memory.created_at_ms):
        packing.take_repeated(one)
    order = {one.hit.memory.key: position for position, one in enumerate(found)}
    omitted = sorted(packing.omitted, key=lambda left: order[left.key])
    return Packed(tuple(packing.passages), tuple(omitted), tokens=room_tokens - packing.room_tokens)


class _Packing:
    """A window that is being filled."""

    def __init__(self, room_tokens: int, passages_max: int) -> None:
        self.room_tokens = room_tokens
        self.passages: list[Passage] = []
        self.omitted: list[Omitted] = []
        self._passages_max = passages_max
        self._taken: list[Shingles] = []

    def take(self, one: Candidate) -> bool:
        """Take a candidate or note why not; False, and neither, when it repeats what is in."""
        if any(are_alike(one.shingles, taken) for taken in self._taken):
            return False
        if not self._add(one):
            self._leave_out(one, Omitted(key=one.hit.memory.key, reason="no room"))
        return True

    def take_repeated(self, one: Candidate) -> None:
        if not self._add(one):
            self._leave_out(one, Omitted(key=one.hit.memory.key, reason="duplicate"))

    def _add(self, one: Candidate) -> bool:
        if len(self.passages) >= self._passages_max:
            return False
        passage = _passage(one.hit, len(self.passages) + 1)
        if not self.passages and _cost(passage) > self.room_tokens:
            passage = _clipped(one.hit, self.room_tokens)
        tokens = _cost(passage)
        if tokens > self.room_tokens or not passage.content:
            return False
        self.passages.append(passage)
        self._taken.append(one.shingles)
        self.room_tokens -= tokens
        return True

    def _leave_out(self, one: Candidate, omitted: Omitted) -> None:
        is_full = len(self.passages) >= self._passages_max
        self.omitted.append(Omitted(key=one.hit.memory.key, reason="passages") if is_full else omitted)


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
        speaker=_speaker(memory.metadata),
        provenance=_provenance(memory.metadata),
    )


def _date(memory: Memory) -> str:
    said = memory.metadata.get("event_time")
    if isinstance(said, str) and 0 < len(said) <= _DATE_CHARS_MAX and quote(said) == f'"{said}"':
        return said
    return iso_time(memory.created_at_ms)


def _speaker(metadata: Metadata) -> str | None:
    said = metadata.get("speaker")
    name = said.strip() if isinstance(said, str) else ""
    return name if 0 < len(name) <= _SPEAKER_CHARS_MAX else None


def _provenance(metadata: Metadata) -> Provenance | None:
    said = metadata.get("provenance")
    return next((known for known in PROVENANCES if known == said), None)


def _cost(passage: Passage) -> int:
    return estimate_tokens(passage_line(passage) + "\n")


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
