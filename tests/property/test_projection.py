"""The projection: the same journals give the same state, in whatever order and pieces they are read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory_service.clock import HybridClock, Stamp
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.records import Put, Record, Removal
from memory_service.projection.applying import Projection
from memory_service.projection.catalog import Catalog

FINGERPRINT = Fingerprint("test-model", "ab" * 32, 4, "mean")
NOW_MS = 30
KEPT_MS = 22
KEYS = st.sampled_from(["a", "b", "c"])
NAMESPACES = st.sampled_from(["x", "y"])


@st.composite
def journals(draw):
    """Records of two writers with overlapping clocks, each in its own order of stamps; some puts expire."""
    written = {}
    for writer in ("w1", "w2"):
        records, at = [], 0
        for number in range(draw(st.integers(0, 8))):
            at += draw(st.integers(1, 3))
            namespace, key = draw(NAMESPACES), draw(KEYS)
            if draw(st.integers(0, 2)):
                vector = np.full((draw(st.integers(1, 3)), 4), hash((writer, number)) % 97, np.float32)
                expires_at = draw(st.sampled_from([None, None, None, at + 1, at + 9, NOW_MS + 5]))
                mutation = Put(
                    namespace=namespace,
                    key=key,
                    content=f"{writer}-{number}",
                    metadata="{}",
                    vectors=vector,
                    created_at_ms=at,
                    expires_at_ms=expires_at,
                )
            else:
                mutation = Removal(namespace, key)
            records.append(Record(Stamp(at, 0, writer), mutation))
        written[writer] = records
    return written


def state(projection):
    """Everything that a caller could see now and looking back, with the vectors beside the texts."""
    catalog, seen = projection.catalog, {}
    for namespace in ("x", "y"):
        index, living = projection.index(namespace), 0
        for key in ("a", "b", "c"):
            version = catalog.version(namespace, key)
            living += version is not None
            current = version and (version.content, version.stamp, index.dense.vectors(version.id).tolist())
            versions, tombstone = catalog.history(namespace, key, NOW_MS - KEPT_MS)
            then = [catalog.get(namespace, key, at) for at in range(NOW_MS - KEPT_MS, NOW_MS + 1)]
            seen[namespace, key] = (
                current,
                [memory.content for memory in versions],
                tombstone and tombstone.deleted_at_ms,
                (tombstone and not versions and tombstone.expired_at_ms) or None,
                [memory and memory.content for memory in then],
            )
        assert (0 if index is None else len(index)) == living
    return seen


def projected(pieces, *, expiring_between):
    catalog = Catalog()
    try:
        projection = Projection(catalog, FINGERPRINT, HybridClock(lambda: NOW_MS), KEPT_MS)
        for writer, records in pieces:
            projection.apply(records, {writer: 0})
            if expiring_between:
                projection.expire(NOW_MS)
        projection.expire(NOW_MS)
        return state(projection)
    finally:
        catalog.close()


def expected(written):
    """The last stamp wins; a delete, or a put whose time is over, erases what came before it."""
    everything = sorted((r for records in written.values() for r in records), key=lambda r: r.stamp)
    return {
        (namespace, key): expected_of(
            [r for r in everything if (r.mutation.namespace, r.mutation.key) == (namespace, key)]
        )
        for namespace in ("x", "y")
        for key in ("a", "b", "c")
    }


def is_over(mutation):
    return isinstance(mutation, Removal) or (mutation.expires_at_ms is not None and mutation.expires_at_ms <= NOW_MS)


def expected_of(records):
    last_over = max((at for at, record in enumerate(records) if is_over(record.mutation)), default=None)
    versions = records if last_over is None else records[last_over + 1 :]
    untils = [record.stamp.ms for record in versions[1:]] + [NOW_MS + 1]
    current = None
    if versions:
        put = versions[-1].mutation
        current = (put.content, versions[-1].stamp, put.vectors.tolist())
    deleted_at = max((r.stamp.ms for r in records if isinstance(r.mutation, Removal)), default=None)
    expired_at = None if versions or not records else getattr(records[-1].mutation, "expires_at_ms", None)
    intervals = [
        (r.mutation.content, r.stamp.ms, until) for r, until in zip(versions, untils[: len(versions)], strict=True)
    ]
    history = [content for content, _, until in intervals if until > NOW_MS - KEPT_MS]
    then = [
        next((content for content, begin, until in intervals if begin <= at < until), None)
        for at in range(NOW_MS - KEPT_MS, NOW_MS + 1)
    ]
    return current, history[::-1], deleted_at, expired_at, then


@given(written=journals(), expiring_between=st.booleans(), data=st.data())
def test_any_order_and_any_pieces_give_the_same_present_and_past(written, expiring_between, data):
    pieces = []
    for writer, records in written.items():
        cut = data.draw(st.integers(0, len(records)))
        pieces += [(writer, records[:cut]), (writer, records[cut:])]
    shuffled = data.draw(st.permutations(pieces))
    repeated = [*shuffled, *data.draw(st.lists(st.sampled_from(pieces), max_size=2))]
    assert projected(repeated, expiring_between=expiring_between) == expected(written)
