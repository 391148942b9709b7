"""Inner-product search over groups of unit vectors, with removal and restriction.

A group is what the caller looks for (a memory). It owns one vector or several (the windows of its text) and scores as
its best vector. Up to `EXACT_ROWS_MAX` candidate rows, every row is compared. Above that, all sketches are compared,
and then the rows that may be among the best: see `_shortlist`.

    index = GroupIndex(dim=384)
    index.add(np.array([7, 7, 9]), vectors)    # two windows of memory 7, one of memory 9
    ids, cosines = index.search(query, k=10)

Searching takes no lock. One writer adds and removes, and publishes a new tuple of segments last; see `segments.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from indexes.rows import EncodedRows, Groups
from indexes.scanning import Distances, Positions, Sketches, Vectors, differing_bits, inner_products
from indexes.segments import SEGMENT_ROWS, Segment, roomy, tidied
from indexes.sketches import DEVIATIONS, reach, sketched

__all__ = ["FrozenGroupIndex", "GroupIndex", "Groups", "Vectors"]

EXACT_ROWS_MAX = 20_000
"""Candidate rows up to which all are compared, in about 1 ms. Also the most rows of a shortlist."""

SPARSE = 8
"""If fewer than one row in 8 is a candidate, copying the candidates' sketches is faster than comparing all sketches."""

FIRST_LOOK = 64
FIRST_LOOK_PER_RESULT = 4
"""Rows compared first, to learn how near the k-th best is: 64, and 4 for each result."""

FIRST_LOOK_GROWTH = 4

_NONE = np.empty(0, dtype=np.int64)

TINY = 1e-12
"""Stands for the length of a query of length 0."""


@dataclass(frozen=True, slots=True)
class FrozenGroupIndex:
    """An index as it was at one moment."""

    _segments: tuple[Segment, ...]

    def __len__(self) -> int:
        """Return the number of vectors."""
        return sum(int(np.count_nonzero(segment.alive)) for segment in self._segments)

    def rows(self) -> Iterator[EncodedRows]:
        """Yield the rows in the order in which they were added, copied segment by segment."""
        return (segment.living_rows() for segment in self._segments)


