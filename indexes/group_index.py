"""Inner-product search over groups of unit vectors, with removal and restriction.

A group is what the caller looks for (a memory); it owns one vector or several (the windows of its text) and scores as
its best vector. Up to `EXACT_ROWS_MAX` candidate rows, every one is compared. Above, their sketches are, and the rows
that may be among the best are compared exactly: see `_shortlist`.

Searching takes no lock. One writer adds and removes, and publishes a new tuple of segments last; see `segments.py`.
"""

from dataclasses import dataclass

import numpy as np

from indexes.scanning import Distances, Positions, Sketches, Vectors, differing_bits, inner_products
from indexes.segments import SEGMENT_ROWS, Groups, Segment, room_for, split, tidied
from indexes.sketches import DEVIATIONS, reach, sketched

__all__ = ["Frozen", "GroupIndex", "Groups", "Vectors"]

EXACT_ROWS_MAX = 20_000
"""Candidates that are all compared: 1 to 1.5 ms here. Also how many a shortlist may hold at most."""

SPARSE = 8
"""Where fewer than one row in so many is a candidate, copying the candidates' sketches beats comparing all."""

FIRST_LOOK = 64
FIRST_LOOK_PER_RESULT = 4
"""Rows compared at first, to learn how near the k-th best is."""

FIRST_LOOK_GROWTH = 4

