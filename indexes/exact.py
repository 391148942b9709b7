"""Exact inner-product search over groups of vectors, with removal and restriction.

A group is what the caller looks for (a memory); it owns one vector or several (the windows of its text) and
scores as its best vector. Nothing is approximate: every candidate is compared.

Searching takes no lock. One writer appends beyond the rows that readers look at and publishes a new `_View`
last; removal only clears bits of a bitmap that FAISS consults. Room is reclaimed by copying the living rows into
a new view, so a reader keeps the arrays that it started with.
"""

from dataclasses import dataclass, replace

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Groups = NDArray[np.int64]
Bitmap = NDArray[np.uint8]

ROWS_MIN = 16
"""First allocation: small, because there may be thousands of small indexes."""

DEAD_SHARE_MAX = 0.25
"""Removed rows are reclaimed above this share: searching them costs time, copying costs about 1 ms per 4,000 rows."""


@dataclass(frozen=True, slots=True)
class _View:
    """What a reader needs, published as one reference.

    Attributes:
        rows: (capacity, dim) float32; the first `count` are in use.
        owners: (capacity,) int64, the group of each row, ascending.
        alive: packed bits, little-endian, one for each row in use.
    """

    rows: Vectors
    owners: Groups
    alive: Bitmap
    count: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """An index as it was at one moment."""

    _view: _View

    def rows(self) -> tuple[Groups, Vectors]:
        """The group (n,) and vector (n, dim) of each row, in the order that `add` takes."""
        living = _unpacked(self._view)
        owners, rows = self._view.owners[: self._view.count], self._view.rows[: self._view.count]
        return (owners, rows) if living.all() else (owners[living], rows[living])


