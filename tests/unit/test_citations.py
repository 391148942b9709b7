"""Which numbers an answer cites, and what only looks like a citation."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from research.grounding.citations import find, marks, without_unknown
from tests.running_time import is_linear

MARKS_AND_NOISE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "[1]",
                "[2, 3]",
                "[1-3]",
                "【4】",
                "[9]",
                "[",
                "]",
                "](",
                "`",
                "```",
                "a",
                "word",
                " ",
                ".",
                ",",
                "-",
                "\n",
            ]
        ),
        st.text(max_size=5),
        st.integers(0, 10**6).map(str),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("The budget is 62,000 euro [1].", (1,)),
        ("Priya drinks rooibos [2, 1].", (2, 1)),
        ("Priya drinks rooibos [2,1;3].", (2, 1, 3)),
        ("Both say so [1][3].", (1, 3)),
        ("Both say so [1] [3].", (1, 3)),
        ("All of them [1-3].", (1, 2, 3)),
        ("All of them [1–3], and [5 — 6].", (1, 2, 3, 5, 6)),
        ("In other brackets 【2】.", (2,)),
        ("预算是62000欧元[1]。", (1,)),
        ("[3] comes first, then [1], then [3] again.", (3, 1)),
        ("Doubly bracketed [[2]] and [[3]][1].", (2, 3, 1)),
        ("Glued to the word before it[1].", (1,)),
        ("Oat milk[1] and no sugar[2] for Dana", (1, 2)),
        ("Glued[1], then two more[2][3]; and a last one[4]", (1, 2, 3, 4)),
        ("In 2026[1] it cost 48,000[2] in all", (1, 2)),
        ("He said so (twice)[1] and “often”[2].", (1, 2)),
    ],
)
def test_a_mark_cites_its_numbers_in_order_of_first_appearance(text: str, known: tuple[int, ...]) -> None:
    found = find(text, passages=8)

    assert found.known == known
    assert found.unknown == ()


@pytest.mark.parametrize(
    "text",
    [
        "See [1](http://example.org/a).",
        "See [[1]](http://example.org/a).",
        "Take a[1] of it.",
        "Take a[1].",
        "The cell is rows[i][1].",
        "The cell is data.items[1].",
        "The cell is row_count[1].",
        "The cell is items[1].name.",
        "Run `print(x [1])` first.",
        "```\nx = [1]\n```",
        "```\nx = [1], cut off by the token lim",
        "In [2026] all was well.",
        "Nothing in [] or [ ] or [a] or [1 or 1] or [-1] or [1.5].",
    ],
)
def test_what_only_looks_like_a_mark_cites_nothing(text: str) -> None:
    found = find(text, passages=8)

    assert found.known == ()
    assert found.unknown == ()


def test_invented_numbers_are_reported_and_not_cited() -> None:
    found = find("Known [2], invented [9], beside [0] and [1, 12].", passages=3)

    assert found.known == (2, 1)
    assert found.unknown == (9, 0, 12)


def test_a_range_that_ends_beyond_the_passages_cites_those_that_exist() -> None:
    found = find("Everything [2-5].", passages=3)

    assert found.known == (2, 3)
    assert found.unknown == (4, 5)


def test_a_range_as_wide_as_no_prompt_is_read_as_its_two_ends() -> None:
    found = find("Everything [1-999], and backwards [3-2].", passages=8)

    assert found.known == (1, 3, 2)
    assert found.unknown == (999,)


@given(MARKS_AND_NOISE, st.integers(0, 50))
def test_no_text_raises_cites_a_number_twice_or_cites_one_that_does_not_exist(text: str, passages: int) -> None:
    found = find(text, passages)

    assert all(1 <= n <= passages for n in found.known)
    assert not any(1 <= n <= passages for n in found.unknown)
    assert len({*found.known, *found.unknown}) == len(found.known) + len(found.unknown)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_every_mark_in_plain_prose_is_found(numbers: list[int]) -> None:
    text = " ".join(f"Statement [{n}]." for n in numbers)

    assert find(text, passages=8).known == tuple(dict.fromkeys(numbers))


@pytest.mark.parametrize("unit", ["[1", "[1,", "`", "```", "a[1]", "w[1]'", "]", "[[", "1-", "[1]" * 3 + "\n"])
def test_a_hostile_page_is_read_in_linear_time(unit: str) -> None:
    assert is_linear(lambda units: find(unit * units, passages=8), 1_000)


def test_marks_have_places_and_doubled_brackets_belong_to_them() -> None:
    text = "One [1], two [[2]] and three【3】."

    assert [(text[mark.start : mark.stop], mark.numbers) for mark in marks(text)] == [
        ("[1]", (1,)),
        ("[[2]]", (2,)),
        ("【3】", (3,)),
    ]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Known [1], invented [9].", "Known [1], invented."),
        ("Invented [9] and known [1, 12].", "Invented and known [1]."),
        ("All [2-5].", "All [2, 3]."),
        ("[9] begins.\n[9] too [1].", "begins.\ntoo [1]."),
        ("Two [9][10] gone.", "Two gone."),
        ("Glued[9].", "Glued."),
        ("`rows [9]` stays.", "`rows [9]` stays."),
        ("Known [1] [2].", "Known [1] [2]."),
        ("Other brackets 【2, 9】 and doubled [[1-4]].", "Other brackets 【2】 and doubled [[1, 2, 3]]."),
        # Without the mark what is beside it would make another, or be none any more.
        ("see [the list [9]][1]", "see [the list   ]  [1]"),
        ("word[1][9].x", "word[1]  .x"),
        ("[1]【9】(see above)", "[1]  (see above)"),
        ("`` [1] ``[9]`` [2] ``", "`` [1] ``  `` [2] ``"),
        ("[1  [9]]", "[1    ]"),
        ("[[9]1]", "[[9]1]"),
    ],
)
def test_unknown_numbers_are_taken_out_and_nothing_else(text: str, left: str) -> None:
    assert without_unknown(text, passages=3) == left
    assert find(left, passages=3).known == find(text, passages=3).known


@example(":[2, 3]][1]", 1)
@given(MARKS_AND_NOISE, st.integers(0, 8))
def test_taking_unknown_marks_out_changes_only_them_and_white_space(text: str, passages: int) -> None:
    left = without_unknown(text, passages)

    before, after = find(text, passages), find(left, passages)
    if not before.unknown:
        assert left == text
    assert after.known == before.known
    assert set(after.unknown) <= set(before.unknown)
    characters = iter("".join(text.split()))
    assert all(char in characters for char in "".join(left.split()) if char not in "[], 0123456789")
