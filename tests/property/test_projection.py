"""The projection: the same journals give the same state, in whatever order and pieces they are read."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.catalog import Catalog
from memory_service.clock import HybridClock, Stamp
from memory_service.embedding import Fingerprint
from memory_service.projection import Projection
from memory_service.records import Delete, Put, Record

FINGERPRINT = Fingerprint("test-model", "ab" * 32, 4, "mean")
KEYS = st.sampled_from(["a", "b", "c"])
NAMESPACES = st.sampled_from(["x", "y"])


@st.composite
def journals(draw):
    """Records of two writers with overlapping clocks, each in its own order of stamps."""
    written = {}
    for writer in ("w1", "w2"):
        records, at = [], 0
        for number in range(draw(st.integers(0, 8))):
            at += draw(st.integers(1, 3))
            namespace, key = draw(NAMESPACES), draw(KEYS)
            if draw(st.booleans()):
                vector = np.full((draw(st.integers(1, 3)), 4), hash((writer, number)) % 97, np.float32)
                mutation = Put(namespace, key, f"{writer}-{number}", "{}", vector, at, None)
            else:
                mutation = Delete(namespace, key)
            records.append(Record(Stamp(at, 0, writer), mutation))
        written[writer] = records
    return written


def state(projection):
    """Everything that a caller could see, with the vectors beside the texts."""
    seen = {}
    for namespace in ("x", "y"):
        index = projection.index(namespace)
        for key in ("a", "b", "c"):
            version = projection.catalog.version(namespace, key)
            if version is not None:
                seen[namespace, key] = (version.content, version.stamp, index.vectors(version.id).tolist())
        assert (0 if index is None else len(index)) == sum(found == namespace for found, _ in seen)
    return seen


def projected(pieces):
    catalog = Catalog()
    try:
        projection = Projection(catalog, FINGERPRINT, HybridClock())
        for writer, records in pieces:
            projection.apply(records, {writer: 0})
        return state(projection)
    finally:
        catalog.close()


def expected(written):
    """The last stamp wins for each key."""
    last = {}
    for record in sorted((r for records in written.values() for r in records), key=lambda r: r.stamp):
        last[record.mutation.namespace, record.mutation.key] = record
    return {
        at: (record.mutation.content, record.stamp, record.mutation.vectors.tolist())
        for at, record in last.items()
        if isinstance(record.mutation, Put)
    }


@settings(max_examples=120, deadline=None)
@given(written=journals(), data=st.data())
def test_any_order_and_any_pieces_give_the_state_of_the_last_stamps(written, data):
    pieces = []
    for writer, records in written.items():
        cut = data.draw(st.integers(0, len(records)))
        pieces += [(writer, records[:cut]), (writer, records[cut:])]
    shuffled = data.draw(st.permutations(pieces))
    repeated = [*shuffled, *data.draw(st.lists(st.sampled_from(pieces), max_size=2))]
    assert projected(repeated) == expected(written)