class GroupIndex:
    """Groups of vectors of length 1, kept in half precision. One writer at a time, any number of readers."""

    __slots__ = ("_exact_rows_max", "_groups", "_segments", "dim")

    def __init__(self, dim: int, exact_rows_max: int = EXACT_ROWS_MAX) -> None:
        """Args:
        dim: number of components of a vector.
        exact_rows_max: most candidate rows that are all compared, and most rows of a shortlist.
        """
        self.dim = dim
        self._exact_rows_max = exact_rows_max
        self._segments: tuple[Segment, ...] = ()
        self._groups = 0

    @classmethod
    def of_rows(cls, dim: int, parts: Iterable[EncodedRows], count: int) -> "GroupIndex":
        """Make an index of rows that were encoded before, such as those of a file.

        Args:
            dim: number of components of a vector.
            parts: the rows, with ascending ids.
            count: number of rows in all parts. It decides the size of the last segment.

        Raises:
            ValueError: the ids are out of order.
        """
        index, left = cls(dim), count
        for part in parts:
            index._append(part, roomy(left))
            left -= len(part)
        return index

    def __len__(self) -> int:
        """Return the number of groups."""
        return self._groups

    @property
    def nbytes(self) -> int:
        """Return the estimated memory in bytes."""
        return sum(segment.nbytes for segment in self._segments)

    def add(self, groups: Groups, vectors: Vectors) -> None:
        """Append rows.

        Args:
            groups: (n,) the group of each row: ascending, none of them known yet (a group is added once, whole).
            vectors: (n, dim), each of length 1.

        Raises:
            ValueError: wrong shapes, or groups out of order.
        """
        if vectors.shape != (len(groups), self.dim):
            raise ValueError(f"expected vectors of shape ({len(groups)}, {self.dim}), got {vectors.shape}")
        if len(groups) and groups[0] <= self._last():
            raise ValueError("groups must be new and ascending")
        capacity = SEGMENT_ROWS if self._segments else min(SEGMENT_ROWS, len(groups))
        self._append(EncodedRows.encode(groups, vectors), capacity)

    def _append(self, rows: EncodedRows, capacity: int) -> None:
        """Append rows. The first of them may be of the last group. A new segment is made with this capacity."""
        if len(rows) == 0:
            return
        last = self._last()
        if rows.ids[0] < last or np.any(np.diff(rows.ids) < 0):
            raise ValueError("groups must be new and ascending")
        segments = list(self._segments)
        at = 0
        while at < len(rows):
            if not segments or segments[-1].count >= SEGMENT_ROWS:
                segments.append(Segment.with_room(capacity, self.dim))
            end = min(len(rows), at + SEGMENT_ROWS - segments[-1].count)
            segments[-1] = segments[-1].append(rows[at:end])
            at = end
        self._segments = tuple(segments)
        self._groups += _counted(rows.ids) - int(rows.ids[0] == last)  # last, so that who counts a group finds it

    def _last(self) -> int:
        """Return the largest group, or -1 for an empty index."""
        return int(self._segments[-1].owners[-1]) if self._segments else -1

    def remove(self, groups: Groups) -> None:
        """Forget groups, at once for every later search; unknown ones are ignored."""
        groups = _distinct(groups)
        removed = [np.empty(0, dtype=np.int64)]
        for segment in self._segments:
            chosen = segment.living_of(groups)
            segment.alive[chosen] = False
            removed.append(segment.owners[chosen])
        if count := _counted(np.concatenate(removed)):
            self._groups -= count
            self._segments = tidied(self._segments)

    def vectors(self, group: int) -> Vectors:
        """Return the vectors (n, dim) of one group in the order they were added; (0, dim) when it is unknown."""
        wanted = np.array([group], dtype=np.int64)
        found = [segment.rows.halves[segment.living_of(wanted)] for segment in self._segments]
        return np.concatenate([np.empty((0, self.dim), dtype=np.float16), *found]).astype(np.float32)

    def scores(self, groups: Groups, query: Vectors) -> Vectors:
        """Score groups as `search` does.

        Args:
            groups: (m,) in any order, any of them repeated.
            query: (dim,).

        Returns:
            (m,) the score of each group's best vector; NaN for unknown ones.
        """
        candidates = _candidates(self._segments, np.unique(groups))
        owners, scores = candidates.scored(query)
        return _looked_up(groups, *_by_group(owners, scores))

    def compared(self, groups: Groups, query: Vectors) -> Vectors | None:
        """Return the same as `scores`, of groups in ascending order, by comparing every row.

        None where there are more than `exact_rows_max` rows. Up to that many this takes as long as `scores` of some
        hundred groups.
        """
        if sum(segment.count for segment in self._segments) > self._exact_rows_max:
            return None
        found, scores = _by_group(*_candidates(self._segments, None).scored(query))
        return scores if np.array_equal(found, groups) else _looked_up(groups, found, scores)

    def firsts(self, groups: Groups) -> Vectors:
        """Return the first vector (m, dim) of each group; NaN for unknown groups."""
        distinct = np.unique(groups)
        found = [EncodedRows.empty(0, self.dim)]
        found += [segment.rows[segment.living_of(distinct)] for segment in self._segments]
        rows = EncodedRows.join(found)
        firsts = rows[np.flatnonzero(_is_first(rows.ids))]
        return _looked_up(groups, firsts.ids, firsts.vectors())

    def freeze(self) -> FrozenGroupIndex:
        """Return the index of this moment. Costs a copy of one byte for each row."""
        return FrozenGroupIndex(tuple(segment.freeze() for segment in self._segments))

    def search(
        self, query: Vectors, k: int, among: Groups | None = None, *, deviations: float = DEVIATIONS
    ) -> tuple[Groups, Vectors]:
        """Find the k nearest groups.

        Args:
            query: (dim,), of length 1 if scores are to be cosines.
            k: most groups to return, at least 1.
            among: only these groups are candidates; None admits all.
            deviations: how far beyond the expected distance of sketches to compare, in standard deviations.

        Returns:
            Groups (m,) and their scores (m,), best first, ties by the smaller group; m = min(k, candidates). Scores
            are exact to within half precision. So are the groups, up to `exact_rows_max` candidate rows.

        Raises:
            ValueError: wrong shape of the query.
        """
        if query.shape != (self.dim,):
            raise ValueError(f"expected a query of shape ({self.dim},), got {query.shape}")
        candidates = _candidates(self._segments, among)
        if len(candidates) <= self._exact_rows_max:
            return _best(*candidates.scored(query), k)
        return _shortlist(candidates, query, k, self._exact_rows_max, deviations)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows that may be found, numbered through: those of the first segment, then those of the next.

    Attributes:
        parts: segments, and the positions of the candidates in each, ascending; None for all rows in use.
        begins: (len(parts) + 1,) the number of the first candidate of each part, and of all.
    """

    parts: list[tuple[Segment, Positions | None]]
    begins: list[int]

    def __len__(self) -> int:
        return self.begins[-1]

    def scored(self, query: Vectors, chosen: Positions | None = None) -> tuple[Groups, Vectors]:
        """Return the owners (n,), ascending, and scores (n,) of these candidates (numbers, ascending), or of all."""
        count = len(self) if chosen is None else len(chosen)
        parts = list(self._split(chosen))
        owners = [segment.owners if positions is None else segment.owners[positions] for segment, positions, _ in parts]
        rows = [(segment.rows.halves[: segment.count], positions) for segment, positions, _ in parts]
        return np.concatenate([_NONE, *owners]), inner_products(query, rows, count)

    def _split(self, chosen: Positions | None) -> Iterator[tuple[Segment, Positions | None, slice]]:
        """Yield for each segment the positions of the chosen candidates in it, and their places among the chosen."""
        if chosen is None:
            for (segment, positions), begin, end in zip(self.parts, self.begins, self.begins[1:], strict=False):
                yield segment, positions, slice(begin, end)
            return
        shares = np.searchsorted(chosen, self.begins).tolist()
        for (segment, candidates), number, begin, end in zip(self.parts, self.begins, shares, shares[1:], strict=False):
            if begin < end:
                positions = chosen[begin:end] - number
                yield segment, positions if candidates is None else candidates[positions], slice(begin, end)

    def distances(self, sketch: Sketches) -> Distances:
        """Return in how many bits the sketch of each candidate differs, (n,)."""
        distances = np.empty(len(self), np.int32)
        for segment, positions, places in self._split(None):
            sketches = segment.rows.sketches[: segment.count]
            if positions is None:
                differing_bits(sketch, sketches, distances[places])
            elif len(positions) * SPARSE < segment.count:
                differing_bits(sketch, np.take(sketches, positions, axis=0, mode="clip"), distances[places])
            else:
                distances[places] = differing_bits(sketch, sketches, np.empty(segment.count, np.int32))[positions]
        return distances


def _candidates(segments: tuple[Segment, ...], among: Groups | None) -> _Candidates:
    parts: list[tuple[Segment, Positions | None]]
    if among is None:
        parts = [(segment, segment.living_if_some_died()) for segment in segments]
    else:
        groups = _distinct(among)
        parts = [(segment, segment.living_of(groups)) for segment in segments]
    counts = (segment.count if positions is None else len(positions) for segment, positions in parts)
    return _Candidates(parts, list(accumulate(counts, initial=0)))


def _shortlist(
    candidates: _Candidates, query: Vectors, k: int, rows_max: int, deviations: float
) -> tuple[Groups, Vectors]:
    """Return the k best groups among the candidates whose sketches are near enough.

    The query itself tells how near that is: the rows with the nearest sketches give k groups, and the worst of these is
    at most as good as the k-th best of all. Whatever is better than that one has a sketch within its reach.
    """
    distances = candidates.distances(sketched(query[np.newaxis])[0])
    first = FIRST_LOOK + FIRST_LOOK_PER_RESULT * k
    while True:
        chosen = _nearest(distances, first)
        groups, scores = _best(*candidates.scored(query, chosen), k)
        if len(groups) == k or len(chosen) == len(candidates):
            break
        first *= FIRST_LOOK_GROWTH  # several windows of one group were among them: compare more
    worst = float(scores[-1]) / max(float(np.linalg.norm(query)), TINY)
    within = np.flatnonzero(distances <= reach(worst, deviations))
    if len(within) <= len(chosen):
        return groups, scores
    if len(within) > rows_max:
        within = _nearest(distances, max(rows_max, len(chosen)))
    return _best(*candidates.scored(query, within), k)


def _nearest(distances: Distances, count: int) -> Positions:
    """Return the numbers of the `count` smallest distances, ascending; of equal distances the first."""
    if count >= len(distances):
        return np.arange(len(distances))
    limit = np.partition(distances, count - 1)[count - 1]
    nearer, equal = np.flatnonzero(distances < limit), np.flatnonzero(distances == limit)
    return np.sort(np.concatenate([nearer, equal[: count - len(nearer)]]))


def _best(owners: Groups, scores: Vectors, k: int) -> tuple[Groups, Vectors]:
    """Return the k best groups and their scores, best first, ties by the smaller group; rows are in order of owner."""
    groups, best = _by_group(owners, scores)
    if k < len(groups):
        kept = np.flatnonzero(best >= np.partition(best, -k)[-k])
        groups, best = groups[kept], best[kept]
    order = np.lexsort((groups, -best))[:k]
    return groups[order], best[order]


def _by_group(owners: Groups, scores: Vectors) -> tuple[Groups, Vectors]:
    """Return each group once, and its best score; rows are in order of owner."""
    is_first = _is_first(owners)
    if is_first.all():
        return owners, scores
    begins = np.flatnonzero(is_first)
    return owners[begins], np.maximum.reduceat(scores, begins)


def _is_first(owners: Groups) -> NDArray[np.bool_]:
    """Return where a group begins (n,) in an ascending list of owners."""
    is_first = np.ones(len(owners), np.bool_)
    np.not_equal(owners[1:], owners[:-1], out=is_first[1:])
    return is_first


def _looked_up(groups: Groups, found: Groups, values: Vectors) -> Vectors:
    """Return the value of each group among those that were found (ascending), NaN for others."""
    result = np.full((len(groups), *values.shape[1:]), np.nan, dtype=np.float32)
    if len(found):
        at = np.minimum(np.searchsorted(found, groups), len(found) - 1)
        known = found[at] == groups
        result[known] = values[at[known]]
    return result


def _counted(owners: Groups) -> int:
    """Return the number of groups in an ascending list of owners."""
    return int(np.count_nonzero(_is_first(owners)))


def _distinct(groups: Groups) -> Groups:
    """Return the groups ascending, each once, as they usually come."""
    return groups if np.all(groups[1:] > groups[:-1]) else np.unique(groups)
