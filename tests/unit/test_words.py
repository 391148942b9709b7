"""What counts as a word, and that any text at all has words or none."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.namespaces import conversation
from memory_service.namespaces.conversation import CALLED, MENTIONED, event_time_ms, marks
from memory_service.namespaces.words import STOP_WORDS, asked, frequencies, stems, words
from memory_service.retrieval import analyzing
from tests.running_time import is_linear

DAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dana's flat-white", ["dana", "flat", "white"]),
        ("Dana\u2019s don't", ["dana", "dont"]),
        ("INV-2231-B", ["inv", "2231", "b"]),
        ("ＦＵＬＬ width ﬁnd", ["full", "width", "find"]),
        ("snake_case", ["snake", "case"]),
        ('"quoted" AND (x OR -y*) NEAR/2 ^z', ["quoted", "and", "x", "or", "y", "near", "2", "z"]),
        ("a\0b", ["a", "b"]),
        ("😀 🔑", []),
        ("", []),
        ("''' --- ___", []),
        ("東京都に住む", ["東京都に住む"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("naïve Straße", ["naïve", "straße"]),
    ],
)
def test_words_are_letters_and_digits_in_lower_case(text, expected):
    assert words(text) == expected


def test_forms_of_a_word_have_one_stem():
    assert len(set(stems(words("connect connected connecting connection connections")))) == 1
    assert asked("drinking") == list(frequencies("She drinks.").keys() & set(asked("drinking")))


def test_a_date_counts_as_the_words_that_people_ask_with():
    assert {"8", "may", "2023"} <= set(frequencies("Met on 2023-05-08."))
    assert "decemb" in frequencies("x", event_time_ms({"event_time": "1999-12-31T23:59:59+00:00"}))
    assert frequencies("2023-13-08") == Counter(["2023", "13", "08"])
    assert frequencies("2023-00-08") == Counter(["2023", "00", "08"])


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_of_the_calendar_have_words(year):
    found = frequencies("x", event_time_ms({"event_time": year}))
    assert str(int(year[:4])) in found


def test_a_question_asks_for_its_telling_words_once_each():
    assert asked("What did Dana drink, and what did Dana eat?") == ["dana", "drink", "eat"]
    assert asked("What did Dana drink?", frozenset({"dana"})) == ["drink"]


def test_a_question_of_nothing_but_stop_words_or_names_asks_for_these():
    assert asked("to be or not to be") == ["to", "be", "or", "not"]
    assert asked("Dana?", frozenset({"dana"})) == ["dana"]
    assert asked("?!") == []


def test_texts_keep_their_stop_words():
    assert set(frequencies("to be or not to be")) == {"to", "be", "or", "not"}
    assert {"to", "be", "or", "not"} <= STOP_WORDS


@pytest.mark.parametrize(
    ("text", "called", "mentioned"),
    [
        ("Caroline, hello", {"caroline"}, {"caroline"}),
        ("Hello! Caroline.", {"hello", "caroline"}, {"hello", "caroline"}),
        ("Thanks Caroline", {"caroline"}, {"thanks", "caroline"}),
        ("hey Dov? hi Ann; Hello Éloïse!", {"dov", "ann", "éloïse"}, {"dov", "ann", "hello", "éloïse"}),
        ("they Dov, chi Ann, I saw Caroline.", set(), {"dov", "ann", "caroline"}),
        ("Ca, McDonald, NASA, aCaroline, X_Caroline, Caroline2", set(), set()),
        ("", set(), set()),
    ],
)
def test_a_name_is_called_where_it_stands_alone_between_marks_or_after_a_greeting(text, called, mentioned):
    assert marks(text) == {CALLED + name for name in called} | {MENTIONED + name for name in mentioned}


@pytest.mark.parametrize("text", ["Last WEEK.", "since", "in 1999", "2023-05-08", "a year's end"])
def test_a_text_names_a_time_by_a_word_or_a_year(text):
    assert conversation._names_time(words(text))


@pytest.mark.parametrize("text", ["it may lasting", "day", "12345 a1999", "999", ""])
def test_other_words_and_numbers_name_no_time(text):
    assert not conversation._names_time(words(text))


@given(text=st.text(max_size=200))
def test_any_text_has_words_in_lower_case_without_spaces(text):
    for word in words(text):
        assert word == word.strip()
    assert sum(frequencies(text).values()) >= len(words(text))
    assert len(set(asked(text))) == len(asked(text)) <= len(words(text))


RUNS = (
    *("a", "A", "Aa", "Ab ", "a.", "x.-", ". ", " ", ": ", ", ", ":", "a'", "'", "-", "_", "\0", "1", "É", "東"),
    *("Hey ", "Hi Abc", "Abc, ", "Thanks Abcd! ", "2023-01-", "2023-01-01", "how long ", "yesterda", "a b c: "),
)


@pytest.mark.parametrize("run", RUNS)
def test_a_text_twenty_times_as_long_takes_not_much_more_than_twenty_times_as_long(run):
    """No pattern goes back over a long run of anything: that would take hundreds of times as long, or for ever."""

    def read(chars):
        text = (run * chars)[:chars]
        frequencies(text), marks(text), conversation._label_of(text), conversation._names_time(words(text))
        analyzing._WHEN.match(text), analyzing._without(text, {"abc", "hey"})

    assert is_linear(read, 5_000)


def test_one_word_of_100000_letters_and_100000_words_are_counted():
    assert list(frequencies("a" * 100_000).values()) == [1]
    assert len(frequencies(" ".join(f"t{at}" for at in range(100_000)))) == 100_000
