"""Segments: FAISS indexes of bounded size, so that neither growing nor tidying copies everything.

The rows of a segment below its count never change, and FAISS's memory never moves, since room for them is reserved
when the indexes are made. So readers need no lock: they go on with the segments that they started with, while one
writer adds behind the count, clears marks of life, and publishes new segments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes.rows import EncodedRows, Groups
from indexes.scanning import SCAN_ROWS_MAX, Positions
from indexes.sketches import BITS

SEGMENT_ROWS = SCAN_ROWS_MAX
"""Rows of a full segment: 14 MB at 384 dimensions, copied in some 3 ms."""

ROWS_MIN = 1
"""First allocation, and least room to grow: small, because there may be thousands of small indexes."""

OBJECT_BYTES = 1_900
"""Memory of a segment's objects, FAISS's included, without the rows; measured on 20,000 segments of one row."""

DEAD_SHARE_MAX = 0.25
"""Removed rows of a segment are reclaimed above this share."""

FEW = 8
"""Groups are looked up one by one when a segment has more than this many rows for each, otherwise all at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Vectors and their sketches in FAISS indexes; the first `count` rows are in use, the others are room to grow.

    Attributes:
        vectors_index: an `IndexIDMap` over an `IndexScalarQuantizer` of half precision.
        sketches_index: an `IndexBinaryFlat`.
        rows: (capacity,) views of the memory of both indexes; what leaves the segment is a copy.
        alive: (capacity,) bool, False once the row's group was removed.
        count: rows in use.
    """

    vectors_index: Any  # FAISS's own stubs leave out most of what is used of it
    sketches_index: Any
    rows: EncodedRows
    alive: NDArray[np.bool_]
    count: int

    @property
    def nbytes(self) -> int:
        """Return the estimated memory of the segment in bytes, room to grow included."""
        rows = self.rows
        return OBJECT_BYTES + rows.ids.nbytes + rows.halves.nbytes + rows.sketches.nbytes + self.alive.nbytes

    @property
    def owners(self) -> Groups:
        """Return the ids (count,) of the rows in use, ascending."""
        return self.rows.ids[: self.count]

    @classmethod
    def with_room(cls, capacity: int, dim: int) -> "Segment":
        """Make a segment without rows."""
        flat = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        vectors_index: Any = faiss.IndexIDMap(flat)
        sketches_index: Any = faiss.IndexBinaryFlat(BITS)
        rows = EncodedRows(
            _reserved(vectors_index.id_map, capacity),
            _reserved(flat.codes, capacity * flat.code_size).view(np.float16).reshape(capacity, dim),
            _reserved(sketches_index.xb, capacity * BITS // 8).reshape(capacity, BITS // 8),
        )
        alive = np.zeros(capacity, dtype=np.bool_)
        return cls(vectors_index=vectors_index, sketches_index=sketches_index, rows=rows, alive=alive, count=0)

    def append(self, rows: EncodedRows) -> "Segment":
        """Return this segment, or a copy with more room, with further rows; readers of this one do not notice."""
        end = self.count + len(rows)
        # rows behind the count are of an attempt that failed: FAISS would add behind them
        is_at_end = self.vectors_index.ntotal == self.sketches_index.ntotal == self.count
        segment = self if is_at_end and end <= len(self.alive) else self._grown(end)
        faiss.omp_set_num_threads(1)
        segment.vectors_index.add_sa_codes(rows.halves.view(np.uint8), rows.ids)
        segment.sketches_index.add(rows.sketches)
        segment.alive[self.count : end] = True
        return replace(segment, count=end)

    def _grown(self, count: int) -> "Segment":
        capacity = min(SEGMENT_ROWS, max(count, len(self.alive) * 3 // 2 + ROWS_MIN))
        grown = Segment.with_room(capacity, self.rows.halves.shape[1]).append(self.rows[: self.count])
        grown.alive[: self.count] = self.alive[: self.count]
        return grown

    def living(self) -> Positions:
        """Return the positions of the rows in use whose group was not removed, ascending.

        A copy is searched: numpy counts first and fills afterwards, without the lock, and the writer may clear marks in
        between.
        """
        return np.flatnonzero(self.alive[: self.count].copy())

    def living_if_some_died(self) -> Positions | None:
        """Return the same; None where every row in use is alive."""
        return None if self.alive[: self.count].all() else self.living()

    def living_of(self, groups: Groups) -> Positions:
        """Return the positions of the living rows of these groups, which are distinct and ascending."""
        owners, alive = self.owners, self.alive[: self.count]
        groups = groups[np.searchsorted(groups, owners[0]) : np.searchsorted(groups, owners[-1], side="right")]
        if len(groups) * FEW >= self.count:
            return np.flatnonzero(_is_among(owners, groups) & alive)
        # (g,) where the rows of each group begin, and how many they are
        begins = np.searchsorted(owners, groups, side="left")
        lengths = np.searchsorted(owners, groups, side="right") - begins
        # (n,) the numbers from each begin on, group after group
        before = np.cumsum(lengths) - lengths
        positions: Positions = np.repeat(begins - before, lengths) + np.arange(lengths.sum())
        return positions[alive[positions]]

    def freeze(self) -> "Segment":
        """Return the segment as it is, whatever is removed from now on."""
        return replace(self, alive=self.alive[: self.count].copy())

    def living_rows(self) -> EncodedRows:
        """Return a copy of the living rows."""
        return self.rows[self.living()]


def _is_among(owners: Groups, groups: Groups) -> NDArray[np.bool_]:
    """Return which owners (n,) are among groups that lie between the first and the last of them; both ascending."""
    span = int(owners[-1] - owners[0]) + 1
    if span > len(owners) * FEW:
        return np.isin(owners, groups)
    # a table of all numbers from the first owner to the last
    is_wanted = np.zeros(span, np.bool_)
    is_wanted[groups - owners[0]] = True
    is_among: NDArray[np.bool_] = is_wanted[owners - owners[0]]
    return is_among


def _reserved(vector: Any, size: int) -> NDArray[Any]:
    """Reserve room for `size` elements in a vector of FAISS's, which it then never moves; return a view of the room."""
    vector.resize(size)
    vector.resize(0)
    return faiss.rev_swig_ptr(vector.data(), size)


def roomy(count: int) -> int:
    """Return the capacity of a segment that begins with `count` rows: a quarter more, within the limit."""
    return min(SEGMENT_ROWS, count + max(ROWS_MIN, count // 4))


def tidied(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the same living rows with less waste: no empty segments, thin ones copied, small neighbours joined."""
    kept: list[Segment] = []
    for segment in segments:
        living = segment.living()
        if len(living) == 0:
            continue
        if kept and kept[-1].count + len(living) <= SEGMENT_ROWS // 2:
            kept.append(_joined([kept.pop().living_rows(), segment.rows[living]]))
        elif segment.count - len(living) > DEAD_SHARE_MAX * segment.count:
            kept.append(_joined([segment.rows[living]]))
        else:
            kept.append(segment)
    return tuple(kept)


def _joined(parts: list[EncodedRows]) -> Segment:
    count = sum(len(part) for part in parts)
    segment = Segment.with_room(roomy(count), parts[0].halves.shape[1])
    for part in parts:
        segment = segment.append(part)
    return segment
