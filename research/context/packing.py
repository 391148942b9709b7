"""Packs passages into a number of tokens, and says what was left out and why.

Relevance comes first: hits are taken in their order. Diversity is second: a hit that says nearly the same as a passage
already taken comes after all others. Recency is third: among hits with equal scores, and among repetitions, the newest
comes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from research.context.prompt import passage_line, quote
from research.context.shingles import Shingles, are_alike, shingles
from research.grounding.sentences import ends
from vector_memory.memories import Memory, Metadata
from vector_memory.research import PROVENANCES, Omitted, Passage, Provenance
from vector_memory.retrieval import Hit
from vector_memory.times import iso_time

# `event_time` counts as a date, and `speaker` as a name, only up to this length. Longer texts stay in the metadata.
_DATE_CHARS_MAX = 40
_SPEAKER_CHARS_MAX = 80


@dataclass(frozen=True, slots=True)
class PackedPassages:
    """The passages that fit, and the hits that do not.

    Attributes:
        passages: the passages in the order of the prompt, numbered from 1.
        omitted: the other hits, in the order of the hits.
        tokens: tokens of the passages, by the estimate.
    """

    passages: tuple[Passage, ...]
    omitted: tuple[Omitted, ...]
    tokens: int

    @property
    def lacks_room(self) -> bool:
        """Whether more room would hold more passages, or longer ones."""
        return any(hit.reason != "passages" for hit in self.omitted) or any(p.truncated for p in self.passages)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit, and the shingles that show whether it repeats another one."""

    hit: Hit
    shingles: Shingles


def candidates_of(hits: Sequence[Hit]) -> list[Candidate]:
    """Prepare hits for packing: best first, and the newest first among equal scores."""
    ordered = (
        hit
        for _, equals in groupby(hits, key=lambda hit: hit.score)
        for hit in sorted(equals, key=lambda hit: -hit.memory.created_at_ms)
    )
    return [Candidate(hit, shingles(hit.memory.content)) for hit in ordered]


def pack(hits: Sequence[Hit], room_tokens: int, passages_max: int | None = None) -> PackedPassages:
    """Prepare hits and pack them once."""
    return pack_candidates(candidates_of(hits), room_tokens, passages_max)


def pack_candidates(
    candidates: Sequence[Candidate], room_tokens: int, passages_max: int | None = None
) -> PackedPassages:
    """Take the candidates in their order, and leave out each one that no longer fits.

    Only the best candidate is cut to fit, at the end of a sentence or a word. Without that cut, a best candidate that
    is longer than the window would leave nothing to answer from.
    """
    packing = _Packing(room_tokens, len(candidates) if passages_max is None else passages_max)
    repetitions = [candidate for candidate in candidates if not packing.take(candidate)]
    for candidate in sorted(repetitions, key=lambda candidate: -candidate.hit.memory.created_at_ms):
        packing.take_repetition(candidate)
    rank_by_key = {candidate.hit.memory.key: rank for rank, candidate in enumerate(candidates)}
    omitted = sorted(packing.omitted, key=lambda hit: rank_by_key[hit.key])
    return PackedPassages(tuple(packing.passages), tuple(omitted), tokens=room_tokens - packing.room_tokens)


class _Packing:
    """A window that is being filled."""

    def __init__(self, room_tokens: int, passages_max: int) -> None:
        self.room_tokens = room_tokens
        self.passages: list[Passage] = []
        self.omitted: list[Omitted] = []
        self._passages_max = passages_max
        self._taken: list[Shingles] = []

    def take(self, candidate: Candidate) -> bool:
        """Take a candidate, or note why it is omitted. Return False without doing either if it is a repetition."""
        if any(are_alike(candidate.shingles, taken) for taken in self._taken):
            return False
        if not self._add(candidate):
            self._omit(candidate, "no room")
        return True

    def take_repetition(self, candidate: Candidate) -> None:
        if not self._add(candidate):
            self._omit(candidate, "duplicate")

    def _add(self, candidate: Candidate) -> bool:
        if len(self.passages) >= self._passages_max:
            return False
        passage = _passage(candidate.hit, len(self.passages) + 1)
        tokens = _tokens(passage)
        if not self.passages and tokens > self.room_tokens:
            passage = _clipped_passage(candidate.hit, self.room_tokens)
            tokens = _tokens(passage)
        if tokens > self.room_tokens or not passage.content:
            return False
        self.passages.append(passage)
        self._taken.append(candidate.shingles)
        self.room_tokens -= tokens
        return True

    def _omit(self, candidate: Candidate, reason: Literal["no room", "duplicate"]) -> None:
        is_full = len(self.passages) >= self._passages_max
        self.omitted.append(Omitted(key=candidate.hit.memory.key, reason="passages" if is_full else reason))


def _passage(hit: Hit, n: int, content: str | None = None) -> Passage:
    """Return the passage of a hit, with shortened content if that is given."""
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
    event_time = memory.metadata.get("event_time")
    # A text that has to be escaped is no plain date.
    if (
        isinstance(event_time, str)
        and 0 < len(event_time) <= _DATE_CHARS_MAX
        and quote(event_time) == f'"{event_time}"'
    ):
        return event_time
    return iso_time(memory.created_at_ms)


def _speaker(metadata: Metadata) -> str | None:
    speaker = metadata.get("speaker")
    name = speaker.strip() if isinstance(speaker, str) else ""
    return name if 0 < len(name) <= _SPEAKER_CHARS_MAX else None


def _provenance(metadata: Metadata) -> Provenance | None:
    return next((known for known in PROVENANCES if known == metadata.get("provenance")), None)


def _tokens(passage: Passage) -> int:
    return estimate_tokens(passage_line(passage) + "\n")


def _clipped_passage(hit: Hit, room_tokens: int) -> Passage:
    text = hit.memory.content
    end = _longest_prefix(
        min(len(text) - 1, room_tokens * CHARS_PER_TOKEN_MAX),
        lambda chars: _tokens(_passage(hit, 1, text[:chars])) <= room_tokens,
    )
    return _passage(hit, 1, text[: _boundary(text, end)])


def _longest_prefix(chars_max: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number of characters up to `chars_max` that fits; 0 if none does."""
    # Bisection: `low` always fits (or is 0), and nothing above `high` does.
    low, high = 0, chars_max
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _boundary(text: str, end: int) -> int:
    """Return the last end of a sentence before `end`, else of a word, unless that gives up more than half."""
    sentence = max((stop for stop in ends(text[: end + 1]) if stop <= end), default=0)
    if sentence > end // 2:
        return sentence
    word = max(text.rfind(" ", 0, end + 1), text.rfind("\n", 0, end + 1))
    return word if word > end // 2 else end
