"""Which of the ranked memories are returned, and how many are compared for that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.group_index import GroupIndex
from memory_service.clock import Stamp
from memory_service.namespaces.conversation import Text
from memory_service.namespaces.index import Entry, NamespaceIndex
from memory_service.retrieval.ranking import Ranking
from memory_service.retrieval.selection import POOL_FACTOR, POOL_MIN, select

DIM = 4


class Counting(GroupIndex):
    """Vectors that know how many of them were asked for."""

    asked_for = 0

    def firsts(self, groups):
        self.asked_for += len(groups)
        return super().firsts(groups)


def index_of(sessions):
    """An index of a memory in each of these sessions, None for none, with ids from 0; and a ranking of them all."""
    index, random = NamespaceIndex(Counting(DIM)), np.random.default_rng(0)
    vectors = random.normal(size=(len(sessions), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [
        Text("a", {} if it is None else {"session_id": it}, 1, Stamp(1, at, "w")) for at, it in enumerate(sessions)
    ]
    index.add([(at, Entry(text, vectors[at : at + 1])) for at, text in enumerate(texts)])
    return index, Ranking(ids=np.arange(len(sessions)), scores=np.linspace(1, 0, len(sessions), dtype=np.float32))


@settings(max_examples=settings().max_examples // 2)
@given(
    counts=st.lists(st.integers(1, 120), min_size=1, max_size=8),
    alone=st.integers(0, 300),
    k=st.integers(1, 120),
    per_session=st.integers(1, 30),
    diversity=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 99),
)
def test_k_are_chosen_wherever_the_sessions_have_so_many(counts, alone, k, per_session, diversity, seed):
    sessions = [at for at, count in enumerate(counts) for _ in range(count)] + [None] * alone
    sessions = [sessions[at] for at in np.random.default_rng(seed).permutation(len(sessions))]
    index, ranked = index_of(sessions)
    places = list(range(len(sessions)))
    chosen = select(ranked, places, index, k, diversity=diversity, per_session=per_session)
    possible = sum(min(count, per_session) for count in counts) + alone
    assert len(chosen) == len(set(chosen)) == min(k, possible)
    for session in range(len(counts)):
        assert sum(sessions[at] == session for at in chosen) <= per_session


@pytest.mark.parametrize("diversity", [0.1, 0.5, 1])
def test_each_choice_has_the_largest_gain_less_its_cosine_to_those_before(diversity):
    index, ranked = index_of([None] * 60)
    vectors = index.dense.firsts(ranked.ids)
    chosen = [0]
    while len(chosen) < 60:
        gains = (1 - diversity) * ranked.scores - diversity * (vectors @ vectors[chosen].T).max(1)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
    assert select(ranked, list(range(60)), index, 60, diversity=diversity, per_session=None) == chosen


@pytest.mark.parametrize("k", [5, 100])
def test_few_are_compared_however_many_there_are_of_few_sessions(k):
    """Each choice compares all that are left: a hundred thousand memories of ten sessions once took half a minute."""
    index, ranked = index_of([at % 10 for at in range(3_000)])
    chosen = select(ranked, list(range(3_000)), index, k, diversity=0.5, per_session=1)
    assert len(chosen) == min(k, 10)
    assert index.dense.asked_for <= max(POOL_MIN, POOL_FACTOR * k)
