"""FAISS's inner loops over arrays of our own, on the calling thread alone.

Requests run side by side, and on few cores OpenMP's spinning makes one search up to ten times slower. The number of
its threads is a setting of each thread, so it is made with every call (a microsecond).
"""

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Positions = NDArray[np.int64]
Sketches = NDArray[np.uint8]
Distances = NDArray[np.int32]


def inner_products(query: Vectors, rows: Vectors, positions: Positions) -> Vectors:
    """The inner products (n,) of a query (dim,) and the rows (any, dim) at n positions, which are not copied."""
    faiss.omp_set_num_threads(1)
    query = np.ascontiguousarray(query, dtype=np.float32)
    found = np.empty(len(positions), dtype=np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined] # FAISS's own stubs leave it out
        faiss.swig_ptr(found),
        faiss.swig_ptr(query),
        faiss.swig_ptr(rows),
        faiss.swig_ptr(positions),
        len(query),
        1,
        len(positions),
    )
    return found


def differing_bits(sketch: Sketches, sketches: Sketches) -> Distances:
    """In how many bits each of the sketches (n, bytes) differs from one (bytes,); contiguous arrays."""
    faiss.omp_set_num_threads(1)
    found = np.empty(len(sketches), dtype=np.int32)
    faiss.hammings(  # type: ignore[attr-defined]
        faiss.swig_ptr(sketch),
        faiss.swig_ptr(sketches),
        1,
        len(sketches),
        len(sketch),
        faiss.swig_ptr(found),
    )
    return found