def room_for(count: int, dim: int) -> Vectors:
    """Rows (capacity, dim) to fill for `ExactIndex.over`: `count` of them and some to grow, all uninitialised.

    Memory that nobody touched takes none. Without room to grow, the first vector added would copy all the others.
    """
    return np.empty((count + max(ROWS_MIN, count // 4), dim), dtype=np.float32)


class ExactIndex:
    """Groups of float32 vectors under inner product. One writer at a time, any number of readers."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._view = _empty(dim, ROWS_MIN)
        self._dead = 0
        self._groups = 0

    @classmethod
    def over(cls, groups: Groups, rows: Vectors) -> "ExactIndex":
        """An index that keeps these rows themselves, not a copy; nobody else may write to them from now on.

        Args:
            groups: (n,) the group of each row, ascending.
            rows: (capacity, dim), contiguous; the first n are the vectors, the others are room to grow.

        Raises:
            ValueError: wrong shapes, or groups out of order.
        """
        if rows.ndim != 2 or len(rows) < len(groups) or not rows.flags.c_contiguous:
            raise ValueError(f"expected at least {len(groups)} contiguous rows, got shape {rows.shape}")
        index = cls(rows.shape[1])
        if len(groups):
            _require_ascending(groups, after=-1)
            index._append(_unused(rows), groups)
        return index

    def __len__(self) -> int:
        """Number of groups."""
        return self._groups

    def add(self, groups: Groups, vectors: Vectors) -> None:
        """Append rows.

        Args:
            groups: (n,) the group of each row: ascending, none of them known yet (a group is added once, whole).
            vectors: (n, dim), of length 1 if scores are to be cosines.

        Raises:
            ValueError: wrong shapes, or groups out of order.
        """
        view = self._view
        added = len(groups)
        if vectors.shape != (added, self.dim):
            raise ValueError(f"expected vectors of shape ({added}, {self.dim}), got {vectors.shape}")
        if added == 0:
            return
        last = view.owners[view.count - 1] if view.count else -1
        _require_ascending(groups, after=last)
        end = view.count + added
        if end > len(view.rows):
            view = _copied(view, np.arange(view.count), capacity=max(end, len(view.rows) * 3 // 2))
        view.rows[view.count : end] = vectors
        self._append(view, groups)

    def _append(self, view: _View, groups: Groups) -> None:
        """Publish the rows that lie behind the last one in use: theirs are these groups."""
        end = view.count + len(groups)
        view.owners[view.count : end] = groups
        _set_bits(view.alive, view.count, end)
        self._groups += 1 + int(np.count_nonzero(np.diff(groups)))
        self._view = replace(view, count=end)

    def remove(self, groups: Groups) -> None:
        """Forget groups, at once for every later search; unknown ones are ignored."""
        view = self._view
        chosen = _positions(view, np.unique(groups))
        chosen = chosen[_get_bits(view.alive, chosen)]
        if len(chosen) == 0:
            return
        np.bitwise_and.at(view.alive, chosen >> 3, ~(np.uint8(1) << (chosen & 7).astype(np.uint8)))
        self._dead += len(chosen)
        self._groups -= len(np.unique(view.owners[chosen]))
        if self._dead > DEAD_SHARE_MAX * view.count:
            living = np.flatnonzero(_unpacked(view))
            self._view = _copied(view, living, capacity=max(ROWS_MIN, len(living) * 5 // 4))
            self._dead = 0

    def vectors(self, group: int) -> Vectors:
        """The vectors of one group, (n, dim), in the order they were added; (0, dim) when it is unknown."""
        view = self._view
        chosen = _positions(view, np.array([group], dtype=np.int64))
        return view.rows[chosen[_get_bits(view.alive, chosen)]]

    def scores(self, groups: Groups, query: Vectors) -> Vectors:
        """Score groups as `search` does.

        Args:
            groups: (m,) in any order.
            query: (dim,).

        Returns:
            (m,) the score of each group's best vector; NaN for unknown ones.
        """
        view = self._view
        begins, ends = _ranges(view, groups)
        result = np.full(len(groups), np.nan, dtype=np.float32)
        known = np.flatnonzero((ends > begins) & _get_bits(view.alive, np.minimum(begins, max(view.count - 1, 0))))
        if len(known):
            counts = (ends - begins)[known]
            starts = np.cumsum(counts) - counts
            rows = np.repeat(begins[known] - starts, counts) + np.arange(counts.sum())
            result[known] = np.maximum.reduceat(view.rows[rows] @ query, starts)
        return result

    def firsts(self, groups: Groups) -> Vectors:
        """(m, dim) the first vector of each group; NaN for unknown ones."""
        view = self._view
        begins, ends = _ranges(view, groups)
        result = np.full((len(groups), self.dim), np.nan, dtype=np.float32)
        known = np.flatnonzero(ends > begins)
        result[known] = view.rows[begins[known]]
        return result

    def freeze(self) -> Frozen:
        """The index of this moment. Costs a copy of one bit for each row."""
        view = self._view
        return Frozen(_View(view.rows, view.owners, view.alive.copy(), view.count))

    def search(self, query: Vectors, k: int, among: Groups | None = None) -> tuple[Groups, Vectors]:
        """Find the k nearest groups.

        Args:
            query: (dim,).
            k: at least 1.
            among: only these groups are candidates; None admits all.

        Returns:
            Groups (m,) and their scores (m,), best first, ties by the smaller group; m = min(k, candidates).

        Raises:
            ValueError: wrong shape of the query.
        """
        if query.shape != (self.dim,):
            raise ValueError(f"expected a query of shape ({self.dim},), got {query.shape}")
        view = self._view
        allowed, candidates = _allowed(view, among)
        fetch = k
        while True:
            fetch = min(fetch, candidates)
            owners, scores = _nearest(view, query, fetch, allowed)
            groups, first = np.unique(owners, return_index=True)
            if len(groups) >= k or fetch == candidates:
                break
            fetch *= 2  # several windows of one group took places: look further
        best = np.lexsort((groups, -scores[first]))[:k]
        return groups[best], scores[first][best]


def _empty(dim: int, capacity: int) -> _View:
    return _unused(np.empty((capacity, dim), dtype=np.float32))


def _unused(rows: Vectors) -> _View:
    """A view with room for these rows, none of them in use."""
    capacity = len(rows)
    return _View(
        rows=rows,
        owners=np.empty(capacity, dtype=np.int64),
        alive=np.zeros((capacity + 7) // 8, dtype=np.uint8),
        count=0,
    )


def _require_ascending(groups: Groups, *, after: int) -> None:
    if groups[0] <= after or np.any(np.diff(groups) < 0):
        raise ValueError("groups must be new and ascending")


def _copied(view: _View, chosen: NDArray[np.intp], capacity: int) -> _View:
    """The chosen rows of a view, with their bits, in fresh arrays."""
    fresh = _empty(view.rows.shape[1], capacity)
    count = len(chosen)
    np.take(view.rows, chosen, axis=0, out=fresh.rows[:count], mode="clip")  # the default mode copies twice
    fresh.owners[:count] = view.owners[chosen]
    packed = np.packbits(_get_bits(view.alive, chosen), bitorder="little")
    fresh.alive[: len(packed)] = packed
    return _View(fresh.rows, fresh.owners, fresh.alive, count)


def _ranges(view: _View, groups: Groups) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the rows of each group begin and end; the same for an unknown one."""
    owners = view.owners[: view.count]
    return np.searchsorted(owners, groups, side="left"), np.searchsorted(owners, groups, side="right")


def _positions(view: _View, groups: Groups) -> NDArray[np.intp]:
    """Positions of all rows of the given groups (distinct, ascending), whether alive or not."""
    return np.flatnonzero(_members(view, groups))


def _members(view: _View, groups: Groups) -> NDArray[np.bool_]:
    """(count,) True where the row's group is among the given ones (distinct, ascending)."""
    owners = view.owners[: view.count]
    begins = np.bincount(np.searchsorted(owners, groups, side="left"), minlength=view.count + 1)
    ends = np.bincount(np.searchsorted(owners, groups, side="right"), minlength=view.count + 1)
    open_ranges: NDArray[np.int64] = np.cumsum((begins - ends)[: view.count])
    return open_ranges > 0


def _unpacked(view: _View) -> NDArray[np.bool_]:
    return np.unpackbits(view.alive, count=view.count, bitorder="little").astype(np.bool_)


def _allowed(view: _View, among: Groups | None) -> tuple[Bitmap, int]:
    """The bitmap of candidate rows and how many there are."""
    if among is None:
        return view.alive, int(np.bitwise_count(view.alive).sum())
    mask = _members(view, np.unique(among)) & _unpacked(view)
    return np.packbits(mask, bitorder="little"), int(mask.sum())


def _nearest(view: _View, query: Vectors, k: int, allowed: Bitmap) -> tuple[Groups, Vectors]:
    """The k nearest allowed rows: their owners and scores, best first, fewer when a row was removed meanwhile."""
    if k == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    # requests run side by side; on few cores OpenMP's spinning makes one search up to ten times slower
    faiss.omp_set_num_threads(1)  # of the calling thread
    query = np.ascontiguousarray(query, dtype=np.float32)
    scores = np.empty(k, dtype=np.float32)
    places = np.empty(k, dtype=np.int64)
    faiss.knn_inner_product(
        faiss.swig_ptr(query),
        faiss.swig_ptr(view.rows),
        len(query),
        1,
        view.count,
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(places),
        faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed)),
    )
    found = places >= 0  # FAISS pads a short answer with -1
    return view.owners[places[found]], scores[found]


def _set_bits(bitmap: Bitmap, start: int, end: int) -> None:
    at = np.arange(start, end)
    np.bitwise_or.at(bitmap, at >> 3, np.uint8(1) << (at & 7).astype(np.uint8))


def _get_bits(bitmap: Bitmap, at: NDArray[np.intp]) -> NDArray[np.bool_]:
    bits: NDArray[np.uint8] = bitmap[at >> 3] >> (at & 7).astype(np.uint8) & 1
    return bits.astype(np.bool_)
