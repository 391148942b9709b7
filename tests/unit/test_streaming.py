"""Bytes of a streamed completion in, pieces of text and the completion out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.llm.completion import Completion
from research.llm.errors import LLMBusy, LLMRefused
from research.llm.streaming import Chunk, ChunkReader, StreamReader
from tests.stand_in_llm import USAGE, chunk, completion, stream_of
from vector_memory.errors import LLMReplyInvalid, LLMUnreachable, ServiceError

SECRET = "sk-very-secret"


def written(*events: object) -> bytes:
    return "".join(
        f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n" for event in events
    ).encode()


def read(*parts: bytes) -> tuple[list[str], Completion]:
    reader = StreamReader(model="asked-for", secret=SECRET)
    pieces = [piece for part in (*parts, b"\n") for piece in reader.feed(part)]
    return pieces, reader.end()


def test_a_usual_stream_gives_its_pieces_and_then_usage_reason_and_model() -> None:
    pieces, whole = read(written(*stream_of("Grims", "by [1].")))

    assert pieces == ["Grims", "by [1]."]
    assert whole == Completion(
        text="Grimsby [1].",
        model="stand-in",
        tokens_used=120,
        finish_reason="stop",
        prompt_tokens=100,
        completion_tokens=20,
    )


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6), st.data())
def test_wherever_the_bytes_are_cut_the_pieces_are_the_same(texts: list[str], data: st.DataObject) -> None:
    """RunPod hands raw chunks on, which cut events and characters; a text may hold any line separator but a break."""
    stream = written(*stream_of("x", *texts))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    pieces, whole = read(*parts)

    assert pieces == ["x", *texts]
    assert whole.text == "".join(pieces)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_errors_of_the_service(one: bytes, other: bytes) -> None:
    try:
        _, whole = read(one, b"\ndata: ", other)
    except ServiceError:
        return
    assert whole.text.strip()


def test_carriage_returns_comments_other_fields_and_blank_events_are_passed_over() -> None:
    stream = b": waiting\r\n\r\nevent: x\r\nid: 1\r\nretry: 5\r\ndata:\r\n\r\n" + written(*stream_of("Yes.")).replace(
        b"\n", b"\r\n"
    )

    assert read(stream)[1].text == "Yes."


def test_a_last_line_without_its_break_counts() -> None:
    pieces, whole = read(written(chunk("Yes."), chunk("!", finish_reason="stop")).rstrip())

    assert (pieces, whole.text) == (["Yes.", "!"], "Yes.!")


def test_a_lean_server_without_usage_and_without_done_is_enough() -> None:
    _, whole = read(written({"choices": [{"delta": {"content": "Yes."}}]}, {"choices": [{"finish_reason": "length"}]}))

    assert whole == Completion(text="Yes.", model="asked-for", tokens_used=0, finish_reason="length")


def test_usage_in_an_event_without_choices_or_in_every_event_counts_as_last_said() -> None:
    early = chunk("Yes.", usage={"total_tokens": 7})

    assert read(written(early, chunk(finish_reason="stop"), chunk(choices=[], usage=USAGE)))[1].tokens_used == 120
    assert read(written(early, chunk(finish_reason="stop"), chunk(choices=None)))[1].tokens_used == 7


@pytest.mark.parametrize("ending", [[], ["[DONE]"], [chunk(choices=[], usage=USAGE), "[DONE]"]])
def test_a_stream_that_ends_without_a_reason_broke_off(ending: list[object]) -> None:
    with pytest.raises(LLMUnreachable, match="broke off"):
        read(written(chunk("Half an ans"), *ending))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"error": {"message": "EngineCore encountered an issue.", "code": 500}}, LLMReplyInvalid, "EngineCore"),
        ({"error": {"message": "The engine is currently busy", "code": 503}}, LLMBusy, "currently busy"),
        ({"error": {"message": "too long", "code": 400}}, LLMRefused, "too long"),
        ({"error": f"bad key {SECRET}"}, LLMReplyInvalid, r"bad key \*\*\*"),
        ({"object": "error", "message": "slow down", "code": 429}, LLMBusy, "slow down"),
        ({"status": "IN_QUEUE", "id": "j"}, LLMUnreachable, "starting"),
        ({"surprise": 1}, LLMReplyInvalid, "not a completion"),
        ([], LLMReplyInvalid, "not a completion"),
        ("not JSON", LLMReplyInvalid, "not a completion"),
    ],
)
def test_an_event_that_is_no_piece_ends_it_with_its_error(error: object, kind: type[ServiceError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        read(written(chunk("Half"), error, "[DONE]"))

    assert type(caught.value) is kind
    assert SECRET not in caught.value.message


def test_a_body_that_is_the_whole_completion_is_taken_from_a_server_that_cannot_stream() -> None:
    pieces, whole = read(json.dumps(completion("Yes."), indent=2).encode())

    assert (pieces, whole) == (
        [],
        Completion(
            text="Yes.",
            model="stand-in",
            tokens_used=120,
            finish_reason="stop",
            prompt_tokens=100,
            completion_tokens=20,
        ),
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", LLMReplyInvalid),
        (b"<html>Loading</html>", LLMReplyInvalid),
        (b'{"id": "j-1", "status": "IN_QUEUE"}', LLMUnreachable),
        (b'{"error": {"message": "no"}}', LLMReplyInvalid),
        (b"null", LLMReplyInvalid),
    ],
)
def test_a_body_that_is_no_stream_is_judged_like_any_other(body: bytes, kind: type[ServiceError]) -> None:
    with pytest.raises(kind):
        read(body)


def test_a_stream_without_text_says_why() -> None:
    tool = chunk(choices=[{"delta": {"tool_calls": [{"id": "1"}]}, "finish_reason": None}])

    with pytest.raises(LLMRefused, match="raise max_tokens"):
        read(written(chunk("", finish_reason="length")))
    with pytest.raises(LLMReplyInvalid, match="no text"):
        read(written(chunk(" \n", finish_reason="stop")))
    with pytest.raises(LLMReplyInvalid, match="tool"):
        read(written(tool, chunk(finish_reason="tool_calls")))


def test_a_line_or_a_body_without_end_is_given_up() -> None:
    with pytest.raises(LLMReplyInvalid, match="1 MiB"):
        read(b"data: " + b"x" * 1_100_000)
    with pytest.raises(LLMReplyInvalid, match="1 MiB"):
        read(b"xxxxxxxxx\n" * 110_000)


def test_half_a_character_is_replaced_so_that_it_can_be_sent_on() -> None:
    pieces, whole = read(b'data: {"choices": [{"delta": {"content": "Yes \\ud83d."}, "finish_reason": "stop"}]}\n\n')

    assert (pieces, whole.text) == (["Yes ?."], "Yes ?.")


# -- events handed on as they are ----------------------------------------------------------------------------------

_DELTAS = st.fixed_dictionaries({}, optional={"role": st.just("assistant"), "content": st.text(max_size=5)})


@given(st.lists(st.tuples(st.integers(0, 2), _DELTAS), max_size=12), st.booleans(), st.integers(1, 9))
def test_events_are_handed_on_whole_and_in_order_however_the_bytes_are_cut(
    said: list[tuple[int, dict[str, str]]], ends: bool, size: int
) -> None:
    events = [{"choices": [{"index": at, "delta": delta, "finish_reason": None}]} for at, delta in said]
    if ends:
        indexes = {at for at, _ in said} or {0}
        events += [{"choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]} for at in indexes]
    sent = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events).encode()
    reader = ChunkReader(secret=SECRET)
    told: list[Chunk] = []
    for start in range(0, len(sent), size):
        came = reader.feed(sent[start : start + size])
        if came and not told:
            assert any(
                choice["finish_reason"] or choice["delta"].get("content") for one in came for choice in one["choices"]
            )
        told += came

    if ends:
        assert [*told, *reader.rest()] == events
    else:
        assert told == events[: len(told)]
        with pytest.raises(LLMUnreachable if said else LLMReplyInvalid):
            reader.rest()


def test_a_null_error_in_every_event_is_none() -> None:
    reader = ChunkReader(secret=SECRET)
    event = {"error": None, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}

    assert reader.feed(f"data: {json.dumps(event)}\n\n".encode()) == [event]
    assert reader.rest() == []
