"""FAISS files: rows as two files that `faiss.read_index` and `faiss.read_index_binary` open, ids included.

The vectors are an `IndexIDMap2` over an `IndexScalarQuantizer` of half precision with inner products, the sketches an
`IndexBinaryIDMap2` over an `IndexBinaryFlat`. FAISS trusts what it reads, so `read` is for bytes whose checksum held.
"""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from indexes.rows import EncodedRows
from indexes.scanning import Sketches
from indexes.sketches import BITS

_faiss: Any = faiss  # its own stubs leave out some of what is used here

CHUNK_BYTES = 1 << 20
"""FAISS hands out what it writes in pieces of this size."""


def write(rows: EncodedRows, vectors: Callable[[bytes], object], sketches: Callable[[bytes], object]) -> None:
    """Give the two files of some rows, piece by piece, to two functions."""
    flat = faiss.IndexScalarQuantizer(rows.halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    vectors_index, sketches_index = faiss.IndexIDMap2(flat), faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(BITS))
    ids = rows.ids.astype(np.int64, copy=False)
    vectors_index.add_sa_codes(np.ascontiguousarray(rows.halves).view(np.uint8), ids)
    sketches_index.add_with_ids(rows.sketches, ids)
    faiss.write_index(vectors_index, _faiss.PyCallbackIOWriter(vectors, CHUNK_BYTES))
    faiss.write_index_binary(sketches_index, _faiss.PyCallbackIOWriter(sketches, CHUNK_BYTES))


def read(vectors: bytes, sketches: bytes, dim: int) -> EncodedRows:
    """Return the rows of two files that `write` wrote, copied.

    Raises:
        ValueError: they are not two such files, of this dimension and with the same ids.
    """
    try:
        vectors_index: Any = faiss.read_index(_reader(vectors))
        sketches_index: Any = faiss.read_index_binary(_reader(sketches))
        flat: Any = faiss.downcast_index(vectors_index.index)
        binary: Any = faiss.downcast_IndexBinary(sketches_index.index)
        kind = (flat.sq.qtype, flat.d, flat.metric_type, binary.d)
        ids = faiss.vector_to_array(vectors_index.id_map)
        same_ids = np.array_equal(ids, faiss.vector_to_array(sketches_index.id_map))
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"FAISS does not read them as indexes of vectors and of sketches: {error}") from error
    if kind != (faiss.ScalarQuantizer.QT_fp16, dim, faiss.METRIC_INNER_PRODUCT, BITS) or not same_ids:
        raise ValueError(f"they are not vectors of {dim} dimensions and their sketches")
    rows = EncodedRows.empty(len(ids), dim)
    if len(ids):
        rows.ids[:] = ids
        rows.halves.view(np.uint8)[:] = _memory(flat.codes).reshape(len(ids), flat.code_size)
        rows.sketches[:] = _memory(binary.xb).reshape(len(ids), binary.code_size)
    return rows


def _reader(data: bytes) -> Any:
    """Return a reader whose indexes are views of these bytes, which the caller keeps."""
    array = np.frombuffer(data, np.uint8)
    return _faiss.ZeroCopyIOReader(faiss.swig_ptr(array), array.size)


def _memory(vector: Any) -> Sketches:
    view: Sketches = faiss.rev_swig_ptr(vector.data(), vector.size())
    return view
