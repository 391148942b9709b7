"""The exact index against brute force, over random histories of adding and removing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.exact import ExactIndex, room_for

DIM = 8


def brute_force(held, query, k, among):
    scores = {g: float((v @ query).max()) for g, v in held.items() if among is None or g in among}
    return sorted(scores, key=lambda g: (-scores[g], g))[:k], scores


@st.composite
def histories(draw):
    steps = []
    for _ in range(draw(st.integers(1, 30))):
        if draw(st.booleans()) or not steps:
            steps.append(("add", draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))))
        else:
            steps.append(("remove", draw(st.lists(st.integers(0, 200), max_size=10))))
    return steps, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=150, deadline=None)
@given(history=histories(), k=st.integers(1, 40), restrict=st.booleans())
def test_search_equals_brute_force_after_any_history(history, k, restrict):
    steps, seed = history
    random = np.random.default_rng(seed)
    index, held, next_group = ExactIndex(DIM), {}, 0
    for what, numbers in steps:
        if what == "add":
            groups, rows = [], []
            for windows in numbers:
                vectors = random.normal(size=(windows, DIM)).astype(np.float32)
                held[next_group] = vectors
                groups += [next_group] * windows
                rows.append(vectors)
                next_group += 1 + int(random.integers(0, 3))
            index.add(np.array(groups, dtype=np.int64), np.concatenate(rows))
        else:
            index.remove(np.array(numbers, dtype=np.int64))
            for group in numbers:
                held.pop(group, None)
    query = random.normal(size=DIM).astype(np.float32)
    among = {g for g in range(next_group + 5) if random.random() < 0.3} if restrict else None

    groups, scores = index.search(query, k, None if among is None else np.array(sorted(among), dtype=np.int64))

    expected, exact = brute_force(held, query, k, among)
    assert len(index) == len(held)
    assert len(groups) == len(expected)
    assert len(set(groups.tolist())) == len(groups)
    np.testing.assert_allclose(scores, [exact[g] for g in expected], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, [exact[g] for g in groups.tolist()], rtol=1e-5, atol=1e-5)
    for group, vectors in held.items():
        np.testing.assert_array_equal(index.vectors(group), vectors)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 4), max_size=60), more=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_an_index_over_given_rows_equals_one_that_they_were_added_to(counts, more, seed):
    """Also when it grows within its room and beyond it, and when rows are removed."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(counts), dtype=np.int64) * 2, counts)
    vectors = random.normal(size=(len(groups), DIM)).astype(np.float32)
    rows = room_for(len(groups), DIM)
    rows[: len(groups)] = vectors
    over, added = ExactIndex.over(groups, rows), ExactIndex(DIM)
    added.add(groups, vectors)
    for index in (over, added):
        index.add(np.arange(more, dtype=np.int64) + 1_000, np.tile(np.eye(DIM, dtype=np.float32), (5, 1))[:more])
        index.remove(np.arange(0, len(counts), dtype=np.int64))
    assert len(over) == len(added)
    for one, other in zip(over.freeze().rows(), added.freeze().rows(), strict=True):
        np.testing.assert_array_equal(one, other)
    query = random.normal(size=DIM).astype(np.float32)
    for one, other in zip(over.search(query, 9), added.search(query, 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_index_over_given_rows_keeps_them_and_their_room():
    rows = room_for(100, DIM)
    rows[:100] = 1
    index = ExactIndex.over(np.arange(100), rows)
    index.add(np.array([100]), np.zeros((1, DIM), dtype=np.float32))
    assert index._view.rows is rows


def test_rows_that_do_not_fit_their_groups_are_refused():
    rows = room_for(4, DIM)
    with pytest.raises(ValueError, match="contiguous"):
        ExactIndex.over(np.arange(len(rows) + 1), rows)
    with pytest.raises(ValueError, match="contiguous"):
        ExactIndex.over(np.arange(4), rows[:, ::2])
    with pytest.raises(ValueError, match="ascending"):
        ExactIndex.over(np.array([2, 1]), rows)


def test_an_empty_index_finds_nothing():
    groups, scores = ExactIndex(DIM).search(np.ones(DIM, dtype=np.float32), 5)
    assert groups.shape == scores.shape == (0,)


def test_wrong_shapes_and_repeated_groups_are_refused():
    index = ExactIndex(DIM)
    index.add(np.array([3]), np.ones((1, DIM), dtype=np.float32))
    with pytest.raises(ValueError, match="shape"):
        index.add(np.array([4]), np.ones((1, DIM + 1), dtype=np.float32))
    with pytest.raises(ValueError, match="ascending"):
        index.add(np.array([3]), np.ones((1, DIM), dtype=np.float32))
    with pytest.raises(ValueError, match="shape"):
        index.search(np.ones(DIM + 1, dtype=np.float32), 1)


def test_a_reader_that_started_before_a_removal_never_sees_rows_of_another_group():
    """Removal reclaims room by copying; the old arrays must stay as the reader knew them."""
    index = ExactIndex(DIM)
    index.add(np.arange(100), np.eye(DIM, dtype=np.float32)[np.arange(100) % DIM])
    before = index._view
    owners = before.owners[:100].copy()
    index.remove(np.arange(0, 100, 2))
    index.add(np.arange(100, 300), np.ones((200, DIM), dtype=np.float32))
    np.testing.assert_array_equal(before.owners[:100], owners)
