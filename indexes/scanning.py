"""FAISS's inner loops over the memory of its indexes, on the calling thread alone.

Requests run side by side, and on few cores OpenMP's spinning makes one search up to ten times slower. The number of
its threads is a setting of each thread, so it is made with every call (a microsecond).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

_faiss: Any = faiss  # its own stubs leave out most of what is used here

Vectors = NDArray[np.float32]
Halves = NDArray[np.float16]
Positions = NDArray[np.int64]
Sketches = NDArray[np.uint8]
Distances = NDArray[np.int32]

SPARSE = 3
"""Fewer than one row in 3 is copied before it is compared. For more, FAISS's look at each row's bit is cheaper."""

SCAN_ROWS_MAX = 16_384
"""Rows of one array at most: those of a full segment."""

BLOCK_ROWS = 512
"""Rows copied at once: 0.4 MB at 384 dimensions, which stay in the processor's cache until they are compared."""


class Scanner:
    """Compares queries with rows of half precision, by the loop inside `faiss.IndexScalarQuantizer.search`.

    That method returns the best k alone, sorted, and `range_search` of the same index takes twenty times as long. A
    ranking needs every score. One thread at a time uses a scanner. `inner_products` keeps idle ones, since FAISS's
    wrapper never frees one.
    """

    def __init__(self, dim: int) -> None:
        self._quantizer = _faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        self._nothing = faiss.IDSelectorRange(0, 0)
        self._scanning_all = self._made(None)
        self._scanning_selected = self._made(self._nothing)
        self._block = np.empty((BLOCK_ROWS, dim), np.float16)
        # room for the scores of one scan, and for FAISS's numbers of their rows, which nobody needs
        self._result = faiss.RangeSearchResult(1)
        self._result.buffer_size = SCAN_ROWS_MAX
        self._list = _faiss.RangeSearchPartialResult(self._result)
        self._found = self._list.new_result(0)
        self._ignored = np.empty(SCAN_ROWS_MAX, np.int64)
        self._numbers = faiss.swig_ptr(self._ignored)

    def _made(self, selector: faiss.IDSelector | None) -> Any:
        scanner = self._quantizer.select_InvertedListScanner(
            faiss.METRIC_INNER_PRODUCT, None, store_pairs=True, sel=selector
        )
        scanner.set_list(0, 0.0)
        return scanner

    def compare(self, query: Vectors, parts: Iterable[tuple[Halves, Positions | None]], scores: Vectors) -> None:
        """Set `scores` (n,) as `inner_products` returns them."""
        # Sparse parts are copied into the block (BLOCK_ROWS, dim), which is compared when it is full, before a dense
        # part, and at the end. `scores[:end]` is accounted for; the last `waiting` of these rows wait in the block.
        end = waiting = 0
        for rows, positions in parts:
            if positions is not None and len(positions) * SPARSE < len(rows):
                at = 0
                while at < len(positions):
                    some = positions[at : at + BLOCK_ROWS - waiting]
                    np.take(rows, some, axis=0, mode="clip", out=self._block[waiting : waiting + len(some)])
                    at, end, waiting = at + len(some), end + len(some), waiting + len(some)
                    if waiting == BLOCK_ROWS:
                        self._scan(query, self._block, None, scores[end - waiting : end])
                        waiting = 0
                continue
            self._scan(query, self._block[:waiting], None, scores[end - waiting : end])
            # a dense part is compared where it is
            waiting, begin = 0, end
            end += len(rows if positions is None else positions)
            self._scan(query, rows, positions, scores[begin:end])
        self._scan(query, self._block[:waiting], None, scores[end - waiting : end])

    def _scan(self, query: Vectors, rows: Halves, positions: Positions | None, scores: Vectors) -> None:
        count = len(scores)
        if not count:
            return
        scanner = self._scanning_all if positions is None else self._scanning_selected
        if positions is not None:
            # one bit for each row (n,), packed (n / 8,); FAISS keeps a pointer to the selector, so it lives until then
            is_selected = np.zeros(len(rows), np.bool_)
            is_selected[positions] = True
            scanner.sel = selector = _faiss.IDSelectorBitmap(np.packbits(is_selected, bitorder="little"))  # noqa: F841
        scanner.set_query(faiss.swig_ptr(query))
        # FAISS appends every score above minus infinity to its list, in the order of the rows
        scanner.scan_codes_range(len(rows), faiss.swig_ptr(rows.view(np.uint8)), None, -np.inf, self._found)
        found = self._found.nres
        self._list.copy_range(0, min(found, count), self._numbers, faiss.swig_ptr(scores))
        self._list.wp = self._found.nres = 0  # the list is empty again, and keeps its room
        if found != count:
            raise ValueError("a query or a vector has numbers that are not finite")


_idle: dict[int, list[Scanner]] = defaultdict(list)


def inner_products(query: Vectors, parts: Iterable[tuple[Halves, Positions | None]], count: int) -> Vectors:
    """Return the inner products (n,) of a query (dim,) and rows of several arrays, one array after the other.

    Args:
        query: the query (dim,).
        parts: rows (any, dim), and the positions of those to compare, ascending; None compares all.
        count: number of rows that are compared, in all parts.

    Raises:
        ValueError: a number of the query or of a row is not finite.
    """
    faiss.omp_set_num_threads(1)
    scores = np.empty(count, np.float32)
    idle = _idle[len(query)]
    try:
        scanner = idle.pop()
    except IndexError:
        scanner = Scanner(len(query))
    try:
        scanner.compare(np.ascontiguousarray(query, dtype=np.float32), parts, scores)
    finally:
        idle.append(scanner)
    return scores


def differing_bits(sketch: Sketches, sketches: Sketches, found: Distances) -> Distances:
    """Set, and return, in how many bits (n,) each of the sketches (n, bytes) differs from one (bytes,).

    `faiss.IndexBinaryFlat.search` returns the nearest alone, sorted, and its `range_search` takes twice as long.
    """
    faiss.omp_set_num_threads(1)
    one, many, result = (faiss.swig_ptr(array) for array in (sketch, sketches, found))
    _faiss.hammings(one, many, 1, len(sketches), len(sketch), result)
    return found
