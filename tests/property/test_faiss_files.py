"""FAISS files: what FAISS itself reads from them, and what is refused."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import files
from indexes.rows import EncodedRows

DIM = 16


def encoded(count, seed=0):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, DIM)).astype(np.float32)
    ids = np.sort(random.integers(0, 10**12, size=count))
    return EncodedRows.encode(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def written(rows):
    data = bytearray(), bytearray()
    files.write(rows, data[0].extend, data[1].extend)
    return [bytes(each) for each in data]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_what_was_written_is_read_again(count, seed):
    rows = encoded(count, seed)
    found = files.read(*written(rows), DIM)
    np.testing.assert_array_equal(found.ids, rows.ids)
    np.testing.assert_array_equal(found.halves, rows.halves)
    np.testing.assert_array_equal(found.sketches, rows.sketches)


def test_faiss_finds_vectors_and_sketches_by_the_ids_of_their_memories(tmp_path):
    rows = encoded(50)
    for name, data in zip(("vectors", "sketches"), written(rows), strict=True):
        (tmp_path / name).write_bytes(data)
    vectors = faiss.read_index(str(tmp_path / "vectors"))
    sketches = faiss.read_index_binary(str(tmp_path / "sketches"))
    for at in range(50):
        assert vectors.search(rows.vectors()[at : at + 1], 1)[1][0, 0] == rows.ids[at]
        assert sketches.search(rows.sketches[at : at + 1], 1)[1][0, 0] == rows.ids[at]
        np.testing.assert_array_equal(vectors.reconstruct(int(rows.ids[at])), rows.vectors()[at])


def serialized(index):
    return faiss.serialize_index(index).tobytes()


def single_precision():
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(DIM))
    index.add_with_ids(encoded(3).vectors(), encoded(3).ids)
    return serialized(index)


@pytest.mark.parametrize(
    "vectors",
    [
        b"",
        b"no index at all",
        written(encoded(3))[0][:-1],
        written(encoded(3))[1],
        written(encoded(3, seed=1))[0],
        single_precision(),
        serialized(faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)),
    ],
    ids=["empty", "text", "cut", "sketches", "other ids", "single precision", "without ids"],
)
def test_what_is_not_such_a_file_is_refused(vectors):
    with pytest.raises(ValueError, match="vectors"):
        files.read(vectors, written(encoded(3))[1], DIM)


def test_vectors_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match="17 dimensions"):
        files.read(*written(encoded(3)), 17)
