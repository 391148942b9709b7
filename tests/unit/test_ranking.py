"""What ranking makes of a question and of memories, one piece at a time, over vectors that say nothing unless told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.group_index import GroupIndex
from memory_service.clock import Stamp
from memory_service.namespaces.conversation import Text
from memory_service.namespaces.index import Entry, NamespaceIndex, unpacked, unpacked_texts
from memory_service.retrieval import evidence, ranking
from memory_service.retrieval.analyzing import analyze_query
from memory_service.retrieval.candidates import Candidates

DIM = 16
NOWHERE = np.eye(DIM, dtype=np.float32)[DIM - 1]
"""A vector that is as far from all memories below as any other."""

TEXTS = ["the kettle boils", "a bicycle in the shed", "the red kettle", "rain on the roof", "soup with beans"]


def unit(at):
    return np.eye(DIM, dtype=np.float32)[at % (DIM - 1)][None]


def indexed(*memories, vectors=None):
    """An index of (content, metadata) or contents alone, under the ids 1, 2, 3, ..."""
    index = NamespaceIndex(GroupIndex(DIM))
    entries = []
    for at, memory in enumerate(memories):
        content, metadata = (memory, {}) if isinstance(memory, str) else memory
        vector = unit(0) if vectors is None else vectors[at]
        entries.append((at + 1, Entry(Text(content, metadata, 1_000 + at, Stamp(at, 0, "w")), vector)))
    if entries:
        index.add(entries)
    return index


def ids(index, query, k=5, among=None, vector=NOWHERE):
    return ranking.rank_hybrid(analyze_query(query, index), vector, index, k, among).ids.tolist()


def scores(index, query, vector=NOWHERE):
    """The score of each id."""
    found = ranking.rank_hybrid(analyze_query(query, index), vector, index, 1_000, None)
    return dict(zip(found.ids.tolist(), found.scores.tolist(), strict=True))


def test_a_memory_with_the_rare_word_stands_before_those_with_the_frequent_one():
    index = indexed("red kettle", "red bicycle", "red roof", "red soup", "green quagga")
    assert ids(index, "red quagga")[0] == 5


def test_a_word_in_every_memory_tells_little_but_more_than_nothing():
    index = indexed(*TEXTS)
    assert ids(index, "kettle boils")[:2] == [1, 3]


def test_the_share_of_the_words_is_that_of_the_formula():
    texts = ["red kettle", "red red bicycle", "green quagga", "red quagga kettle", "roof"]
    index = indexed(*texts, vectors=[unit(at) for at in range(5)])
    found = ranking.rank_by_words(analyze_query("red quagga kettle unknown", index), index, 5, None)
    idf = {}
    for word in ("red", "quagga", "kettle", "unknown"):
        count = sum(word in text.split() for text in texts)
        idf[word] = np.log(1 + (len(texts) - count + 0.5) / (count + 0.5))
    for id, score in zip(found.ids.tolist(), found.scores.tolist(), strict=True):
        has = {word: texts[id - 1].split().count(word) for word in idf}
        share = sum(idf[word] * has[word] / (has[word] + evidence.K1) for word in idf) / sum(idf.values())
        assert score == pytest.approx(share, abs=1e-6)


def test_meaning_and_words_are_both_in_the_score():
    index = indexed("alpha", "beta", "gamma", vectors=[unit(0), unit(1), unit(2)])
    found = ranking.rank_hybrid(analyze_query("beta", index), unit(2)[0], index, 3, None)
    share = 1 / (1 + evidence.K1)  # the only word, once
    assert found.ids.tolist() == [3, 2, 1]
    assert found.dense.tolist() == [1, 0, 0]
    assert found.lexical.tolist() == pytest.approx([0, share, 0])
    assert found.scores.tolist() == pytest.approx([0.5, share / 2, 0])


def test_equals_stand_in_the_order_of_their_ids():
    index = indexed(*["the same text"] * 9)
    assert ids(index, "same text", k=9) == list(range(1, 10))
    question = analyze_query("same", index)
    assert ranking.rank_by_words(question, index, 4, None).ids.tolist() == [1, 2, 3, 4]
    assert ranking.rank_by_meaning(NOWHERE, index, 4, None).ids.tolist() == [1, 2, 3, 4]


def test_by_words_fills_k_with_those_that_have_none_of_the_words():
    index = indexed(*TEXTS)
    found = ranking.rank_by_words(analyze_query("kettle", index), index, 5, None)
    assert set(found.ids[:2].tolist()) == {1, 3}
    assert found.ids[2:].tolist() == [2, 4, 5]
    assert found.scores[2:].tolist() == [0, 0, 0]
    assert found.dense is None


@pytest.mark.parametrize("among", [[], [2], [1, 2, 3, 4, 5], [2, 77]])
def test_only_candidates_are_found_and_all_of_them_when_k_allows(among):
    index = indexed(*TEXTS)
    groups = np.array(among, np.int64)
    expected = sorted(set(among) & {1, 2, 3, 4, 5})
    question = analyze_query("kettle", index)
    assert sorted(ids(index, "kettle", 5, groups)) == expected
    assert sorted(ranking.rank_by_words(question, index, 5, groups).ids.tolist()) == expected
    assert sorted(ranking.rank_by_meaning(NOWHERE, index, 5, groups).ids.tolist()) == expected


# -- names ---------------------------------------------------------------------------------------------------------


def test_names_of_speakers_are_taken_out_of_the_question():
    index = indexed(("I like tea", {"speaker": "Ann"}), ("I like soup", {"speaker": "Bob Lee"}))
    question = analyze_query("What does Ann's friend Bob drink with ANN?", index)
    assert question.meaning == "What does friend drink with ?"
    assert question.terms == ("friend", "drink")
    assert analyze_query("Ann?", index).meaning == "Ann?", "unless nothing is left"
    assert analyze_query("Ann?", index).terms == ("ann",)
    assert analyze_query("annoyed", index).meaning == "annoyed"


def test_a_name_is_taken_out_as_text_not_as_a_pattern():
    index = indexed(("x", {"speaker": "a.*b (c"}), ("y", {"speaker": "[", "session_id": "s"}))
    assert analyze_query("what about axxb?", index).meaning == "what about axxb?"


def test_what_the_named_speaker_said_is_lifted():
    index = indexed(("I like tea", {"speaker": "Ann"}), ("I like tea", {"speaker": "Bob"}))
    found = scores(index, "What does Bob like?")
    assert found[2] - found[1] == pytest.approx(evidence.SPEAKER, abs=1e-5)


def test_a_question_that_names_all_speakers_lifts_none_but_one_alone_is_lifted():
    both = indexed(("I like tea", {"speaker": "Ann"}), ("I like tea", {"speaker": "Bob"}))
    assert analyze_query("Ann and Bob like what?", both).speakers == frozenset()
    alone = indexed(("I like tea", {"speaker": "Ann"}), "I like tea")
    found = scores(alone, "What does Ann like?")
    assert found[1] - found[2] == pytest.approx(evidence.SPEAKER, abs=1e-5)


def test_a_name_before_a_colon_is_a_speaker_when_it_recurs():
    often = indexed("Ann: I like tea", "Ann: hello there", "Ann: good night", "Bob: hi", "Bob: tea", "Bob: yes")
    assert analyze_query("What does Ann like?", often).speakers == {"Ann"}
    rarely = indexed("Ann: I like tea", "Ann: hello there", "Note: hi")
    assert analyze_query("What does Ann like?", rarely).speakers == frozenset()
    assert analyze_query("What does Ann like?", rarely).meaning == "What does Ann like?"


def test_a_name_by_which_texts_address_somebody_is_taken_out():
    index = indexed("Thanks, Caroline!", "Hey Caroline, look.", "Good night, Caroline.", "I saw a film")
    assert analyze_query("What film did Caroline see?", index).meaning == "What film did see?"
    ordinary = indexed("Thanks, Rose!", "Hey Rose, look.", "Good night, Rose.", "a rose", "prices rose", "one rose")
    assert "Rose" in analyze_query("What did Rose see?", ordinary).meaning


def test_a_speaker_whose_memories_are_gone_is_a_word_like_any_other():
    index = indexed(("I like tea", {"speaker": "Ann"}), ("I like soup", {"speaker": "Bob"}))
    index.remove(np.array([1]))
    assert analyze_query("What does Ann like?", index).meaning == "What does Ann like?"


# -- what stands around a memory -----------------------------------------------------------------------------------

SESSION = {"session_id": "s"}


def test_when_is_answered_by_what_names_a_time():
    index = indexed("we met yesterday", "we met outside")
    plain, timed = scores(index, "who met?"), scores(index, "when was it that we met?")
    assert plain[1] == pytest.approx(plain[2], abs=1e-6)
    assert timed[1] - timed[2] == pytest.approx(evidence.WHEN, abs=1e-6)
    assert analyze_query("whenever we met", index).is_about_when is False
    assert analyze_query("What year was it?", None).is_about_when is True


def test_an_answer_stands_behind_a_question_of_its_session():
    texts = ["do you like quagga?", "yes very much", "zzz", "zzz", "zzz", "no not at all"]
    index = indexed(*((text, SESSION) for text in texts))
    statement = indexed(*((text.replace("?", "."), SESSION) for text in texts))
    gained = {id: scores(index, "quagga")[id] - scores(statement, "quagga")[id] for id in range(1, 7)}
    first = ranking.rank_by_words(analyze_query("quagga", statement), statement, 6, None)
    own = dict(zip(first.ids.tolist(), first.scores.tolist(), strict=True))[1]
    assert gained[2] == pytest.approx(evidence.ANSWER * own / 2, abs=1e-5)
    assert [gained[id] for id in (1, 3, 4, 5, 6)] == pytest.approx([0] * 5, abs=1e-6)


def test_neighbours_lend_words_at_distance_one_and_two_and_no_further():
    index = indexed(*((text, SESSION) for text in ["z", "z", "z", "quagga", "z", "z", "z"]))
    lexical = ranking.rank_by_words(analyze_query("quagga", index), index, 7, None)
    found = dict(zip(lexical.ids.tolist(), lexical.scores.tolist(), strict=True))
    assert found[4] > found[3] == found[5] > found[2] == found[6] > found[1] == found[7] == 0


def test_what_neighbours_lend_of_one_word_is_not_lent_of_the_next():
    texts = ["quagga", "z", "kettle", "z", "z", "roof", "z"]
    index = indexed(*((text, SESSION) for text in texts))

    def shares(query):
        found = ranking.rank_by_words(analyze_query(query, index), index, 7, None)
        return np.array([score for _, score in sorted(zip(found.ids.tolist(), found.scores.tolist(), strict=True))])

    of_each = sum(shares(word) for word in ("quagga", "kettle", "roof"))  # in one memory each, so equally rare
    assert shares("quagga kettle roof") == pytest.approx(of_each / 3, abs=1e-6)


def test_neighbours_do_not_lend_across_sessions():
    index = indexed(("quagga", {"session_id": "s"}), ("z", {"session_id": "t"}), ("z", {"session_id": "s"}))
    lexical = ranking.rank_by_words(analyze_query("quagga", index), index, 3, None)
    assert lexical.ids.tolist() == [1, 3, 2]
    assert lexical.scores[2] == 0


def test_the_best_memory_of_a_session_lifts_the_others():
    index = indexed(*(("z", {"session_id": f"s{at // 5}"}) for at in range(10)), ("quagga", {"session_id": "s1"}))
    found = scores(index, "quagga")
    assert found[6] - found[1] == pytest.approx(
        evidence.SESSION * (found[11] / (1 + evidence.SESSION) - found[1] / 1.3)
    )
    one = indexed(*(("z", SESSION) for _ in range(10)), ("quagga", SESSION))
    assert scores(one, "quagga")[11] < found[11], "one session alone lifts nothing"


def test_neighbours_are_trusted_where_they_are_alike():
    """Vectors that go round by and by, as a conversation does, against the same ones in no order."""
    random = np.random.default_rng(1)
    steps = np.cumsum(random.normal(size=(120, DIM)), axis=0)
    vectors = (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)[:, None]
    talk = indexed(*["z"] * 60, "quagga", *["z"] * 59, vectors=vectors)
    assert talk.coherence() == 1
    assert scores(talk, "quagga")[60] > scores(talk, "quagga")[40] + 0.05
    shuffled = random.normal(size=(120, 1, DIM)).astype(np.float32)
    shuffled /= np.linalg.norm(shuffled, axis=2, keepdims=True)
    assert indexed(*["z"] * 120, vectors=shuffled).coherence() < 0.5
    assert indexed(*["z"] * 7, vectors=vectors).coherence() == 0, "too few to tell"


def test_documents_in_no_order_are_left_alone():
    index = indexed(*["z"] * 9, "quagga", *["z"] * 9, vectors=[unit(at * 7) for at in range(19)])
    assert index.coherence() == 0
    found = scores(index, "quagga")
    assert found[10] > 0
    assert {found[id] for id in found if id != 10} == {0.0}


def test_a_text_that_was_stored_under_many_keys_has_no_coherence():
    """Any two being the same, how much more alike neighbours are came to nothing by nothing: every retrieve failed."""
    index = indexed(*["the same text"] * 9)
    assert index.coherence() == 0
    nearly = indexed(*["the same text"] * 9, vectors=[unit(0) * np.float32(1 + at % 2 * 1e-6) for at in range(9)])
    assert nearly.coherence() == 0


def test_coherence_is_measured_once_between_two_changes():
    index, measured = indexed(*["z"] * 20), []
    measure = index._measured
    index._measured = lambda: (measured.append(len(index)), measure())[1]
    for _ in range(5):
        index.coherence()
    index.remove(np.array([3, 4]))
    assert [index.coherence() for _ in range(5)] == [measure()] * 5
    assert measured == [20, 18]


# -- any question --------------------------------------------------------------------------------------------------

QUESTIONS = [
    '"kettle" AND (boils OR -shed*)',
    "kettle NEAR/2 :roof^4 \\ %s {x} [y",
    "😀🔑",
    "a\0b",
    "kettle " * 1_400,
    "x" * 10_000,
    "to be or not to be",
    "東京都に住む人",
    "مرحبا بالعالم",
    "(((((" * 2_000,
    "?",
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
@pytest.mark.parametrize("metadata", [{}, {"session_id": "s", "speaker": "Kettle"}])
def test_any_question_finds_k_memories(question, metadata):
    index = indexed(*((text, metadata) for text in TEXTS))
    assert len(set(ids(index, question, 3))) == 3
    assert len(ranking.rank_by_words(analyze_query(question, index), index, 3, None).ids) == 3


def test_any_question_can_be_prepared_for_a_namespace_that_never_had_a_memory():
    assert analyze_query("What does Ann like?", None).terms == ("ann", "like")
    assert ids(indexed(), "anything") == []


@given(question=st.text(min_size=1, max_size=60), speaker=st.text(max_size=20), text=st.text(max_size=60))
def test_any_text_can_be_a_question_a_speaker_and_a_memory(question, speaker, text):
    index = indexed((text, {"speaker": speaker, "session_id": speaker}), (question, {}), *TEXTS)
    assert sorted(ids(index, question, 100)) == list(range(1, 8))
    assert all(np.isfinite(list(scores(index, question).values())))
    assert scores(
        NamespaceIndex(index.dense, unpacked_texts(unpacked(b"".join(index.freeze().packed_texts())))), question
    ) == scores(index, question)


ANY_JSON = [
    None,
    True,
    0,
    -(2**63) + 1,
    1.5,
    1e308,
    "",
    " ",
    "nan",
    "x" * 16_000,
    "\0",
    [],
    ["a"],
    {},
    {"a": [1]},
    "9999-12-31",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999",
]


@pytest.mark.parametrize("field", ["session_id", "speaker", "event_time"])
@pytest.mark.parametrize("value", ANY_JSON, ids=range(len(ANY_JSON)))
def test_metadata_may_hold_anything_under_the_names_that_ranking_knows(field, value):
    index = indexed(*TEXTS, ("one more kettle", {field: value}))
    assert sorted(ids(index, "kettle", 10)) == [1, 2, 3, 4, 5, 6]
    index.remove(np.array([6]))
    assert sorted(ids(index, "kettle", 10)) == [1, 2, 3, 4, 5]


def test_a_text_of_100000_characters_and_one_of_very_many_words_are_found():
    texts = [" ".join(f"w{at:x}" for at in range(20_000))[:100_000], "a" * 99_000 + " quagga", "Ann: " * 20_000]
    index = indexed(*TEXTS, *texts)
    assert ids(index, "w3a2")[0] == 6
    assert ids(index, "quagga")[0] == 7
    assert ids(index, "w1 w2 w3 w4 w5" * 700, 8)


def test_where_no_speaker_is_known_whoever_is_called_by_name_has_the_turns_around():
    talk = [
        "Hey Ann, the kettle broke.",
        "Oh no, not again.",
        "Thanks, Ann!",
        "You are welcome.",
        "Bye, Ann!",
        "See you.",
    ]
    index = indexed(*talk, "the boiler hums", vectors=[unit(at // 3) for at in range(7)])
    question = analyze_query("What did Ann say?", index)
    assert (question.called, "Ann" in question.meaning) == (frozenset({"ann"}), False)
    view = Candidates(index)
    view.coherence = 1.0
    likely = evidence.likely_spoken_by(view, np.arange(7), question.called)
    assert likely[[0, 2, 4]].tolist() == [0, 0, 0]
    assert all(likely[at] > 0 for at in (1, 3, 5))
    view.coherence = 0.0
    assert not evidence.likely_spoken_by(view, np.arange(7), question.called).any()


def test_a_question_that_names_nobody_lifts_nobody():
    index = indexed("Hey Ann, look.", "Thanks, Ann!", "Bye, Ann!", "The roof leaks.")
    assert analyze_query("What leaks?", index).called == frozenset()


@pytest.mark.parametrize("among", [None, np.arange(1, 61, 3)])
def test_few_memories_and_many_are_ranked_alike(among):
    """Many are compared only where it matters: with the candidates, and with those beside them."""
    random = np.random.default_rng(5)
    vectors = random.normal(size=(60, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [(f"kettle {at % 7} roof {at % 5}", {"session_id": str(at // 9)}) for at in range(60)]
    few, many = indexed(*texts, vectors=vectors[:, None]), indexed(*texts, vectors=vectors[:, None])
    many.dense._exact_rows_max = 10
    for index in (few, many):
        index.remove(np.array([4, 31]))

    for search in (ranking.rank_hybrid, ranking.rank_by_meaning):
        asked = [analyze_query("kettle 3", few)] if search is ranking.rank_hybrid else []
        found, expected = (search(*asked, vectors[7], index, 20, among) for index in (many, few))
        assert found.ids.tolist() == expected.ids.tolist()
        for signal in ("scores", "dense"):
            np.testing.assert_array_equal(getattr(found, signal), getattr(expected, signal))
