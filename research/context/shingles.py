"""Compares two texts by the words that they share, to find out whether they say nearly the same. No model is used.

The measure is the share of common runs of three words (Broder, "On the resemblance and containment of documents",
1997). Texts with different numbers are never alike: a fact and its correction must both be read.
"""

from dataclasses import dataclass

from memory_service.namespaces.words import words

_RUN_WORDS = 3

# Two sentences that differ in one word of ten share about half of their runs. A copy with another beginning shares
# most of them.
_ALIKE_SHARE = 0.7

# Comparing fifty different texts of this length takes about 0.05 s. Longer ones are alike only when they are equal.
_CHARS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Shingles:
    """The features that two texts are compared by.

    Attributes:
        runs: hashes of the runs of words.
        numbers: the words with a digit.
        text: the text itself if it is too long for runs; else None.
    """

    runs: frozenset[int]
    numbers: frozenset[str]
    text: str | None = None


def shingles(text: str) -> Shingles:
    """Prepare a text for comparison."""
    if len(text) > _CHARS_MAX:
        return Shingles(frozenset(), frozenset(), text)
    found = words(text)
    # A text of fewer than three words is one run.
    runs = (tuple(found[i : i + _RUN_WORDS]) for i in range(max(1, len(found) - _RUN_WORDS + 1)))
    numbers = (word for word in found if any(char.isdigit() for char in word))
    return Shingles(frozenset(map(hash, runs)), frozenset(numbers))


def are_alike(one: Shingles, other: Shingles) -> bool:
    """Check whether two texts say nearly the same."""
    if one.text is not None or other.text is not None:
        return one.text == other.text
    if one.numbers != other.numbers:
        return False
    # The shorter set bounds the share from above, so most pairs need no intersection.
    fewer, more = sorted((len(one.runs), len(other.runs)))
    if fewer < _ALIKE_SHARE * more:
        return False
    common = len(one.runs & other.runs)
    return common >= _ALIKE_SHARE * (fewer + more - common)
