"""Tells whether two texts say nearly the same, by the words that they share; no model.

The share of common runs of three words (Broder, "On the resemblance and containment of documents", 1997). Texts whose
numbers differ are never alike, however alike the rest: a fact and its correction must both be read.
"""

import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
_WORDS_EACH = 3

# Two sentences that differ in one word of ten share about half of their runs; a copy with another beginning most.
_ALIKE_SHARE = 0.7

# Fifty different texts of this length are compared in some 0.05 s. Longer ones are alike only when they are equal.
_CHARS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Shingles:
    """What texts are compared by.

    Attributes:
        runs: hashes of the runs of words.
        numbers: the words with a digit.
        text: the text itself where it is too long for runs.
    """

    runs: frozenset[int]
    numbers: frozenset[str]
    text: str | None = None


def shingles(text: str) -> Shingles:
    """Prepare a text for comparison."""
    if len(text) > _CHARS_MAX:
        return Shingles(frozenset(), frozenset(), text)
    words = _WORD.findall(text.casefold())
    runs = (tuple(words[i : i + _WORDS_EACH]) for i in range(max(1, len(words) - _WORDS_EACH + 1)))
    return Shingles(frozenset(map(hash, runs)), frozenset(w for w in words if any(c.isdigit() for c in w)))


def are_alike(one: Shingles, other: Shingles) -> bool:
    """Whether the texts say nearly the same."""
    if one.text is not None or other.text is not None:
        return one.text == other.text
    if one.numbers != other.numbers:
        return False
    fewer, more = sorted((len(one.runs), len(other.runs)))
    if fewer < _ALIKE_SHARE * more:
        return False
    common = len(one.runs & other.runs)
    return common >= _ALIKE_SHARE * (fewer + more - common)
