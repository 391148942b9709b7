"""Answers made of quotations: verbatim, few, different from each other, and honest about what they are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.context.packing import pack
from research.grounding.extractive import NOTICE, Extract, extract
from research.grounding.sentences import spans
from tests.list_recall import ListRecall, hits
from tests.running_time import is_linear

EMBED = ListRecall().embed
ROOM = 100_000


def quoted(question: str, *contents: str) -> Extract:
    return extract(question, pack(hits(*contents), ROOM).passages, EMBED)


def lines(extracted: Extract) -> list[str]:
    return extracted.text.splitlines()[2:]


def cited(extracted: Extract) -> tuple[int, ...]:
    """Return the numbers of the quoted passages, each once, in order of appearance."""
    return tuple(dict.fromkeys(n for one in extracted.sentences for claim in one.claims for n in claim.numbers))


def test_the_first_line_says_that_no_model_was_called() -> None:
    assert quoted("What is the budget?", "The budget is 48,000 euro.").text.splitlines()[:2] == [NOTICE, ""]


def test_the_sentence_that_answers_is_quoted_with_the_number_of_its_passage() -> None:
    extracted = quoted(
        "What is the budget of Brightwater?",
        "Priya takes rooibos. Her daughter plays the cornet.",
        "Gareth called. The budget of Brightwater is 48,000 euro. It rained.",
    )

    assert lines(extracted)[0] == "“The budget of Brightwater is 48,000 euro.” [2]"
    assert cited(extracted)[0] == 2


def test_at_most_four_sentences_are_quoted() -> None:
    sentences = [f"The budget of project{word} is large." for word in "abcdefgh"]

    assert len(lines(quoted("What is the budget of each project?", " ".join(sentences)))) == 4


def test_the_same_thing_said_twice_is_quoted_once() -> None:
    extracted = quoted(
        "What is the budget?", "The budget is 48,000 euro.", "The budget is 48,000 euro!", "So the budget was agreed."
    )

    assert sum("48,000" in line for line in lines(extracted)) == 1


def test_a_fact_and_its_correction_are_both_quoted_however_alike() -> None:
    """Two versions of a budget once passed for the same sentence, and the newer one was dropped in silence."""
    extracted = quoted(
        "What is the budget of Brightwater?",
        "The yearly budget of Brightwater for all three sites is 48,000 euro.",
        "The yearly budget of Brightwater for all three sites is 62,000 euro.",
    )

    assert cited(extracted) == (1, 2)


def test_a_sentence_far_from_the_question_is_not_quoted_beside_a_good_one() -> None:
    extracted = quoted("What is the budget?", "The budget is 48,000 euro.", "Rain fell on the harbour all night.")

    assert lines(extracted) == ["“The budget is 48,000 euro.” [1]"]


def test_a_sentence_counts_for_the_company_it_keeps() -> None:
    """What corrects a statement stands beside it, with few of the question's words of its own."""
    extracted = quoted(
        "When does the Kästner pilot start?",
        "Lunch was late. The new start is 11 January.",
        "The Kästner pilot will not start on 2 November. The new start is 11 January.",
    )

    assert lines(extracted) == [
        "“The Kästner pilot will not start on 2 November.” [2]",
        "“The new start is 11 January.” [2]",
    ]


def test_a_question_among_the_memories_does_not_answer_the_question() -> None:
    extracted = quoted("What is the budget?", "What is the budget this year?", "The budget is 48,000 euro.")

    assert cited(extracted)[0] == 2


def test_the_passage_with_the_best_sentence_comes_first_and_keeps_its_order() -> None:
    extracted = quoted(
        "Which budget did Gareth name?",
        "The budget came up early.",
        "Gareth was late. Gareth did name a budget: 48,000 euro. The budget he did name is a ceiling.",
    )

    numbers = [int(line[-2]) for line in lines(extracted)]
    assert numbers[0] == 2
    assert numbers == sorted(numbers, reverse=True)
    assert extracted.text.index("48,000") < extracted.text.index("ceiling")


def test_a_line_without_an_end_is_quoted_in_pieces() -> None:
    extracted = quoted("What is the budget?", "budget word " * 500)

    assert all(len(line) < 420 for line in lines(extracted))


def test_a_question_of_stop_words_is_answered_by_meaning_alone() -> None:
    assert cited(quoted("Who are you?", "The budget is 48,000 euro.")) == (1,)


@given(st.text(min_size=1), st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_every_quotation_is_a_verbatim_stretch_of_the_passage_it_cites(question: str, contents: list[str]) -> None:
    extracted = quoted(question, *contents)

    quotations = extracted.text.removeprefix(f"{NOTICE}\n\n")
    assert 1 <= len(cited(extracted)) <= 4
    passages = pack(hits(*contents), ROOM).passages  # repetitions come behind the others
    for n in cited(extracted):
        text = passages[n - 1].content
        assert any(f"“{text[span.start : span.stop]}” [{n}]" in quotations for span in spans(text, 400))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("He paid 3.5 euro. Then he left.", ["He paid 3.5 euro.", "Then he left."]),
        ("Dr. Rahman met J. Smith, i.e. the buyer. Good.", ["Dr. Rahman met J. Smith, i.e. the buyer.", "Good."]),
        ('She said "no." He said (yes.) Done.', ['She said "no."', "He said (yes.)", "Done."]),
        ("A line\nanother line\r\n\r\nlast", ["A line", "another line", "last"]),
        ("予算は六万です。「はい。」次です", ["予算は六万です。", "「はい。」", "次です"]),
        ("Wait... what? It is approx. five.", ["Wait...", "what?", "It is approx. five."]),
        (" \n\t ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, sentences: list[str]) -> None:
    assert [text[span.start : span.stop] for span in spans(text, chars_max=400)] == sentences


@given(st.text(), st.integers(1, 20))
def test_sentences_cover_all_but_white_space_and_keep_their_bound(text: str, chars_max: int) -> None:
    found = spans(text, chars_max)

    assert all(0 < s.stop - s.start <= chars_max for s in found)
    assert all(one.stop <= other.start for one, other in pairwise(found))
    covered = {i for s in found for i in range(s.start, s.stop)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)


@pytest.mark.parametrize("unit", [".", " ", "\n", "!'", "a. ", "...", "。」", "Dr."])
def test_a_hostile_page_is_cut_in_linear_time(unit: str) -> None:
    assert is_linear(lambda units: spans(unit * units, chars_max=400), 1_000)


def test_the_forms_of_a_word_count_as_one_word() -> None:
    extracted = quoted("Who raised the budgets?", "Rain fell on the harbour.", "Priya raises every budget.")

    assert cited(extracted)[0] == 2
