"""What each citation mark of an answer is for, however the answer arrives."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from research.grounding.citations import find
from research.grounding.claims import Kind, Sentence, SentenceReader, read, uncited
from tests.running_time import is_linear

PIECES = (
    *(
        "[1]",
        "[2, 3]",
        "【4】",
        "[",
        "]",
        "](",
        "[[",
        "`",
        "```",
        "**",
        "_",
        "“",
        "”",
        '"',
        "Dana drinks tea",
        "a",
        " ",
        ".",
    ),
    *(". ", "? ", ": ", "...", "。", "Dr.", "x.y", "\n", "\n\n", "\r\n", "- ", "| ", "# ", "1. "),
)
ANSWERS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join)


def claims(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(claim.text, claim.numbers) for sentence in read(text) for claim in sentence.claims]


def stretches(text: str) -> list[str]:
    return [text[one.start : one.stop] for one in read(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dana drinks tea [1].", [("Dana drinks tea.", (1,))]),
        ("Dana left on Tuesday. [1] Bo stayed.", [("Dana left on Tuesday.", (1,))]),
        ("Dana left.[1] Bo stayed.[2]", [("Dana left.", (1,)), ("Bo stayed.", (2,))]),
        ("Both say so here [1][3] and [4].", [("Both say so here and.", (1, 3, 4))]),
        ("First 48,000 [2], now 62,000 [1].", [("First 48,000", (2,)), (", now 62,000.", (1,))]),
        ("[1] Dana sails. [2] Bo rows.", [("Dana sails.", (1,)), ("Bo rows.", (2,))]),
        ("Dana sails.\n\n[2]", [("Dana sails.", (2,))]),
        ("- **Dana** sails [1]\n- Bo rows [2]", [("Dana sails", (1,)), ("Bo rows", (2,))]),
        ("1. Dana sails [1]\n2. Bo rows [2]", [("Dana sails", (1,)), ("Bo rows", (2,))]),
        ("| who | what |\n|---|---|\n| Dana. B | sails [1] |", [("Dana. B | sails", (1,))]),
        ("She said “I sail. I row.” [1]", [("She said “I sail. I row.”", (1,))]),
        ("Run `a. b [7]` now [1].", [("Run `a. b [7]` now.", (1,))]),
        ("Bo rows. Dana sails. [1]", [("Dana sails.", (1,))]),
        ("[1]", [("", (1,))]),
        ("```\nrows [1]\n```", []),
    ],
)
def test_a_mark_vouches_for_its_own_sentence(text: str, expected: list[tuple[str, tuple[int, ...]]]) -> None:
    assert claims(text) == expected


def test_a_sentence_has_its_marks_and_not_its_bullet() -> None:
    assert stretches("- Dana sails. [1] Bo rows [2].\n> Eve runs [3]") == [
        "Dana sails. [1]",
        "Bo rows [2].",
        "Eve runs [3]",
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("# The budget", Kind.LEAD),
        ("It changed twice:", Kind.LEAD),
        ("**Budget**", Kind.LEAD),
        ("The memories do not tell when Dana left.", Kind.SILENT),
        ("Shall I go on?", Kind.ASIDE),
        ("Dana left in May.", Kind.STATEMENT),
        ("```\nx = 1\n```", Kind.CODE),
    ],
)
def test_only_what_states_something_needs_a_citation(text: str, kind: Kind) -> None:
    (sentence,) = read(text)

    assert sentence.kind is kind
    assert uncited([sentence]) == (((0, len(text)),) if kind is Kind.STATEMENT else ())


def test_a_sentence_is_complete_when_the_next_one_has_begun() -> None:
    reader = SentenceReader()

    assert reader.feed("Dana sails. [1") == []
    assert [one.text for one in reader.feed("] Bo rows well")] == ["Dana sails."]
    assert [one.text for one in reader.finish()] == ["Bo rows well"]


@given(ANSWERS, st.lists(st.integers(1, 12), min_size=1))
def test_sentences_are_the_same_in_whatever_pieces_a_text_arrives(text: str, sizes: list[int]) -> None:
    reader, at, found = SentenceReader(), 0, list[Sentence]()
    for size in sizes * (len(text) // len(sizes) + 1):
        found += reader.feed(text[at : at + size])
        at += size

    assert found + reader.finish() == read(text)


@example("[1]\n[Dr.. Dr.[1]")
@given(ANSWERS)
def test_sentences_lie_in_order_within_the_text_and_have_all_its_marks(text: str) -> None:
    found = read(text)

    places = [place for one in found for place in (one.start, one.stop)]
    assert places == sorted(places)
    assert all(0 <= one.start < one.stop <= len(text) for one in found)
    cited = find(text, passages=8)
    assert {n for one in found for claim in one.claims for n in claim.numbers} == {*cited.known, *cited.unknown}


def test_a_line_that_may_yet_be_marks_alone_is_no_part_of_the_line_before_it() -> None:
    assert stretches("Dana sails. Bo rows.\n[See the log. It tells.]") == [
        "Dana sails.",
        "Bo rows.",
        "[See the log.",
        "It tells.]",
    ]


@pytest.mark.parametrize("spaces", [" ", "   ", "x "])
def test_a_line_of_open_brackets_is_read_at_once(spaces: str) -> None:
    """The spaces between them could be shared out in more ways than anybody could try; forty took for ever."""
    text = "Matrix:\n" + f"[{spaces}" * 200 + "x" * 60

    assert next(one.text for one in read(text)) == "Matrix:"


def test_blanks_behind_a_mark_alone_are_read_at_once() -> None:
    assert len(read("Dana sails.\n[1]" + " " * 200_000 + "Bo rows well.")) == 2


@pytest.mark.parametrize(
    "unit", ["[1]. Dana sails ", "[1", "`", "```", "a[1]", "[[", "“", "\n", "[1]\n", "**. ", "| ", "[1] a. ", "[1],"]
)
def test_a_hostile_answer_is_read_in_linear_time(unit: str) -> None:
    assert is_linear(lambda units: read(unit * units), 1_000)
