"""What strict leaves of an answer: whole sentences in their order, and Markdown that still reads."""

import pytest

from research.context.packing import pack
from research.grounding.claims import read
from research.grounding.strictness import NOTHING_LEFT, SupportedText, keep_supported
from research.grounding.verification import verify
from tests.list_recall import ListRecall, hits

TRUE = "Dana sails to Grimsby"
FALSE = "Bo paid 900 euro [1]"


def strict(text: str) -> SupportedText:
    passages = pack(hits("Dana sails to Grimsby every week."), 100_000).passages
    sentences = read(text)
    return keep_supported(text, sentences, verify(sentences, passages, ListRecall().embed))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{TRUE} [1]. {FALSE}. {TRUE} [1].", f"{TRUE} [1]. {TRUE} [1]."),
        (f"{TRUE} [1]. Nobody cited this statement.", f"{TRUE} [1]."),
        (f"- {TRUE} [1]\n- {FALSE}\n- {TRUE} [1]", f"- {TRUE} [1]\n- {TRUE} [1]"),
        (f"- {FALSE}\n    - {TRUE} [1]", f"- {TRUE} [1]"),
        (f"# Sailing\n\n{TRUE} [1].\n\n# Money\n\n{FALSE}.", f"# Sailing\n\n{TRUE} [1]."),
        (f"It is known:\n\n- {FALSE}\n- {TRUE} [1]", f"It is known:\n\n- {TRUE} [1]"),
        (f"It is known:\n\n- {FALSE}\n\n{TRUE} [1].", f"{TRUE} [1]."),
        (f"| a | b |\n|---|---|\n| x | {FALSE} |\n| y | {TRUE} [1] |", f"| a | b |\n|---|---|\n| y | {TRUE} [1] |"),
        (f"{FALSE}. The memories do not tell more.", "The memories do not tell more."),
        (f"{TRUE} [1].\n```\nx = 1\n```", f"{TRUE} [1]."),
        (f"{FALSE}.", NOTHING_LEFT),
    ],
)
def test_what_nothing_vouches_for_goes_and_the_rest_reads_on(text: str, left: str) -> None:
    assert strict(text).text == left


def test_what_went_is_told_and_places_are_those_in_the_new_text() -> None:
    kept = strict(f"{FALSE}. {TRUE} [1].")

    assert kept.removed == (f"{FALSE}.",)
    assert [kept.text[slice(*one.answer_span)] for one in kept.citations] == [f"{TRUE} [1]."]
