"""A namespace's index over random histories: k is always filled, with candidates alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexes.group_index import GroupIndex
from memory_service.clock import Stamp
from memory_service.namespaces.conversation import Text
from memory_service.namespaces.index import Entry, NamespaceIndex, unpacked, unpacked_texts
from memory_service.retrieval import ranking
from memory_service.retrieval.analyzing import analyze_query

DIM = 8
CONTENTS = ["Ann: do you like tea?", "Bob: yes, since 2021", "red kettle", "the quagga", "tea tea tea", "?", "of the"]
METADATA = [{}, {"session_id": "s"}, {"session_id": 2, "speaker": "Ann"}, {"event_time": "2023-05-08"}]

histories = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 10**6), min_size=1, max_size=12)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 120), max_size=30)),
        st.tuples(st.just("restore"), st.none()),
    ),
    max_size=14,
)


def vectors_of(seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(1 + seed % 3, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def entry_of(id, seed):
    content, metadata = CONTENTS[seed % len(CONTENTS)], METADATA[seed // 7 % len(METADATA)]
    return Entry(Text(content, metadata, seed // 100, Stamp(seed, id, "w")), vectors_of(seed))


def with_history(history):
    """An index, and the ids that it should hold."""
    index, held, next_id = NamespaceIndex(GroupIndex(DIM)), {}, 1
    for what, value in history:
        if what == "add":
            added = {next_id + at: entry_of(next_id + at, seed) for at, seed in enumerate(value)}
            next_id += len(value)
            index.add(list(added.items()))
            held |= added
        elif what == "remove":
            index.remove(np.array(value, np.int64))
            held = {id: entry for id, entry in held.items() if id not in value}
        else:
            index = NamespaceIndex(index.dense, unpacked_texts(unpacked(b"".join(index.freeze().packed_texts()))))
    return index, held


QUESTIONS = st.sampled_from(["does Ann like tea?", "when?", "quagga", "of the", "nothing known", "😀"])


@given(history=histories, question=QUESTIONS, k=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_mode_finds_min_of_k_and_candidates_and_candidates_alone(history, question, k, seed):
    index, held = with_history(history)
    random = np.random.default_rng(seed)
    among = None if seed % 2 else np.flatnonzero(random.random(130) < 0.4)
    candidates = set(held) if among is None else set(held) & set(among.tolist())
    prepared = analyze_query(question, index)
    vector = vectors_of(seed)[0]
    for found in (
        ranking.rank_hybrid(prepared, vector, index, k, among),
        ranking.rank_by_words(prepared, index, k, among),
        ranking.rank_by_meaning(vector, index, k, among),
    ):
        assert len(found.ids) == len(set(found.ids.tolist())) == min(k, len(candidates))
        assert set(found.ids.tolist()) <= candidates
        assert (np.diff(found.scores) <= 0).all()
    assert len(index) == len(index.texts.lexical) == len(held)


@given(history=histories, question=QUESTIONS)
def test_what_is_found_depends_on_what_is_held_not_on_how_it_came_about(history, question):
    """Rows that were removed, reclaimed, packed or never there make no difference to a score."""
    index, held = with_history(history)
    anew = NamespaceIndex(GroupIndex(DIM))
    if held:
        anew.add(list(held.items()))
    vector = vectors_of(5)[0]
    one, other = (
        ranking.rank_hybrid(analyze_query(question, each), vector, each, 1_000, None) for each in (index, anew)
    )
    assert one.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


@given(
    seeds=st.lists(st.integers(0, 10**6) | st.integers(0, 2), min_size=1, max_size=40),
    question=QUESTIONS,
    k=st.integers(1, 9),
    data=st.data(),
)
def test_workers_that_read_of_the_same_memories_in_another_order_answer_the_same(seeds, question, k, data):
    """Two workers pull two journals in any order, and so have other rows and ids for the same memories.

    Those that say the same are equally near; by meaning each worker once gave those that it had read of first.
    """
    entries = [entry_of(at, seed) for at, seed in enumerate(seeds)]
    answers = []
    for order in (range(len(entries)), data.draw(st.permutations(range(len(entries))))):
        index = NamespaceIndex(GroupIndex(DIM))
        index.add([(id, entries[at]) for id, at in enumerate(order)])
        stamps = {id: entries[at].text.stamp for id, at in enumerate(order)}
        prepared = analyze_query(question, index)
        for found in (
            ranking.rank_hybrid(prepared, vectors_of(5)[0], index, k, None),
            ranking.rank_by_words(prepared, index, k, None),
            ranking.rank_by_meaning(vectors_of(5)[0], index, k, None),
        ):
            answers.append(([stamps[id] for id in found.ids.tolist()], found.scores))
    for one, other in zip(answers[:3], answers[3:], strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1], other[1], atol=1e-6)


@given(history=histories, question=QUESTIONS, k=st.integers(1, 40))
def test_a_memory_that_only_one_of_the_two_indexes_knows_is_left_out_and_nothing_fails(history, question, k):
    """So a reader sees it that comes between two halves of a change."""
    index, held = with_history(history)
    last = sum(len(value) for what, value in history if what == "add")  # an id is given out once
    index.add_text(last + 1, Text("the quagga likes tea", {"session_id": "s"}, 1, Stamp(1, 0, "w")))
    index.dense.add(np.array([last + 2]), vectors_of(3)[:1])
    vector = vectors_of(5)[0]
    found = ranking.rank_hybrid(analyze_query(question, index), vector, index, k, None)
    assert set(found.ids.tolist()) <= set(held)
    assert len(found.ids) >= min(k, len(held)) - 1
    assert last + 1 not in ranking.rank_by_meaning(vector, index, k, None).ids
    assert last + 2 not in ranking.rank_by_words(analyze_query(question, index), index, k, None).ids
    assert 0 <= index.coherence() <= 1


class Watched:
    """Vectors, and a look at what is going on before and after some are added."""

    def __init__(self, dense, look):
        self._dense, self._look = dense, look

    def __len__(self):
        return len(self._dense)

    def add(self, ids, vectors):
        self._look()
        self._dense.add(ids, vectors)
        self._look()


def test_no_state_of_a_moment_within_a_change_is_taken_for_one_of_before_or_after():
    """An answer with what is just being stored was once kept as one of before, and after a delete it was that again."""
    index = NamespaceIndex(GroupIndex(DIM))
    index.add([(1, entry_of(1, 1))])
    before, seen = index.state(), []
    index.dense = Watched(index.dense, lambda: seen.append(index.state()))
    index.add([(2, entry_of(2, 2))])
    (name_without_vectors, _), with_vectors = seen
    assert name_without_vectors not in (before[0], index.state()[0])
    assert with_vectors[0] == index.state()[0]
    assert before != with_vectors != index.state()
