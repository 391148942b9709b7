"""Segments: the arrays of an index, in pieces of bounded size, so that neither growing nor tidying copies everything.

A segment's rows below its count never change, and its arrays are never made smaller. So readers go on with the segments
that they started with, while one writer appends behind the count, clears marks of life, and publishes new segments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.scanning import Positions, Sketches, Vectors
from indexes.sketches import BITS, sketched

Groups = NDArray[np.int64]
Number = TypeVar("Number", np.float32, np.int64)

SEGMENT_ROWS = 16_384
"""Rows of a full segment: 25 MB at 384 dimensions, which are copied in some 5 ms."""

ROWS_MIN = 1
"""First allocation, and least room to grow: small, because there may be thousands of small indexes."""

OBJECT_BYTES = 700
"""What the objects of a segment take beside the numbers in its arrays."""

DEAD_SHARE_MAX = 0.25
"""Removed rows of a segment are reclaimed above this share."""

FEW = 8
"""Groups are looked up one by one when a segment has more than this many rows for each, otherwise all at once."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows and what is known of them; the first `count` are in use, the others are room to grow.

    Attributes:
        rows: (capacity, dim) float32.
        sketches: (capacity, 64).
        owners: (capacity,) int64, the group of each row, ascending.
        alive: (capacity,) bool, False once the row's group was removed.
    """

    rows: Vectors
    sketches: Sketches
    owners: Groups
    alive: NDArray[np.bool_]
    count: int

    @property
    def nbytes(self) -> int:
        """What it takes in RAM, about, once its room to grow is used."""
        arrays = self.rows.nbytes + self.sketches.nbytes + self.owners.nbytes + self.alive.nbytes
        return OBJECT_BYTES + arrays

    @classmethod
    def over(cls, rows: Vectors) -> "Segment":
        """A segment that keeps these rows (capacity, dim) themselves, none of them in use."""
        capacity = len(rows)
        return cls(
            rows,
            np.empty((capacity, BITS // 8), dtype=np.uint8),
            np.empty(capacity, dtype=np.int64),
            np.zeros(capacity, dtype=np.bool_),
            0,
        )

    def appended(self, groups: Groups, vectors: Vectors) -> "Segment":
        """The same segment, or a copy with more room, with further rows; readers of this one do not notice."""
        end = self.count + len(groups)
        segment = self if end <= len(self.rows) else self._grown(end)
        segment.rows[self.count : end] = vectors
        return segment.owned(groups)

    def owned(self, groups: Groups) -> "Segment":
        """The same segment with the rows in use that lie behind the last one: theirs are these groups."""
        end = self.count + len(groups)
        new = slice(self.count, end)
        self.sketches[new] = sketched(self.rows[new])
        self.owners[new] = groups
        self.alive[new] = True
        return replace(self, count=end)

    def _grown(self, count: int) -> "Segment":
        capacity = min(SEGMENT_ROWS, max(count, len(self.rows) * 3 // 2 + ROWS_MIN))
        return _copied([(self, np.arange(self.count))], capacity)

    def living(self) -> Positions:
        """Positions of the rows in use whose group was not removed, ascending.

        Of a copy: numpy counts first and fills afterwards, without the lock, and the writer may clear marks in between.
        """
        return np.flatnonzero(self.alive[: self.count].copy())

    def living_of(self, groups: Groups) -> Positions:
        """Those of them whose groups are among the given ones (distinct, ascending)."""
        owners, alive = self.owners[: self.count], self.alive[: self.count]
        groups = groups[np.searchsorted(groups, owners[0]) : np.searchsorted(groups, owners[-1], side="right")]
        if len(groups) * FEW >= self.count:
            return np.flatnonzero(np.isin(owners, groups) & alive)
        begins = np.searchsorted(owners, groups, side="left")
        lengths = np.searchsorted(owners, groups, side="right") - begins
        before = np.cumsum(lengths) - lengths
        positions: Positions = np.repeat(begins - before, lengths) + np.arange(lengths.sum())
        return positions[alive[positions]]

    def frozen(self) -> "Segment":
        """The segment as it is, whatever is removed from now on."""
        return replace(self, alive=self.alive[: self.count].copy())


def room_for(count: int, dim: int) -> list[Vectors]:
    """Arrays (capacity, dim) for the rows of new segments: `count` in order, and some to grow; all uninitialised.

    Memory that nobody touched takes none. Without room to grow, the first vector added would copy others.
    """
    full, rest = divmod(count, SEGMENT_ROWS)
    capacities = [SEGMENT_ROWS] * full + ([_roomy(rest)] if rest else [])
    return [np.empty((capacity, dim), dtype=np.float32) for capacity in capacities]


def split(array: NDArray[Number]) -> list[NDArray[Number]]:
    """An array of rows, or of what belongs to each row, in the pieces of `room_for`; none is copied."""
    return [array[at : at + SEGMENT_ROWS] for at in range(0, len(array), SEGMENT_ROWS)]


def tidied(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """The same living rows with less waste: empty segments are left out, thin ones copied, small neighbours joined."""
    kept: list[Segment] = []
    for segment in segments:
        living = segment.living()
        if len(living) == 0:
            continue
        if kept and kept[-1].count + len(living) <= SEGMENT_ROWS // 2:
            last = kept.pop()
            kept.append(_copied([(last, last.living()), (segment, living)]))
        elif segment.count - len(living) > DEAD_SHARE_MAX * segment.count:
            kept.append(_copied([(segment, living)]))
        else:
            kept.append(segment)
    return tuple(kept)


def _copied(parts: list[tuple[Segment, Positions]], capacity: int | None = None) -> Segment:
    """The chosen rows of segments in fresh arrays; where there is no word of the capacity, with some room to grow."""
    count = sum(len(chosen) for _, chosen in parts)
    dim = parts[0][0].rows.shape[1]
    fresh = Segment.over(np.empty((capacity or _roomy(count), dim), dtype=np.float32))
    end = 0
    for segment, chosen in parts:
        begin, end = end, end + len(chosen)
        np.take(segment.rows, chosen, axis=0, out=fresh.rows[begin:end], mode="clip")  # the default mode copies twice
        fresh.sketches[begin:end] = segment.sketches[chosen]
        fresh.owners[begin:end] = segment.owners[chosen]
        fresh.alive[begin:end] = segment.alive[chosen]
    return replace(fresh, count=count)


def _roomy(count: int) -> int:
    return min(SEGMENT_ROWS, count + max(ROWS_MIN, count // 4))
