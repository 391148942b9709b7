"""Digests of requests: the same request has the same digest in every release, and another request another one."""

import pytest

from memory_service.cursors import decode_cursor, encode_cursor
from memory_service.digests import is_versioned, request_digest
from vector_memory.errors import InvalidInput
from vector_memory.memories import Embedding, NewMemory

COFFEE = "Dana drinks an oat flat white."


def store_digest(*memories):
    return request_digest("store", {"memories": memories})


def test_the_order_of_metadata_keys_does_not_matter_at_any_depth():
    one = NewMemory(content=COFFEE, metadata={"a": 1, "b": {"x": [1], "y": None}})
    other = NewMemory(content=COFFEE, metadata={"b": {"y": None, "x": [1]}, "a": 1})
    assert store_digest(one) == store_digest(other)


def test_a_field_that_only_a_later_release_has_does_not_matter_at_its_default():
    class LaterMemory(NewMemory):
        priority: int = 0

    assert store_digest(LaterMemory(content=COFFEE, metadata={"a": 1})) == store_digest(
        NewMemory(content=COFFEE, metadata={"a": 1})
    )
    assert store_digest(LaterMemory(content=COFFEE, priority=1)) != store_digest(NewMemory(content=COFFEE))


def test_an_argument_that_is_not_given_does_not_matter():
    assert request_digest("update", {"key": "k", "content": None}) == request_digest("update", {"key": "k"})


@pytest.mark.parametrize(
    "other",
    [
        NewMemory(content=COFFEE + "!"),
        NewMemory(content=COFFEE, key="k"),
        NewMemory(content=COFFEE, namespace="other"),
        NewMemory(content=COFFEE, metadata={"a": None}),
        NewMemory(content=COFFEE, metadata={"a": "1"}),
        NewMemory(content=COFFEE, metadata={"a": 1.0}),
        NewMemory(content=COFFEE, ttl_seconds=1),
        NewMemory(content=COFFEE, embedding=Embedding(revision="revision", vectors="AAAA")),
    ],
)
def test_what_is_sent_matters(other):
    memories = [NewMemory(content=COFFEE, metadata={"a": 1}), NewMemory(content=COFFEE), other]
    assert len({store_digest(memory) for memory in memories}) == 3


def test_operation_order_and_number_of_memories_matter():
    one, two = NewMemory(content="one"), NewMemory(content="two")
    digests = [store_digest(one, two), store_digest(two, one), store_digest(one), store_digest(one, one)]
    assert len(set(digests)) == 4
    assert request_digest("delete_keys", {"keys": ["k"]}) != request_digest("get", {"keys": ["k"]})


def test_a_digest_says_how_it_was_made():
    assert is_versioned(store_digest(NewMemory(content=COFFEE)))
    assert not is_versioned("ab" * 32)


def test_a_cursor_of_an_earlier_release_is_not_valid():
    cursor = encode_cursor(1, "k", "ab" * 32)
    with pytest.raises(InvalidInput, match=r"cursor is not valid\. Omit it to start from the first page\."):
        decode_cursor(cursor, request_digest("list", {"namespace": "default"}))
