"""What a 200 answer of an LLM endpoint really is."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.llm.completion import Completion, decode, excerpt, read
from tests.stand_in_llm import completion
from vector_memory.errors import LLMReplyInvalid, LLMTimeout, LLMUnreachable, ServiceError

SECRET = "sk-very-secret"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "usage", "total_tokens", "model", "status", "error", "object"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def read_json(body: object) -> Completion:
    return read(json.dumps(body), model="asked-for", secret=SECRET)


def test_a_completion_is_read_as_it_stands() -> None:
    assert read_json(completion("Grimsby [1].")) == Completion(
        text="Grimsby [1].",
        model="stand-in",
        tokens_used=120,
        finish_reason="stop",
        prompt_tokens=100,
        completion_tokens=20,
    )


def test_what_a_lean_server_leaves_out_is_filled_in_honestly() -> None:
    lean = {"choices": [{"message": {"content": "Grimsby [1]."}}]}

    assert read_json(lean) == Completion(text="Grimsby [1].", model="asked-for", tokens_used=0, finish_reason=None)


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"total_tokens": "120"}, {"total_tokens": True}, {"total_tokens": -1}, {"total_tokens": 10**400}],
)
def test_a_usage_that_says_nothing_counts_as_none(usage: object) -> None:
    assert read_json(completion("Yes.", usage=usage)).tokens_used == 0


def test_a_total_that_a_server_leaves_out_is_the_sum() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    assert read_json(completion("Yes.", usage=usage)).tokens_used == 120


def test_a_number_beyond_every_float_is_none_as_infinity_is() -> None:
    """Written on, it would be `Infinity`, which is no JSON."""
    assert decode("[1e999, -1e999, Infinity, 1.5]") == [None, None, None, 1.5]


def test_half_a_character_in_the_text_is_replaced_so_that_it_can_be_sent_on() -> None:
    assert read_json(completion("Yes \ud83d.")).text == "Yes ?."


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({"id": "j-1", "status": "IN_QUEUE"}, LLMUnreachable, "still starting"),
        ({"id": "j-1", "status": "IN_PROGRESS"}, LLMUnreachable, "still starting"),
        ({"id": "j-1", "status": "TIMED_OUT"}, LLMTimeout, "out of time"),
        ({"id": "j-1", "status": "FAILED", "error": "Traceback: secret path"}, LLMReplyInvalid, "FAILED"),
        ({"error": {"message": "no such route"}}, LLMReplyInvalid, "no such route"),
        ({"error": "out of memory"}, LLMReplyInvalid, "out of memory"),
        ({"error": None}, LLMReplyInvalid, "gives no reason"),
        ({"object": "error", "message": "bad temperature", "code": 400}, LLMReplyInvalid, "bad temperature"),
        (completion(None), LLMReplyInvalid, "no text"),
        (completion(""), LLMReplyInvalid, "no text"),
        (completion(" \n"), LLMReplyInvalid, "no text"),
        (completion([{"type": "text", "text": "parts"}]), LLMReplyInvalid, "no text"),
        (completion("x", choices=[]), LLMReplyInvalid, "not a completion"),
        (completion("x", choices=None), LLMReplyInvalid, "not a completion"),
        (completion("x", choices=[None]), LLMReplyInvalid, "no text"),
        (completion("x", choices="Grimsby"), LLMReplyInvalid, "not a completion"),
        ([completion("x")], LLMReplyInvalid, "not a completion"),
        ("Grimsby", LLMReplyInvalid, "not a completion"),
        (None, LLMReplyInvalid, "not a completion"),
        ({}, LLMReplyInvalid, "not a completion"),
    ],
)
def test_what_is_no_completion_is_told_apart(body: object, error: type[ServiceError], says: str) -> None:
    with pytest.raises(error, match=says):
        read_json(body)


@pytest.mark.parametrize("body", ["", "<html><body>Loading</body></html>", '{"choices": [', "[" * 100_000, "\x00"])
def test_what_is_not_json_is_no_completion(body: str) -> None:
    with pytest.raises(LLMReplyInvalid, match="not a completion"):
        read(body, model="m", secret=SECRET)


def test_a_call_of_a_tool_is_no_answer() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}

    with pytest.raises(LLMReplyInvalid, match="tool"):
        read_json(completion("", choices=[{"message": message, "finish_reason": "tool_calls"}]))


def test_max_tokens_spent_before_the_first_word_has_its_own_remedy() -> None:
    with pytest.raises(LLMReplyInvalid, match="raise max_tokens"):
        read_json(completion("", choices=[{"message": {"content": ""}, "finish_reason": "length"}]))


@given(JSON_VALUES)
def test_no_json_value_raises_anything_but_the_errors_of_the_service(body: object) -> None:
    with suppress(LLMReplyInvalid, LLMTimeout, LLMUnreachable):
        assert read_json(body).text.strip()


def test_an_excerpt_is_one_short_line_without_key_or_traceback() -> None:
    said = f"key {SECRET} is\n\n wrong\x00 Traceback (most recent call last): File x.py"

    assert excerpt(json.dumps({"error": {"message": said}}), SECRET) == "key *** is wrong"
    assert len(excerpt(json.dumps({"detail": "x" * 1_000}), SECRET)) == 200
    assert excerpt("<html>", SECRET) == ""
