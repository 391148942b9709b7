"""The lexical index against a plain dictionary, over random histories of adding, removing and copying."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexes.lexical import FREQUENCY_MAX, LexicalIndex

TERMS = "abcdefg"
documents = st.dictionaries(st.sampled_from(TERMS), st.sampled_from([1, 2, 5, FREQUENCY_MAX, 400]), max_size=4)
steps = st.one_of(
    st.tuples(st.just("add"), documents),
    st.tuples(st.just("remove"), st.integers(0, 120)),
    st.tuples(st.just("copy"), st.none()),
)


def assert_same(index, held):
    """That an index has these documents, (group, frequencies, mark) in the order of adding, and no others."""
    assert len(index) == len(held)
    groups = [group for group, _, _ in held]
    for term in (*TERMS, "!mark", "unknown"):
        rows, frequencies = index.postings(term)
        expected = [
            (group, min(FREQUENCY_MAX, (document | ({"!mark": 1} if mark else {}))[term]))
            for group, document, mark in held
            if term in document or (term == "!mark" and mark)
        ]
        assert list(zip(index.groups[rows].tolist(), frequencies.tolist(), strict=True)) == expected
        assert index.frequency(term) == len(expected)
    for group, document, _ in held:
        assert index.lengths[index.row(group)] == sum(document.values())
    asked = np.arange(-2, max(groups, default=0) + 5)
    assert index.groups[index.rows(asked)].tolist() == groups
    assert [group for group in asked.tolist() if index.row(group) is not None] == groups


@given(history=st.lists(steps, max_size=60), seed=st.integers(0, 2**32 - 1))
def test_an_index_holds_what_a_dictionary_would_after_any_history(history, seed):
    random = np.random.default_rng(seed)
    index, held, group = LexicalIndex(), [], 0
    frozen = []
    for what, value in history:
        if what == "add":
            mark = bool(random.random() < 0.3)
            row = index.add(group, Counter(value), ["!mark"] if mark else [])
            held.append((group, value, mark))
            assert index.groups[row] == group
            group += 1 + int(random.integers(0, 3))
        elif what == "remove":
            row = index.remove(value)
            assert (row is not None) == any(value == known for known, _, _ in held)
            held = [document for document in held if document[0] != value]
        else:
            frozen.append((index.frozen(), list(held)))
            index = LexicalIndex.over(index.arrays())
            assert index.count == len(held), "rows are reclaimed"
    assert_same(index, held)
    for copy, then in frozen:
        assert_same(copy, then)


@given(
    before=st.lists(documents, max_size=40),
    after=st.lists(documents, min_size=1, max_size=40),
    gone=st.lists(st.integers(0, 80), max_size=20),
)
def test_a_frozen_index_stays_as_it_was_while_more_is_added_and_removed(before, after, gone):
    index = LexicalIndex()
    for group, document in enumerate(before):
        index.add(group, document)
    held = [(group, document, False) for group, document in enumerate(before)]
    frozen = index.frozen()
    for group, document in enumerate(after, start=len(before)):
        index.add(group, document)
    for group in gone:
        index.remove(group)
    assert_same(frozen, held)
    assert_same(LexicalIndex.over(frozen.arrays()), held)


def test_the_rows_of_unknown_groups_are_left_out_and_none_comes_twice():
    """The rows of 3 and 5 were both that of 5, when there was no 3."""
    index = LexicalIndex()
    for group in (5, 9):
        index.add(group, {"a": 1})
    assert index.rows(np.array([3, 5, 6, 9, 12])).tolist() == [0, 1]
    assert index.rows(np.array([], np.int64)).tolist() == []
    assert LexicalIndex().rows(np.array([1])).tolist() == []


def test_a_document_of_100000_terms_is_indexed():
    index = LexicalIndex()
    index.add(1, {f"t{at}": 1 for at in range(100_000)})
    copy = LexicalIndex.over(index.arrays())
    assert copy.lengths[0] == 100_000
    assert copy.postings("t99999")[0].tolist() == [0]


def test_arrays_hold_nothing_of_removed_documents():
    index = LexicalIndex()
    index.add(1, {"secret": 1, "shared": 1})
    index.add(2, {"shared": 2})
    index.remove(1)
    assert index.arrays().terms == ["shared"]
