"""Several endpoints on real ports: which one answers, what is tried again, and what the caller hears when none does."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints, Reply, connect
from research.llm.settings import LLMSettings
from tests.stand_in_llm import (
    Script,
    StandInLLM,
    answering,
    chunk,
    completion,
    cutting_off,
    hanging,
    hanging_up,
    in_turn,
    replying,
    stream_of,
    streaming,
)
from vector_memory.errors import LLMNotConnected, LLMRefused, LLMTimeout, LLMUnreachable, ServiceError, Unavailable
from vector_memory.research import ChatMessage

MESSAGES: tuple[ChatMessage, ...] = ({"role": "user", "content": "Why?"},)
KEYS = ("sk-first-secret", "sk-second-secret")
BOUND_S = 20.0
ENGINE_DIED = '{"error": {"message": "EngineCore encountered an issue.", "code": 500}}'


def endpoints(first: str, *further: str, **settings: object) -> Endpoints:
    fallbacks = json.dumps([{"base_url": url, "api_key": KEYS[1], "model": "m-two"} for url in further])
    made = connect(
        LLMSettings.model_validate(
            {"base_url": first, "api_key": KEYS[0], "model": "m-one", "fallback_endpoints": fallbacks, **settings}
        )
    )
    assert made is not None
    return made


async def ask(llm: Endpoints, timeout_s: float = BOUND_S) -> Reply:
    return await llm.complete(MESSAGES, max_tokens=200, temperature=0.5, deadline=Deadline.after(timeout_s))


async def listen(llm: Endpoints, timeout_s: float = BOUND_S) -> tuple[list[str], Reply | ServiceError]:
    pieces: list[str] = []
    try:
        async for event in llm.stream(MESSAGES, max_tokens=200, temperature=0.5, deadline=Deadline.after(timeout_s)):
            if isinstance(event, Reply):
                return pieces, event
            pieces.append(event)
    except ServiceError as error:
        return pieces, error
    raise AssertionError("a stream ends in a reply or an error")


async def answered(first: Script, second: Script, **settings: object) -> tuple[Reply, StandInLLM, StandInLLM]:
    with StandInLLM(first) as one, StandInLLM(second) as two:
        llm = endpoints(one.base_url, two.base_url, **settings)
        try:
            return await ask(llm), one, two
        finally:
            await llm.close()


async def test_the_first_that_is_well_answers_and_the_others_are_not_asked() -> None:
    reply, one, two = await answered(answering("Yes."), answering("No."), input_price=2.0, second_price=0.0)

    assert (reply.completion.text, reply.endpoint) == ("Yes.", "primary")
    assert (len(one.requests), two.requests) == (1, [])
    assert reply.cost == pytest.approx(100 * 2.0 / 1_000_000)
    assert reply.seconds > 0


async def test_each_endpoint_gets_its_own_key_and_model() -> None:
    _, one, two = await answered(replying("", status=503), answering("Yes."))

    assert (one.requests[0].headers["authorization"], one.requests[0].body["model"]) == (f"Bearer {KEYS[0]}", "m-one")
    assert (two.requests[0].headers["authorization"], two.requests[0].body["model"]) == (f"Bearer {KEYS[1]}", "m-two")


FAILING = [
    pytest.param(replying("", status=429), id="busy"),
    pytest.param(replying("<html>", status=502), id="bad gateway"),
    pytest.param(replying("", status=503), id="overloaded"),
    pytest.param(replying("<html>", status=524, content_type="text/html"), id="edge gave up"),
    pytest.param(replying("<html>", status=521), id="origin down"),
    pytest.param(replying(ENGINE_DIED, status=500), id="engine died"),
    pytest.param(replying(ENGINE_DIED), id="error in a 200"),
    pytest.param(replying('{"id": "j-1", "status": "IN_QUEUE"}'), id="queued"),
    pytest.param(replying('{"id": "j-1", "status": "FAILED"}'), id="job failed"),
    pytest.param(replying('{"error": "Unauthorized"}', status=401), id="key"),
    pytest.param(replying('{"error": {"message": "no such model"}}', status=404), id="model"),
    pytest.param(replying("<html>Loading</html>", content_type="text/html"), id="page"),
    pytest.param(hanging_up, id="hung up"),
    pytest.param(cutting_off(json.dumps(completion("Yes."))), id="cut off"),
]


@pytest.mark.parametrize("script", FAILING)
async def test_what_the_second_can_answer_it_answers(script: Script) -> None:
    reply, one, _ = await answered(script, answering("Yes."))

    assert (reply.completion.text, reply.endpoint) == ("Yes.", "fallback 1")
    assert len(one.requests) == 1, "a question that may have been queued is not sent twice"


@pytest.mark.parametrize("script", FAILING)
async def test_a_stream_goes_to_the_second_until_the_first_word(script: Script) -> None:
    with StandInLLM(script) as one, StandInLLM(streaming(*stream_of("Yes", "."))) as two:
        llm = endpoints(one.base_url, two.base_url)
        pieces, ended = await listen(llm)
        await llm.close()

    assert pieces == ["Yes", "."]
    assert isinstance(ended, Reply)
    assert (ended.completion.text, ended.endpoint) == ("Yes.", "fallback 1")


async def test_after_the_first_word_an_error_is_an_error() -> None:
    with StandInLLM(streaming(chunk("Half"), cut=True)) as one, StandInLLM(streaming(*stream_of("Yes."))) as two:
        llm = endpoints(one.base_url, two.base_url)
        pieces, ended = await listen(llm)
        await llm.close()

    assert (pieces, type(ended)) == (["Half"], LLMUnreachable)
    assert two.requests == []


async def test_a_request_that_is_wrong_is_wrong_everywhere() -> None:
    with pytest.raises(LLMRefused, match="too long"):
        await answered(replying('{"error": {"message": "too long"}}', status=400), answering("Yes."))


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_first_that_hangs_leaves_the_second_time_to_answer(is_stream: bool) -> None:
    second = streaming(*stream_of("Yes.")) if is_stream else answering("Yes.")
    with StandInLLM(hanging) as one, StandInLLM(second) as two:
        llm = endpoints(one.base_url, two.base_url)
        reply = (await listen(llm, 3.0))[1] if is_stream else await ask(llm, 3.0)
        await llm.close()

    assert isinstance(reply, Reply)
    assert reply.endpoint == "fallback 1"


async def test_when_all_are_down_the_error_tells_of_each_and_when_to_come_back() -> None:
    with StandInLLM(hanging) as gone, StandInLLM(replying(ENGINE_DIED, status=500)) as dead:
        gone.kill()
        llm = endpoints(gone.base_url, dead.base_url)
        with pytest.raises(LLMUnreachable) as caught:
            await ask(llm)
        await llm.close()

    message = caught.value.message
    assert "primary: The LLM endpoint cannot be reached" in message
    assert "fallback 1: " in message
    assert "EngineCore" in message
    assert caught.value.retry_after_s
    assert not any(secret in message for secret in (*KEYS, "127.0.0.1", "Traceback"))


class OnFirstFailure(logging.Handler):
    """Does something when the first failure of an endpoint is logged."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = act

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "llm.failed" and self._act is not None:
            act, self._act = self._act, None
            act()


