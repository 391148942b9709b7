"""Numbers for the chunks of a document that rise in reading order, and stay when others come or go.

A number says nothing but the order. They have gaps, so that what is put between two chunks renumbers neither: a chunk
that an upload did not touch is not written again.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

GAP = 1 << 20


def ordered(keys: Sequence[str], held: Mapping[str, int]) -> list[int]:
    """A number for each key, rising.

    Args:
        keys: in reading order, each once.
        held: the numbers that keys have already; as many as possible are kept.
    """
    kept = _longest_rise([held.get(key) for key in keys])
    numbers: list[int] = []
    below = 0
    at = 0
    while at < len(keys):
        after = next((later for later in range(at, len(keys)) if kept[later] is not None), len(keys))
        above = kept[after] if after < len(keys) else None
        step = GAP if above is None else min(GAP, (above - below) // (after - at + 1))
        if step < 1:
            return [GAP * (place + 1) for place in range(len(keys))]
        numbers += [below + step * (place + 1) for place in range(after - at)]
        if above is not None:
            numbers.append(above)
        below, at = numbers[-1], after + 1
    return numbers


def _longest_rise(numbers: Sequence[int | None]) -> list[int | None]:
    """The numbers of a longest rising subsequence in their places, and None for the rest (patience sorting)."""
    tails: list[int] = []
    ends: list[int] = []
    before: dict[int, int | None] = {}
    for at, number in enumerate(numbers):
        if number is None or number < 1:
            continue
        length = bisect_left(tails, number)
        tails[length:] = [number, *tails[length + 1 :]]
        ends[length:] = [at, *ends[length + 1 :]]
        before[at] = ends[length - 1] if length else None
    kept: list[int | None] = [None] * len(numbers)
    last = ends[-1] if ends else None
    while last is not None:
        kept[last] = numbers[last]
        last = before[last]
    return kept
