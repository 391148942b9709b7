"""An index of postings: which documents have a term, and how often.

There is one writer at a time and any number of readers, which take no lock. A document is a group, as in
`group_index.py`: an ascending number that is never used again. A document gets the next row, and removing it clears a
flag. To reclaim rows, the owner of the index makes another index of the living rows (`over` their `arrays`) and
publishes it.
"""

import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]
Rows = NDArray[np.int64]
Frequencies = NDArray[np.float32]

FREQUENCY_MAX = 255
"""Most occurrences of a term that count in one document. A posting has 8 bits for them."""

TERMS_AT_ONCE = 512
"""Terms that `arrays` packs in one step."""

SHARED_TERMS_MAX = 4_096
"""Vocabularies up to this size share their words with other indexes. Of a larger one most words are rare, and sharing
takes 50 bytes for each."""

_FREQUENCY_BITS = 8
"""Bits of a posting for the frequency. The other 24 hold the row, which allows 16 million rows."""

_ROWS_MIN = 8
"""Rows of the first allocation. It is small, because there may be thousands of small indexes."""

OBJECT_BYTES = 800
TERM_BYTES = 210
POSTING_BYTES = 4.5
"""Memory of an empty index, of one term (two objects, a buffer, a place in a dictionary), and of one posting with room
to grow, in bytes. They were measured with CPython 3.11 on 64 bits."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """The contents of a lexical index as arrays, for a file.

    Attributes:
        groups: (n,) int64, the group of each document, ascending.
        lengths: (n,) uint32, number of terms of each document.
        terms: the vocabulary.
        counts: (terms,) uint32, number of postings of each term.
        postings: (sum of counts,) uint32, each a row and a frequency.
    """

    groups: Groups
    lengths: NDArray[np.uint32]
    terms: list[str]
    counts: NDArray[np.uint32]
    postings: NDArray[np.uint32]


class LexicalIndex:
    """An index of documents by their terms.

    Attributes:
        count: rows in use, those of removed documents included.
        groups: (capacity,) int64, the group of each row, ascending.
        lengths: (capacity,) uint32, number of terms of each document.
        alive: (capacity,) bool, False for removed documents.
        dead: number of removed documents.
    """

    __slots__ = ("_postings", "_postings_count", "alive", "count", "dead", "groups", "lengths")

    def __init__(self) -> None:
        self._postings: dict[str, array[int]] = {}
        self.groups = np.empty(_ROWS_MIN, np.int64)
        self.lengths = np.zeros(_ROWS_MIN, np.uint32)
        self.alive = np.zeros(_ROWS_MIN, np.bool_)
        self.count = 0
        self.dead = 0
        self._postings_count = 0

    @property
    def nbytes(self) -> int:
        """Return the estimated memory in bytes."""
        arrays = self.groups.nbytes + self.lengths.nbytes + self.alive.nbytes
        return OBJECT_BYTES + arrays + len(self._postings) * TERM_BYTES + round(self._postings_count * POSTING_BYTES)

    def __len__(self) -> int:
        """Return the number of living documents."""
        return self.count - self.dead

    def add(self, group: int, frequencies: Mapping[str, int], marks: Iterable[str] = ()) -> int:
        """Add a document under a group that is larger than all before, and return its row.

        Args:
            group: number of the document.
            frequencies: number of occurrences of each term.
            marks: further terms that occur once and add nothing to the length of the document.
        """
        row = self.count
        if row == len(self.groups):
            self._grow()
        self.groups[row] = group
        self.lengths[row] = sum(frequencies.values())
        self.alive[row] = True
        self._append(row, frequencies)
        self._append(row, dict.fromkeys(marks, 1))
        # Readers take no lock. The count comes last, so a row is complete as soon as it is in bounds.
        self.count = row + 1
        return row

    def _append(self, row: int, frequencies: Mapping[str, int]) -> None:
        postings, packed_row = self._postings, row << _FREQUENCY_BITS
        for term, frequency in frequencies.items():
            found = postings.get(term)
            if found is None:
                found = postings[sys.intern(term)] = array("I")  # namespaces share most of their words
            # Rows only grow, so every list of postings is ascending.
            found.append(packed_row | min(frequency, FREQUENCY_MAX))
        self._postings_count += len(frequencies)

    def remove(self, group: int) -> int | None:
        """Remove a document and return the row that it had; None when there is no such document."""
        row = self.row(group)
        if row is not None:
            self.alive[row] = False
            self.dead += 1
        return row

    def row(self, group: int) -> int | None:
        """Return the row of a living document; None when there is no such document."""
        row = int(np.searchsorted(self.groups[: self.count], group))
        return row if row < self.count and self.groups[row] == group and self.alive[row] else None

    def rows(self, groups: Groups) -> Rows:
        """Return the rows of these groups in their order, without those of unknown groups."""
        held = self.groups[: self.count]  # (count,) ascending
        # (n,) where each group would be; (m,) without groups larger than all, then (r,) without unknown ones.
        at = np.searchsorted(held, groups)
        is_within = at < len(held)
        at, groups = at[is_within], groups[is_within]
        found: Rows = at[held[at] == groups]
        return found[self.alive[found]]

    def postings(self, term: str) -> tuple[Rows, Frequencies]:
        """Return the rows (n,) of living documents with a term, ascending, and its frequencies (n,)."""
        found = self._postings.get(term)
        if found is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        count = self.count
        # (n,) the postings. They are a copy, since an array with a view on it cannot grow.
        packed = np.frombuffer(found.tobytes(), np.uint32)
        rows = (packed >> _FREQUENCY_BITS).astype(np.int64)
        # The last rows may be of a document that is being added, or of documents added after this index was frozen.
        if rows[-1:] >= count:
            rows = rows[: np.searchsorted(rows, count)]
            packed = packed[: len(rows)]
        living = self.alive[rows]  # (n,) bool
        return rows[living], (packed[living] & FREQUENCY_MAX).astype(np.float32)

    def frequency(self, term: str) -> int:
        """Return the number of living documents with a term."""
        return len(self.postings(term)[0])

    def _grow(self) -> None:
        capacity = max(_ROWS_MIN, self.count * 3 // 2)
        for name in ("groups", "lengths", "alive"):
            old = getattr(self, name)
            fresh = np.zeros(capacity, old.dtype)
            fresh[: self.count] = old[: self.count]
            setattr(self, name, fresh)

    def frozen(self) -> "LexicalIndex":
        """Return the index as it is now. It shares the postings; those added later have rows beyond its count."""
        # Groups, lengths and postings only grow beyond the count, so both indexes can share them.
        copy = LexicalIndex()
        copy._postings, copy.groups, copy.lengths = dict(self._postings), self.groups, self.lengths
        copy.alive, copy.count, copy.dead = self.alive.copy(), self.count, self.dead
        return copy

    def arrays(self) -> Arrays:
        """Return the living documents with rows from 0.

        One step packs a few hundred terms. A single step over all of them would hold up every other thread for tens of
        milliseconds.
        """
        alive = self.alive[: self.count]
        # (count,) the fresh row of each living row: the number of living rows before it.
        fresh_row = (np.cumsum(alive) - 1).astype(np.uint32)
        terms = list(self._postings)
        kept: list[str] = []
        counts, postings = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
        for begin in range(0, len(terms), TERMS_AT_ONCE):
            some = terms[begin : begin + TERMS_AT_ONCE]
            of_each, packed = self._living([self._postings[term] for term in some], alive, fresh_row)
            # `of_each` is (terms of this step,). Terms without a living document are left out.
            kept += [some[at] for at in np.flatnonzero(of_each).tolist()]
            counts.append(of_each[of_each > 0].astype(np.uint32))
            postings.append(packed)
        groups, lengths = self.groups[: self.count][alive], self.lengths[: self.count][alive]
        return Arrays(groups, lengths, kept, np.concatenate(counts), np.concatenate(postings))

    def _living(
        self, found: list["array[int]"], alive: NDArray[np.bool_], fresh_row: NDArray[np.uint32]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the number of living postings in each list (lists,), and these postings (n,) with their fresh rows.

        Args:
            found: lists of postings.
            alive: (count,) whether each row is living.
            fresh_row: (count,) the fresh row of each row.
        """
        parts = [postings.tobytes() for postings in found]
        # (m,) all postings one after the other, and the row of each.
        packed = np.frombuffer(b"".join(parts), np.uint32)
        rows = packed >> _FREQUENCY_BITS
        # (m,) whether a posting is of a living row. Rows beyond the count have no flag and are left out first.
        is_kept = rows < self.count
        is_kept[is_kept] = alive[rows[is_kept]]
        # (m,) the list that each posting is from, and (lists,) the number of kept ones in each.
        term = np.repeat(np.arange(len(found)), [len(part) // packed.itemsize for part in parts])
        of_each = np.bincount(term[is_kept], minlength=len(found))
        return of_each, fresh_row[rows[is_kept]] << _FREQUENCY_BITS | packed[is_kept] & FREQUENCY_MAX

    @classmethod
    def over(cls, arrays: Arrays) -> "LexicalIndex":
        """Make an index of the documents in these arrays."""
        index = cls()
        index.count = len(arrays.groups)
        index.groups, index.lengths = arrays.groups, arrays.lengths
        index.alive = np.ones(index.count, np.bool_)  # it grows when the next one is added
        index._postings_count = len(arrays.postings)
        # The postings of all terms follow each other, 4 bytes each.
        data, at = arrays.postings.astype(np.uint32).tobytes(), 0
        shared = sys.intern if len(arrays.terms) <= SHARED_TERMS_MAX else str
        for term, count in zip(arrays.terms, arrays.counts.tolist(), strict=True):
            index._postings[shared(term)] = found = array("I")
            found.frombytes(data[at : at + 4 * count])
            at += 4 * count
        return index
