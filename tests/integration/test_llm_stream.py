"""The LLM client's stream against a real port: pieces as they come, and every way in which a stream goes wrong."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from research.llm.client import LLMClient
from research.llm.completion import Completion
from research.llm.settings import LLMSettings
from tests.stand_in_llm import (
    USAGE,
    Script,
    StandInLLM,
    answering,
    chunk,
    hanging,
    hanging_up,
    replying,
    stream_of,
    streaming,
)
from vector_memory.errors import (
    LLMBusy,
    LLMNotConnected,
    LLMRefused,
    LLMReplyInvalid,
    LLMTimeout,
    LLMUnreachable,
    ServiceError,
)
from vector_memory.research import ChatMessage

KEY = "sk-very-secret"
MESSAGES: tuple[ChatMessage, ...] = ({"role": "user", "content": "Why?"},)
BOUND_S = 10.0
ENGINE_DIED = {"error": {"message": f"EngineCore encountered an issue. {KEY}", "type": "x", "code": 500}}


def client(base_url: str) -> LLMClient:
    settings = LLMSettings.model_validate({"base_url": base_url, "api_key": KEY, "model": "m-8b"})
    assert settings.endpoint is not None
    return LLMClient(settings.endpoint, settings)


async def heard(llm: LLMClient, **limits: float) -> tuple[list[str], Completion | ServiceError]:
    """The pieces, and how it ended."""
    pieces: list[str] = []
    try:
        async with asyncio.timeout(BOUND_S):
            async for event in llm.stream(MESSAGES, max_tokens=200, temperature=0.5, **limits):
                if isinstance(event, Completion):
                    return pieces, event
                pieces.append(event)
        raise AssertionError("a stream ends in a completion or an error")
    except ServiceError as error:
        return pieces, error
    finally:
        await llm.close()


async def test_pieces_come_one_by_one_and_then_the_completion() -> None:
    with StandInLLM(streaming(*stream_of("Grims", "by [1]."))) as server:
        pieces, ended = await heard(client(server.base_url))

    assert pieces == ["Grims", "by [1]."]
    assert ended == Completion("Grimsby [1].", "stand-in", 120, "stop", 100, 20)
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (request.body["stream"], request.body["stream_options"]) == (True, {"include_usage": True})


async def test_a_piece_is_there_before_the_next_is_sent() -> None:
    with StandInLLM(streaming(chunk("first"), hang=True)) as server:
        llm = client(server.base_url)
        async with aclosing(llm.stream(MESSAGES, max_tokens=200, temperature=0.5)) as events:
            async with asyncio.timeout(BOUND_S):
                assert await anext(events) == "first"
        await llm.close()


@pytest.mark.parametrize(
    ("script", "pieces", "kind"),
    [
        (streaming(chunk("Half"), ENGINE_DIED, "[DONE]"), ["Half"], LLMReplyInvalid),
        (streaming(chunk("Half"), cut=True), ["Half"], LLMUnreachable),
        (streaming(chunk("Half")), ["Half"], LLMUnreachable),
        (streaming(chunk("Half"), "[DONE]"), ["Half"], LLMUnreachable),
        (streaming(), [], LLMReplyInvalid),
        (streaming("[DONE]"), [], LLMUnreachable),
        (streaming(chunk("Half"), "nonsense"), ["Half"], LLMReplyInvalid),
        (streaming(chunk(choices=[], usage=USAGE), chunk("", finish_reason="stop"), "[DONE]"), [], LLMReplyInvalid),
        (replying("<html>Loading</html>", content_type="text/html"), [], LLMReplyInvalid),
        (replying('{"id": "j-1", "status": "IN_QUEUE"}'), [], LLMUnreachable),
        (replying('{"error": {"message": "no"}}'), [], LLMReplyInvalid),
        (replying('{"error": "Unauthorized"}', status=401), [], LLMReplyInvalid),
        (replying('{"error": {"message": "too long"}}', status=400), [], LLMRefused),
        (replying("", status=503), [], LLMBusy),
        (replying("<html>", status=524, content_type="text/html"), [], LLMTimeout),
        (hanging_up, [], LLMUnreachable),
    ],
)
async def test_a_stream_that_goes_wrong_never_ends_in_silence(
    script: Script, pieces: Sequence[str], kind: type[ServiceError]
) -> None:
    with StandInLLM(script) as server:
        found, ended = await heard(client(server.base_url))

    assert (found, type(ended)) == (list(pieces), kind)
    assert isinstance(ended, ServiceError)
    assert KEY not in ended.message
    assert len(server.requests) == 1


async def test_a_server_that_cannot_stream_gives_the_whole_text_as_one_piece() -> None:
    with StandInLLM(answering("Yes.")) as server:
        pieces, ended = await heard(client(server.base_url))

    assert pieces == ["Yes."]
    assert isinstance(ended, Completion)


async def test_a_stream_counts_whatever_content_type_it_is_sent_with() -> None:
    with StandInLLM(streaming(*stream_of("Yes."), content_type="application/json")) as server:
        pieces, _ = await heard(client(server.base_url))

    assert pieces == ["Yes."]


async def test_a_first_word_that_does_not_come_in_time_is_a_timeout_of_its_own() -> None:
    with StandInLLM(hanging) as server:
        pieces, ended = await heard(client(server.base_url), timeout_s=BOUND_S, first_token_s=0.3)
        assert await asyncio.to_thread(server.left.wait, BOUND_S)

    assert (pieces, type(ended)) == ([], LLMTimeout)


async def test_a_stream_whose_beginning_is_blank_is_still_waited_for() -> None:
    """The first event has a role and no text; it is no first word."""
    blank = stream_of()[0]
    with StandInLLM(streaming(blank, hang=True)) as server:
        pieces, ended = await heard(client(server.base_url), timeout_s=BOUND_S, first_token_s=0.3)

    assert (pieces, type(ended)) == ([], LLMTimeout)


async def test_the_rest_has_the_whole_time_however_soon_the_first_word_came() -> None:
    with StandInLLM(streaming(chunk("Half"), hang=True)) as server:
        pieces, ended = await heard(client(server.base_url), timeout_s=0.6, first_token_s=0.5)

    assert (pieces, type(ended)) == (["Half"], LLMTimeout)


async def test_a_stream_that_drips_for_ever_ends_with_its_time() -> None:
    """Every read succeeds at once, so only the total can end it."""
    with StandInLLM(streaming(*[chunk("x")] * 10_000, pause_s=0.01)) as server:
        pieces, ended = await heard(client(server.base_url), timeout_s=0.5)

    assert pieces
    assert type(ended) is LLMTimeout


async def test_closing_the_iterator_closes_the_connection() -> None:
    with StandInLLM(streaming(chunk("first"), hang=True)) as server:
        llm = client(server.base_url)
        events = llm.stream(MESSAGES, max_tokens=200, temperature=0.5)
        assert await anext(events) == "first"
        await events.aclose()

        assert await asyncio.to_thread(server.left.wait, BOUND_S)
        await llm.close()


@pytest.mark.parametrize("script", [hanging, streaming(chunk("first"), hang=True)])
async def test_cancelling_the_reader_closes_the_connection(script: Script) -> None:
    with StandInLLM(script) as server:
        llm = client(server.base_url)
        reading = asyncio.create_task(heard(llm))
        await server.arrived()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

        assert await asyncio.to_thread(server.left.wait, BOUND_S)


async def test_a_port_where_nobody_listens_is_not_connected() -> None:
    with StandInLLM(hanging) as server:
        server.kill()
        _, ended = await heard(client(server.base_url))

    assert type(ended) is LLMNotConnected


async def test_what_json_escapes_and_what_lines_may_hold_arrives_as_it_was_said() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\nf\r\ng 東京 👩‍💻"
    raw = json.dumps(chunk(text), ensure_ascii=False)
    with StandInLLM(streaming(raw, chunk(finish_reason="stop"), "[DONE]")) as server:
        pieces, _ = await heard(client(server.base_url))

    assert pieces == [text]
