"""Rows: vectors as an index, a file on local disk and a FAISS file hold them, each under the id of its memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from indexes.scanning import Halves, Positions, Sketches, Vectors
from indexes.sketches import BITS, sketched

Groups = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Vectors in the order in which they were added.

    Attributes:
        ids: (n,) int64, the memory of each vector, ascending. A memory of several windows has several rows.
        halves: (n, dim) float16, the vectors rounded to half precision: to within 2**-11 of each component.
        sketches: (n, 64) uint8.
    """

    ids: Groups
    halves: Halves
    sketches: Sketches

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, count: int, dim: int) -> Self:
        """Return rows to be filled in."""
        ids, halves = np.empty(count, np.dtype("<i8")), np.empty((count, dim), np.dtype("<f2"))
        return cls(ids, halves, np.empty((count, BITS // 8), np.uint8))

    @classmethod
    def encode(cls, ids: Groups, vectors: Vectors) -> Self:
        """Round vectors (n, dim) of length 1 and sketch them."""
        return cls(ids, vectors.astype(np.float16), sketched(vectors))

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Return the rows of several parts as one, copied; at least one part."""
        ids, halves, sketches = zip(*((part.ids, part.halves, part.sketches) for part in parts), strict=True)
        return cls(np.concatenate(ids), np.concatenate(halves), np.concatenate(sketches))

    def __getitem__(self, at: slice | Positions) -> Self:
        return type(self)(self.ids[at], self.halves[at], self.sketches[at])

    def vectors(self) -> Vectors:
        """Return the vectors (n, dim) as float32."""
        return self.halves.astype(np.float32)


def in_chunks(parts: Iterable[EncodedRows], rows_max: int) -> Iterator[EncodedRows]:
    """Yield the same rows in chunks of `rows_max`; the last one may have fewer."""
    waiting: list[EncodedRows] = []
    count = 0
    for part in parts:
        begin = 0
        while count + len(part) - begin >= rows_max:
            end = begin + rows_max - count
            yield EncodedRows.join([*waiting, part[begin:end]])
            waiting, count, begin = [], 0, end
        if begin < len(part):
            waiting.append(part[begin:])
            count += len(part) - begin
    if waiting:
        yield EncodedRows.join(waiting)