async def test_a_port_that_is_closed_for_a_moment_is_tried_again() -> None:
    """Nothing was sent, so it costs nothing. Here the port listens from the moment of the first failure on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        llm = endpoints(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        failed = asyncio.Event()
        handler = OnFirstFailure(lambda: (listener.listen(), failed.set()))
        logging.getLogger("research.llm.endpoints").addHandler(handler)
        asking = asyncio.create_task(ask(llm))
        async with asyncio.timeout(BOUND_S):
            await failed.wait()
        with StandInLLM(answering("Yes."), listener=listener) as server:
            reply = await asking
        await llm.close()
        logging.getLogger("research.llm.endpoints").removeHandler(handler)

    assert reply.completion.text == "Yes."
    assert len(server.requests) == 1


async def test_a_port_that_stays_closed_is_given_up_before_the_deadline() -> None:
    with StandInLLM(hanging) as server:
        server.kill()
        llm = endpoints(server.base_url)
        deadline = Deadline.after(BOUND_S)
        with pytest.raises(LLMNotConnected):
            await llm.complete(MESSAGES, max_tokens=200, temperature=0, deadline=deadline)
        assert deadline.left_s > 0
        await llm.close()


@pytest.mark.parametrize("timeout_s", [0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_deadline_is_kept_however_many_endpoints_hang(count: int, timeout_s: float) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(StandInLLM(hanging)) for _ in range(count)]
        llm = endpoints(*(server.base_url for server in servers))
        deadline = Deadline.after(timeout_s)
        with pytest.raises(LLMTimeout if count == 1 else LLMUnreachable):
            async with asyncio.timeout(BOUND_S):
                await llm.complete(MESSAGES, max_tokens=200, temperature=0, deadline=deadline)
        assert deadline.left_s == 0 or count > 1, "not given up early"
        assert all(len(server.requests) <= 1 for server in servers)
        await llm.close()


async def test_an_endpoint_that_keeps_failing_is_left_alone() -> None:
    with StandInLLM(replying(ENGINE_DIED, status=500)) as one, StandInLLM(answering("Yes.")) as two:
        llm = endpoints(one.base_url, two.base_url)
        replies = [await ask(llm) for _ in range(9)]
        await llm.close()

    assert {reply.endpoint for reply in replies} == {"fallback 1"}
    assert (len(one.requests), len(two.requests)) == (5, 9)


async def test_questions_without_time_do_not_close_an_endpoint_to_the_others() -> None:
    with StandInLLM(in_turn(*[hanging] * 6, answering("Yes."))) as server:
        llm = endpoints(server.base_url)
        for _ in range(6):
            with pytest.raises(LLMTimeout):
                await ask(llm, timeout_s=0.1)
        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()


async def test_an_endpoint_that_takes_its_time_in_vain_is_left_alone() -> None:
    with StandInLLM(hanging) as server:
        llm = endpoints(server.base_url, timeout_s=1)
        for _ in range(5):
            with pytest.raises(LLMTimeout):
                await ask(llm, timeout_s=0.6)
        with pytest.raises(LLMUnreachable, match="5 times in a row"):
            await ask(llm)
        await llm.close()


async def test_one_that_is_left_alone_is_no_reason_to_wait() -> None:
    with StandInLLM(replying(ENGINE_DIED, status=500)) as server:
        llm = endpoints(server.base_url)
        for _ in range(5):
            with pytest.raises(ServiceError, match="EngineCore"):
                await ask(llm)
        with pytest.raises(LLMUnreachable, match=r"5 times in a row.*EngineCore") as caught:
            await ask(llm)
        await llm.close()

    assert len(server.requests) == 5
    assert caught.value.retry_after_s


async def test_busy_is_not_broken() -> None:
    """An overloaded server refuses some and answers others; nothing is gained by leaving it alone."""
    busy = replying("", status=429)
    with StandInLLM(in_turn(*[busy] * 8, answering("Yes."))) as server:
        llm = endpoints(server.base_url)
        for _ in range(8):
            with pytest.raises(LLMUnreachable):
                await ask(llm)
        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_primary_killed_under_load_fails_no_request_that_the_second_can_answer(is_stream: bool) -> None:
    arrived = asyncio.Event()
    slow: Sequence[Script] = (hanging,)
    good = streaming(*stream_of("Yes", ".")) if is_stream else answering("Yes.")
    with StandInLLM(in_turn(*[good] * 10, *slow)) as one, StandInLLM(good) as two:
        llm = endpoints(one.base_url, two.base_url, concurrency=50)

        answered = asyncio.Semaphore(0)

        async def one_request() -> Reply:
            ended = await ask(llm) if not is_stream else (await listen(llm))[1]
            answered.release()
            assert isinstance(ended, Reply), ended
            return ended

        async def killer() -> None:
            await one.arrived(30)
            for _ in range(10):  # a stream that has begun cannot be asked of another endpoint
                await answered.acquire()
            one.kill()
            arrived.set()

        *replies, _ = await asyncio.gather(*(one_request() for _ in range(50)), killer())
        await llm.close()

    assert arrived.is_set()
    assert [reply.completion.text for reply in replies if reply is not None] == ["Yes."] * 50
    by = [reply.endpoint for reply in replies if reply is not None]
    assert by.count("primary") == 10
    assert by.count("fallback 1") == 40


async def test_more_than_may_run_and_wait_are_turned_away_at_once() -> None:
    with StandInLLM(hanging) as server:
        llm = endpoints(server.base_url, concurrency=2, queue_max=1)
        running = [asyncio.create_task(ask(llm, timeout_s)) for timeout_s in (2.0, 2.0, 0.5)]
        await server.arrived(2)
        with pytest.raises(Unavailable, match="LLM_CONCURRENCY"):
            await ask(llm)
        ended = await asyncio.gather(*running, return_exceptions=True)
        await llm.close()

    assert [type(error) for error in ended] == [LLMTimeout, LLMTimeout, Unavailable]


async def test_cancelling_frees_the_place_and_the_probe() -> None:
    with StandInLLM(in_turn(hanging, answering("Yes."))) as server:
        llm = endpoints(server.base_url, concurrency=1, queue_max=0)
        running = asyncio.create_task(ask(llm))
        await server.arrived()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()


async def test_closing_a_stream_closes_it_upstream_and_frees_the_place() -> None:
    with StandInLLM(in_turn(streaming(chunk("Half"), hang=True), streaming(*stream_of("Yes.")))) as server:
        llm = endpoints(server.base_url, concurrency=1, queue_max=0)
        events = llm.stream(MESSAGES, max_tokens=200, temperature=0.5, deadline=Deadline.after(BOUND_S))
        assert await anext(events) == "Half"
        await events.aclose()

        assert await asyncio.to_thread(server.left.wait, BOUND_S)
        assert (await listen(llm))[0] == ["Yes."]
        await llm.close()


async def test_a_failure_is_logged_with_its_endpoint_and_without_key_or_question(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await answered(replying(f'{{"error": {{"message": "bad {KEYS[0]}"}}}}', status=500), answering("Yes."))

    (record,) = [record for record in caplog.records if record.getMessage() == "llm.failed"]
    assert (record.__dict__["endpoint"], record.__dict__["asked_next"]) == ("primary", True)
    everything = " ".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in everything for secret in (*KEYS, "Why?"))


def test_they_outlive_the_event_loop_of_their_first_request() -> None:
    with StandInLLM(answering("Yes.")) as server:
        llm = endpoints(server.base_url)
        first, second = asyncio.run(ask(llm)), asyncio.run(ask(llm))
        asyncio.run(llm.close())

    assert (first.completion.text, second.completion.text) == ("Yes.", "Yes.")