TINY = 1e-12
"""In place of the length of a query that has none."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """An index as it was at one moment."""

    _segments: tuple[Segment, ...]

    def __len__(self) -> int:
        """Number of vectors."""
        return sum(int(np.count_nonzero(segment.alive)) for segment in self._segments)

    def parts(self) -> "list[FrozenPart]":
        """The vectors in the order that `add` takes, in pieces, so that nobody needs a copy of everything."""
        return [FrozenPart(segment) for segment in self._segments]


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """Some of the vectors of an index."""

    _segment: Segment

    def groups(self) -> Groups:
        """The group (n,) of each vector."""
        return self._segment.owners[self._segment.living()]

    def vectors(self) -> Vectors:
        """The vectors (n, dim); a copy where some were removed."""
        living = self._segment.living()
        is_whole = len(living) == self._segment.count
        return self._segment.rows[: len(living)] if is_whole else self._segment.rows[living]


class GroupIndex:
    """Groups of float32 vectors of length 1. One writer at a time, any number of readers."""

    __slots__ = ("_exact_rows_max", "_groups", "_segments", "dim")

    def __init__(self, dim: int, exact_rows_max: int = EXACT_ROWS_MAX) -> None:
        """Args:
        dim: of the vectors.
        exact_rows_max: candidate rows up to which nothing is approximate; and the bound of a shortlist.
        """
        self.dim = dim
        self._exact_rows_max = exact_rows_max
        self._segments: tuple[Segment, ...] = ()
        self._groups = 0

    @classmethod
    def over(cls, dim: int, groups: Groups, parts: list[Vectors]) -> "GroupIndex":
        """An index that keeps these rows themselves, not a copy; nobody else may write to them from now on.

        Args:
            dim: of the vectors.
            groups: (n,) the group of each row, ascending.
            parts: what `room_for(n, dim)` gave, its first n rows filled.

        Raises:
            ValueError: wrong shapes, or groups out of order.
        """
        if [part.shape for part in parts] != [part.shape for part in room_for(len(groups), dim)]:
            raise ValueError(f"expected room for {len(groups)} vectors of dimension {dim}")
        index = cls(dim)
        if len(groups):
            _require_ascending(groups, after=-1)
            segments = [Segment.over(part).owned(share) for part, share in zip(parts, split(groups), strict=True)]
            index._publish(tuple(segments), groups)
        return index

    def __len__(self) -> int:
        """Number of groups."""
        return self._groups

    @property
    def nbytes(self) -> int:
        """What it takes in RAM, about."""
        return sum(segment.nbytes for segment in self._segments)

    def add(self, groups: Groups, vectors: Vectors) -> None:
        """Append rows.

        Args:
            groups: (n,) the group of each row: ascending, none of them known yet (a group is added once, whole).
            vectors: (n, dim), each of length 1.

        Raises:
            ValueError: wrong shapes, or groups out of order.
        """
        added = len(groups)
        if vectors.shape != (added, self.dim):
            raise ValueError(f"expected vectors of shape ({added}, {self.dim}), got {vectors.shape}")
        if added == 0:
            return
        segments = list(self._segments)
        _require_ascending(groups, after=segments[-1].owners[segments[-1].count - 1] if segments else -1)
        at = 0
        while at < added:
            if not segments or segments[-1].count >= SEGMENT_ROWS:
                capacity = SEGMENT_ROWS if segments else min(SEGMENT_ROWS, added)
                segments.append(Segment.over(np.empty((capacity, self.dim), dtype=np.float32)))
            end = min(added, at + SEGMENT_ROWS - segments[-1].count)
            segments[-1] = segments[-1].appended(groups[at:end], vectors[at:end])
            at = end
        self._publish(tuple(segments), groups)

    def _publish(self, segments: tuple[Segment, ...], added: Groups) -> None:
        self._segments = segments
        self._groups += _counted(added)  # who counts a group finds it

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
        """The vectors of one group, (n, dim), in the order they were added; (0, dim) when it is unknown."""
        wanted = np.array([group], dtype=np.int64)
        found = [segment.rows[segment.living_of(wanted)] for segment in self._segments]
        return np.concatenate([np.empty((0, self.dim), dtype=np.float32), *found])

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
        """As `scores`, of groups in ascending order, by comparing every row there is; None where these are too many.

        Up to `exact_rows_max` rows: so many are compared in the time in which `scores` finds some hundred.
        """
        if sum(segment.count for segment in self._segments) > self._exact_rows_max:
            return None
        found, scores = _by_group(*_candidates(self._segments, None).scored(query))
        return scores if np.array_equal(found, groups) else _looked_up(groups, found, scores)

    def firsts(self, groups: Groups) -> Vectors:
        """(m, dim) the first vector of each group; NaN for unknown ones."""
        parts = _candidates(self._segments, np.unique(groups)).parts
        owners = np.concatenate([np.empty(0, np.int64), *(segment.owners[at] for segment, at in parts)])
        rows = np.concatenate([np.empty((0, self.dim), np.float32), *(segment.rows[at] for segment, at in parts)])
        begins = _begins(owners)
        return _looked_up(groups, owners[begins], rows[begins])

    def freeze(self) -> Frozen:
        """The index of this moment. Costs a copy of one byte for each row."""
        return Frozen(tuple(segment.frozen() for segment in self._segments))

    def search(
        self, query: Vectors, k: int, among: Groups | None = None, *, deviations: float = DEVIATIONS
    ) -> tuple[Groups, Vectors]:
        """Find the k nearest groups.

        Args:
            query: (dim,), of length 1 if scores are to be cosines.
            k: at least 1.
            among: only these groups are candidates; None admits all.
            deviations: how far to look for the last of many, where not all rows are compared.

        Returns:
            Groups (m,) and their scores (m,), best first, ties by the smaller group; m = min(k, candidates). Scores
            are exact. So are the groups, up to `exact_rows_max` candidate rows.

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
    """Rows that may be found, counted through: those of the first segment, then those of the next.

    Attributes:
        parts: segments, and the positions of the candidates in each, ascending.
        begins: (len(parts) + 1,) the number of the first candidate of each part, and of all.
    """

    parts: list[tuple[Segment, Positions]]
    begins: Positions

    def __len__(self) -> int:
        return int(self.begins[-1])

    def scored(self, query: Vectors, chosen: Positions | None = None) -> tuple[Groups, Vectors]:
        """The owners (ascending) and scores of these candidates (numbers, ascending), or of all."""
        owners: list[Groups] = [np.empty(0, dtype=np.int64)]
        scores: list[Vectors] = [np.empty(0, dtype=np.float32)]
        numbers = np.arange(len(self)) if chosen is None else chosen
        shares = np.searchsorted(numbers, self.begins)
        for at, (segment, candidates) in enumerate(self.parts):
            positions = candidates[numbers[shares[at] : shares[at + 1]] - self.begins[at]]
            if len(positions):
                owners.append(segment.owners[positions])
                scores.append(inner_products(query, segment.rows, positions))
        return np.concatenate(owners), np.concatenate(scores)

    def distances(self, sketch: Sketches) -> Distances:
        """In how many bits the sketch of each candidate differs."""
        found = [np.empty(0, dtype=np.int32)]
        for segment, positions in self.parts:
            if len(positions) * SPARSE < segment.count:
                found.append(differing_bits(sketch, np.take(segment.sketches, positions, axis=0, mode="clip")))
            else:
                found.append(differing_bits(sketch, segment.sketches[: segment.count])[positions])
        return np.concatenate(found)


