"""The candidates of a query: the rows of a namespace that it may find, and the best of them by one signal.

A row is a memory's place in the arrays of its namespace's words and structure. A view keeps the number of rows at the
time when it was made. A writer may append rows later, and their places are out of bounds for the view.
"""

import numpy as np
from numpy.typing import NDArray

from indexes.group_index import Groups, Vectors
from indexes.sketches import DEVIATIONS
from memory_service.namespaces.conversation import NONE
from memory_service.namespaces.index import NamespaceIndex

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

SMALL_SHARE = 20
"""Compare candidates one by one if they are fewer than one in 20 memories. Otherwise scanning all rows is quicker."""

TIES_GROWTH = 4
"""Factor by which a search asks for more if memories beyond the last hit may have the same cosine."""


class Candidates:
    """A namespace as one query sees it."""

    def __init__(self, index: NamespaceIndex) -> None:
        self.index = index
        self.texts = index.texts
        self.count = self.texts.lexical.count
        self.coherence = index.coherence()
        self.has_neighbours = self.texts.talk.are_given or self.coherence > 0
        self.cosines: Scores | None = None  # (count,), NaN where unknown; None until they are computed
        self._vector: Vectors | None = None

    def compare(self, vector: Vectors, among: Groups | None) -> None:
        """Set the vector (dim,) of the query's meaning, and compare all rows with it unless the candidates are few."""
        self._vector = vector
        if among is None or len(among) * SMALL_SHARE > self.count:
            self.cosines = self.index.dense.compared(self.texts.lexical.groups[: self.count], vector)

    def cosines_of(self, rows: Rows) -> Scores:
        """Return the cosines (n,) of rows; NaN for memories whose vectors were removed."""
        if self.cosines is None:
            assert self._vector is not None, "compare comes first"
            wanted = rows
            if self.has_neighbours:
                # The neighbours' cosines are needed next, so they are compared in the same pass.
                near, is_there = self.adjacent(rows)
                wanted = np.union1d(rows, near[is_there])
            # (count,) NaN except at the rows that are wanted.
            self.cosines = np.full(self.count, np.nan, np.float32)
            self.cosines[wanted] = self.index.dense.scores(self.texts.lexical.groups[wanted], self._vector)
        return self.cosines[rows]

    def adjacent(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Return the rows before these and then the rows after them (2n,), and which of them exist (2n,)."""
        near = np.concatenate([self.texts.talk.before[rows], self.texts.talk.after[rows]]).astype(np.int64)
        return near, self.exist(near)

    def exist(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows are rows of this view (n,): neither `NONE` nor appended since."""
        is_there: NDArray[np.bool_] = (rows != NONE) & (rows < self.count)
        return is_there

    def allowed(self, among: Groups | None) -> NDArray[np.bool_]:
        """Return which rows may be found (count,)."""
        alive = self.texts.lexical.alive[: self.count]
        if among is None:
            return alive
        chosen = np.zeros(self.count, np.bool_)  # (count,)
        chosen[self.rows(among)] = True
        return chosen

    def rows(self, ids: Groups) -> Rows:
        """Return the rows of memories; memories stored after this view was made are left out."""
        rows = self.texts.lexical.rows(ids)
        return rows[rows < self.count]

    def order(self, rows: Rows, values: Scores | Rows) -> NDArray[np.int64]:
        """Return the positions (n,) that sort rows by values (n,), largest first; ties go to the row written first."""
        # lexsort's last key is the primary one. `lot` breaks ties of one turn in the same way in every worker.
        talk = self.texts.talk
        return np.lexsort((talk.stamp_hash[rows], talk.turn[rows], -values))

    def largest(self, values: Scores | Rows, rows: Rows, count: int) -> Rows:
        """Return the `count` rows with the largest values (self.count,), in no order; ties as in `order`."""
        if len(rows) <= count:
            return rows
        values_of = values[rows]  # (n,)
        # The count-th largest value is the threshold: every row above it is in, and some of those equal to it.
        threshold = np.partition(values_of, len(rows) - count)[len(rows) - count]
        # (m,) the rows above the threshold, fewer than count, and (t,) the rows equal to it.
        above, equal = rows[values_of > threshold], rows[values_of == threshold]
        wanted, turns = count - len(above), self.texts.talk.turn[equal]
        if wanted < len(equal):
            # Narrow the ties by their turn first, because sorting thousands of them would take longer than the rest.
            equal = equal[turns <= np.partition(turns, wanted - 1)[wanted - 1]]
            equal = equal[self.order(equal, values[equal])[:wanted]]
        return np.concatenate([above, equal])

    def nearest(self, count: int, among: Groups | None, deviations: float = DEVIATIONS) -> Rows:
        """Return the `count` rows nearest to the vector, and all that are as near as the last of them; in no order.

        The index would break ties by id, and ids are in another order in every worker.
        """
        if self.cosines is not None:
            rows: Rows = np.flatnonzero(self.allowed(among) & ~np.isnan(self.cosines))
            cosines = self.cosines[rows]  # (n,) of all rows that may be found
            if len(rows) > count:
                # The count-th largest cosine is the threshold. Rows equal to it all stay.
                rows = rows[cosines >= np.partition(cosines, len(rows) - count)[len(rows) - count]]
            return rows
        assert self._vector is not None, "compare comes first"
        wanted = count + 1  # one more than needed shows whether the last place is tied
        while True:
            ids, cosines = self.index.dense.search(self._vector, wanted, among, deviations=deviations)
            # ids and cosines are (m,), best first, with m up to `wanted`.
            # The ties are complete once the search returns a worse memory, or no more memories at all.
            if len(ids) < wanted or cosines[-1] < cosines[count - 1]:
                return self.rows(ids[cosines >= cosines[count - 1]] if len(ids) > count else ids)
            wanted *= TIES_GROWTH
