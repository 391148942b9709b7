"""Gives the chunks of a document numbers that order them, and that stay the same when other chunks come or go.

A number expresses only the order. There are gaps between numbers, so a chunk that is inserted between two others
changes neither number, and a chunk that an upload did not change is not written again.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

GAP = 1 << 20
"""Distance between fresh numbers. Each insertion at the same place halves the gap, so 20 of them fit before all chunks
get fresh numbers."""


def number_keys(keys: Sequence[str], held: Mapping[str, int]) -> list[int]:
    """Return a number for each key, in rising order.

    Args:
        keys: the keys in reading order, without repetition.
        held: numbers that keys have already. As many of them as possible are kept.
    """
    kept = _longest_rise([held.get(key) for key in keys])
    numbers: list[int] = []
    below = 0
    start = 0
    while start < len(keys):
        # The keys from `start` to `end` have no number yet; they get numbers between `below` and `above`.
        end = next((later for later in range(start, len(keys)) if kept[later] is not None), len(keys))
        above = kept[end] if end < len(keys) else None
        step = GAP if above is None else min(GAP, (above - below) // (end - start + 1))
        if step < 1:  # the gap is used up, so all keys get fresh numbers
            return [GAP * (position + 1) for position in range(len(keys))]
        numbers += [below + step * (position + 1) for position in range(end - start)]
        if above is not None:
            numbers.append(above)
        below, start = numbers[-1], end + 1
    return numbers


def _longest_rise(numbers: Sequence[int | None]) -> list[int | None]:
    """Return a longest rising subsequence: its numbers at their positions, and None elsewhere (patience sorting)."""
    tails: list[int] = []  # at i, the smallest number that ends a rise of length i + 1
    ends: list[int] = []  # at i, the position of that number
    before: dict[int, int | None] = {}  # position of the predecessor in the rise that ends at a position
    for position, number in enumerate(numbers):
        if number is None or number < 1:
            continue
        # The number extends the longest rise whose last number is smaller, and becomes the end of a rise itself.
        length = bisect_left(tails, number)
        tails[length:] = [number, *tails[length + 1 :]]
        ends[length:] = [position, *ends[length + 1 :]]
        before[position] = ends[length - 1] if length else None
    kept: list[int | None] = [None] * len(numbers)
    last = ends[-1] if ends else None
    while last is not None:
        kept[last] = numbers[last]
        last = before[last]
    return kept