def _candidates(segments: tuple[Segment, ...], among: Groups | None) -> _Candidates:
    if among is None:
        parts = [(segment, segment.living()) for segment in segments]
    else:
        groups = _distinct(among)
        parts = [(segment, segment.living_of(groups)) for segment in segments]
    return _Candidates(parts, np.cumsum([0, *(len(positions) for _, positions in parts)]))


def _shortlist(
    candidates: _Candidates, query: Vectors, k: int, rows_max: int, deviations: float
) -> tuple[Groups, Vectors]:
    """The k best groups among those candidates whose sketches are near enough.

    How near is enough, the query itself tells: a first look at the nearest sketches gives k groups, the worst of which
    is at most as good as the k-th best of all. Whatever is better than that one has a sketch within its reach.
    """
    distances = candidates.distances(sketched(query[np.newaxis])[0])
    first = FIRST_LOOK + FIRST_LOOK_PER_RESULT * k
    while True:
        chosen = _nearest(distances, first)
        groups, scores = _best(*candidates.scored(query, chosen), k)
        if len(groups) == k or len(chosen) == len(candidates):
            break
        first *= FIRST_LOOK_GROWTH  # several windows of one group took places: look further
    worst = float(scores[-1]) / max(float(np.linalg.norm(query)), TINY)
    within = np.flatnonzero(distances <= reach(worst, deviations))
    if len(within) <= len(chosen):
        return groups, scores
    if len(within) > rows_max:
        within = _nearest(distances, max(rows_max, len(chosen)))
    return _best(*candidates.scored(query, within), k)


def _nearest(distances: Distances, count: int) -> Positions:
    """The numbers of the `count` smallest distances, ascending; of equal ones the first."""
    if count >= len(distances):
        return np.arange(len(distances))
    limit = np.partition(distances, count - 1)[count - 1]
    nearer, equal = np.flatnonzero(distances < limit), np.flatnonzero(distances == limit)
    return np.sort(np.concatenate([nearer, equal[: count - len(nearer)]]))


def _best(owners: Groups, scores: Vectors, k: int) -> tuple[Groups, Vectors]:
    """The k best groups and their scores, best first, ties by the smaller group, of rows in order of owner."""
    groups, best = _by_group(owners, scores)
    if k < len(groups):
        kept = np.flatnonzero(best >= np.partition(best, -k)[-k])
        groups, best = groups[kept], best[kept]
    order = np.lexsort((groups, -best))[:k]
    return groups[order], best[order]


def _by_group(owners: Groups, scores: Vectors) -> tuple[Groups, Vectors]:
    """The groups of rows in order of owner, each once, and the best score of each."""
    begins = _begins(owners)
    if len(begins) == len(owners):
        return owners, scores
    return owners[begins], np.maximum.reduceat(scores, begins)


def _begins(owners: Groups) -> Positions:
    """Where each group begins in an ascending list of owners."""
    return np.flatnonzero(np.diff(owners, prepend=-1)) if len(owners) else np.empty(0, dtype=np.int64)


def _looked_up(groups: Groups, found: Groups, values: Vectors) -> Vectors:
    """The value of each group by those that were found (ascending), NaN for others."""
    result = np.full((len(groups), *values.shape[1:]), np.nan, dtype=np.float32)
    if len(found):
        at = np.minimum(np.searchsorted(found, groups), len(found) - 1)
        known = found[at] == groups
        result[known] = values[at[known]]
    return result


def _counted(owners: Groups) -> int:
    """How many groups there are in an ascending list of owners."""
    return int(np.count_nonzero(np.diff(owners))) + 1 if len(owners) else 0


def _distinct(groups: Groups) -> Groups:
    """The groups, ascending, each once; they usually come so."""
    return groups if np.all(groups[1:] > groups[:-1]) else np.unique(groups)


def _require_ascending(groups: Groups, *, after: int) -> None:
    if groups[0] <= after or np.any(np.diff(groups) < 0):
        raise ValueError("groups must be new and ascending")
