"""Whether a passage says what it is cited for: the real model judges, since hashed words have no meaning."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.embedding.embedder import Vectors
from memory_service.embedding.minilm import MiniLM
from research.context.packing import pack
from research.grounding.claims import read
from research.grounding.extractive import extract
from research.grounding.strictness import NOTHING_LEFT, keep_supported
from research.grounding.verification import verify
from tests.list_recall import ListRecall, hits
from vector_memory.research import Citation, Passage

WORDS = ListRecall().embed
DANA = "Lunch was late. Dana drinks oat flat white, never before ten. She moved to Bristol on 3 May 2024 with 2 cats."


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM.load()


def passages(*contents: str, speaker: str = "", date: str = "2026-09-16T10:00:00") -> tuple[Passage, ...]:
    return tuple(
        one.model_copy(update={"date": date, "speaker": speaker or None})
        for one in pack(hits(*contents), 100_000).passages
    )


def cited(model: MiniLM, answer: str, given: Sequence[Passage]) -> list[Citation]:
    def embed(texts: Sequence[str]) -> Vectors:
        return model.embed([model.windows(text)[0] for text in texts])

    return [one for found in verify(read(answer), given, embed) for one in found]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Dana drinks oat flat white, never before ten [1].", "supported"),
        ("dana  drinks OAT flat white [1].", "supported"),
        ("Dana takes oat flat white, but never before ten [1].", "supported"),
        ("“Dana drinks oat flat white ... never before ten” [1]", "supported"),
        ("Dana says: “Dana drinks oat milk flat white, never before noon or ten” [1]", "unsupported"),
        ("Dana moved to Bristol with 7 cats [1].", "unsupported"),
        ("Dana moved to Bristol on 4 May 2024 [1].", "unsupported"),
        ("Dana moved to Bristol in June 2024 [1].", "unsupported"),
        ("The harbour was closed by a storm [1].", "unsupported"),
        ("[1]", "unsupported"),
    ],
)
def test_a_verdict_follows_what_the_passage_says(model: MiniLM, answer: str, verdict: str) -> None:
    (citation,) = cited(model, answer, passages(DANA))

    assert citation.verdict == verdict


@pytest.mark.parametrize(
    "answer",
    [
        "Dana does not drink oat flat white [1].",
        "Dana never moved to Bristol [1].",
        "Gareth moved to Grimsby with two cats [1].",
    ],
)
def test_what_was_changed_is_not_supported(model: MiniLM, answer: str) -> None:
    (citation,) = cited(model, answer, passages(DANA))

    assert citation.verdict != "supported"


def test_the_nearest_sentence_is_quoted_with_its_place(model: MiniLM) -> None:
    (citation,) = cited(model, "Yes. Dana takes an oat flat white but never before ten [1].", passages(DANA))

    assert citation.quote == "Dana drinks oat flat white, never before ten."
    assert citation.memory_span == (16, 61)
    assert citation.answer_span == (5, 59)


def test_a_words_meaning_in_time_counts_from_the_passages_date(model: MiniLM) -> None:
    given = passages("I went to the pottery class yesterday.", speaker="Caroline", date="2023-05-08T13:56:00")

    (right,) = cited(model, "Caroline went to the pottery class on 7 May 2023 [1].", given)
    (wrong,) = cited(model, "Caroline went to the pottery class on 9 May 2023 [1].", given)

    assert (right.verdict, wrong.verdict) == ("supported", "unsupported")


def test_what_somebody_says_of_himself_is_not_of_another(model: MiniLM) -> None:
    mine = passages("I went to the pottery class and loved it.", speaker="Caroline")
    other = passages("How nice for you.", speaker="Melanie")
    given = (*mine, other[0].model_copy(update={"n": 2}))

    (citation,) = cited(model, "Melanie went to the pottery class [1].", given)

    assert citation.verdict != "supported"


def test_a_part_of_a_claim_that_several_passages_carry_is_weak(model: MiniLM) -> None:
    given = passages("Dana pays 5 euro for lunch.", "Bo pays 6 euro for lunch.")

    found = cited(model, "Dana pays 5 euro and Bo pays 6 euro for lunch [1][2].", given)

    assert [one.verdict for one in found] == ["weak", "weak"]


def test_each_mark_of_a_sentence_is_judged_by_its_own_part(model: MiniLM) -> None:
    given = passages("The budget is now 62,000 euro.", "The budget was 48,000 euro.")

    found = cited(model, "The budget was 48,000 euro [2], and the budget is now 62000 euro [1].", given)

    assert [(one.n, one.verdict) for one in found] == [(2, "supported"), (1, "supported")]


def test_clear_cases_embed_nothing() -> None:
    def embed(texts: Sequence[str]) -> Vectors:
        raise AssertionError(texts)

    verify(read("Dana drinks oat flat white [1]. She has 9 cats [1]."), passages(DANA), embed)


@given(st.text(min_size=1), st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_quotations_made_without_a_model_are_always_supported(question: str, contents: list[str]) -> None:
    given = passages(*contents)
    extract_ = extract(question, given, WORDS)

    found = [one for group in verify(extract_.sentences, given, WORDS) for one in group]

    assert [one.n for one in found]
    assert all(one.verdict == "supported" for one in found)
    assert all(extract_.text[slice(*one.answer_span)] == f"“{one.quote}” [{one.n}]" for one in found)


ANSWERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "Dana drinks oat flat white",
                " [1]",
                "[2]",
                "[1][2]",
                ". ",
                "\n",
                "\n\n",
                "- ",
                "  - ",
                "# Head\n",
                "“",
                "”",
                "...",
                "two cats",
                "not ",
                "5",
                "2023-13-45",
                "last Friday",
                "99999 years ago",
                "```",
                "| ",
                "Bo rows [1].",
                "`",
                ":",
            ]
        ),
        st.text(max_size=6),
    ),
    max_size=20,
).map("".join)


@given(ANSWERS, st.lists(ANSWERS.filter(bool), min_size=1, max_size=2), st.text(max_size=12))
def test_places_lie_within_their_texts_and_strict_keeps_whole_sentences(
    answer: str, contents: list[str], date: str
) -> None:
    given = passages(*contents, date=date or "0001-01-01")
    sentences = read(answer)
    found = verify(sentences, given, WORDS)

    for one in (one for group in found for one in group):
        assert 0 <= one.answer_span[0] < one.answer_span[1] <= len(answer)
        content = given[one.n - 1].content
        assert one.quote == (content[slice(*one.memory_span)] if one.memory_span else None)
        assert (one.memory_span is None) == (one.verdict == "unsupported")
    kept = keep_supported(answer, sentences, found)
    if kept.text != NOTHING_LEFT:
        at = 0
        for stay in (answer[s.start : s.stop] for s in sentences if answer[s.start : s.stop] not in kept.removed):
            at = kept.text.index(stay, at) + len(stay)
        for one in kept.citations:
            assert kept.text[slice(*one.answer_span)] in answer
