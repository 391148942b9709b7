"""A RunPod queue endpoint that is cold: a stand-in answers as RunPod's /health, /run and /status do."""

import asyncio
import json

import pytest

from research.llm.client import LLMClient
from research.llm.cold_start import ColdStart
from research.llm.deadline import Deadline
from research.llm.endpoints import Endpoints, LLMReply, connect
from research.llm.errors import LLMStarting
from research.llm.settings import LLMSettings
from tests.stand_in_llm import Script, StandInLLM, answering, hanging, in_turn, replying
from vector_memory.errors import LLMReplyInvalid

BODY = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 200, "temperature": 0.5}
BOUND_S = 20.0
POLL_S = 0.01


def health(**workers: int) -> Script:
    states = {"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0}
    return replying(json.dumps({"jobs": {"inQueue": 0}, "workers": states | workers}))


def job(status: str) -> Script:
    return replying(json.dumps({"id": "warm-up-1", "status": status}))


COLD, UP = health(throttled=1), health(idle=1)
QUEUED = job("IN_QUEUE")


def routes(*, at_health: Script = COLD, at_run: Script = QUEUED, at_status: Script = QUEUED) -> dict[str, Script]:
    return {
        "/v2/abc123/health": at_health,
        "/v2/abc123/run": at_run,
        "/v2/abc123/status/warm-up-1": at_status,
    }


def settings(url: str, *fallbacks: str) -> LLMSettings:
    return LLMSettings.model_validate(
        {"base_url": url, "api_key": "rpa_1234", "fallback_endpoints": [{"base_url": url} for url in fallbacks]}
    )


def endpoints(url: str, *fallbacks: str) -> Endpoints:
    made = connect(settings(url, *fallbacks))
    assert made is not None
    for upstream in made._upstreams:
        if upstream.cold_start is not None:
            upstream.cold_start._poll_s = POLL_S
    return made


async def ask(llm: Endpoints, timeout_s: float = BOUND_S) -> LLMReply:
    return await llm.complete(BODY, deadline=Deadline.after(timeout_s))


def asked(server: StandInLLM, path: str) -> int:
    return sum(request.path.endswith(path) for request in server.other_requests)


async def test_a_worker_that_is_up_gets_the_question_at_once_and_is_not_probed_again_soon() -> None:
    with StandInLLM(answering("Yes."), routes(at_health=UP)) as server:
        llm = endpoints(server.runpod_url)
        replies = [await ask(llm), await ask(llm)]
        await llm.close()

    assert [reply.completion.text for reply in replies] == ["Yes.", "Yes."]
    assert (asked(server, "/health"), asked(server, "/run")) == (1, 0)
    assert server.other_requests[0].headers["authorization"] == "Bearer rpa_1234"


async def test_without_a_worker_one_job_starts_it_and_the_question_waits_for_its_end() -> None:
    statuses = in_turn(QUEUED, QUEUED, job("IN_PROGRESS"), job("COMPLETED"))
    with StandInLLM(answering("Yes."), routes(at_status=statuses)) as server:
        llm = endpoints(server.runpod_url)
        replies = await asyncio.gather(*(ask(llm) for _ in range(5)))
        await llm.close()

    assert [reply.completion.text for reply in replies] == ["Yes."] * 5
    assert asked(server, "/run") == 1, "however many questions wait"
    (start,) = [request for request in server.other_requests if request.path.endswith("/run")]
    assert start.body == {"input": {"openai_route": "/v1/models", "openai_input": {}}}
    assert len(server.requests) == 5


async def test_a_start_that_takes_longer_is_told_so_and_goes_on_without_another_job() -> None:
    with StandInLLM(answering("never asked for"), routes()) as server:
        llm = endpoints(server.runpod_url)
        for _ in range(2):
            with pytest.raises(LLMStarting, match="starting") as caught:
                await ask(llm, timeout_s=2)
        await llm.close()

    assert caught.value.retry_after_s == 15
    assert server.requests == [], "a question that was queued would be paid for although nobody waits"
    assert asked(server, "/run") == 1


async def test_with_another_endpoint_left_that_one_answers_while_the_first_starts() -> None:
    with StandInLLM(answering("Slow."), routes()) as cold, StandInLLM(answering("Yes.")) as warm:
        llm = endpoints(cold.runpod_url, warm.base_url)
        reply = await ask(llm)
        await cold.arrived(1, "/run")
        await llm.close()

    assert reply.endpoint == "fallback 1"
    assert cold.requests == []


@pytest.mark.parametrize(
    "at_health",
    [
        pytest.param(replying("", status=500), id="error"),
        pytest.param(replying("<html>"), id="page"),
        pytest.param(replying("[]"), id="list"),
        pytest.param(replying('{"workers": 1}'), id="number"),
    ],
)
async def test_where_health_cannot_be_told_the_question_finds_out(at_health: Script) -> None:
    with StandInLLM(answering("Yes."), routes(at_health=at_health)) as server:
        llm = endpoints(server.runpod_url)
        reply = await ask(llm)
        await llm.close()

    assert reply.completion.text == "Yes."
    assert asked(server, "/run") == 0


async def test_a_job_that_failed_was_run_by_a_worker() -> None:
    with StandInLLM(answering("Yes."), routes(at_status=job("FAILED"))) as server:
        llm = endpoints(server.runpod_url)
        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()


async def test_a_job_that_is_gone_is_replaced_a_few_times_and_no_more() -> None:
    with StandInLLM(answering("Yes."), routes(at_status=replying("{}", status=404))) as server:
        llm = endpoints(server.runpod_url)
        with pytest.raises(LLMReplyInvalid, match="lost the jobs"):
            await ask(llm)
        await llm.close()

    assert asked(server, "/run") == 3
    assert server.requests == []


async def test_a_job_that_is_gone_does_not_matter_once_a_worker_is_up() -> None:
    with StandInLLM(answering("Yes."), routes(at_health=in_turn(COLD, UP), at_status=job("CANCELLED"))) as server:
        llm = endpoints(server.runpod_url)
        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()

    assert asked(server, "/run") == 1


async def test_a_status_that_cannot_be_had_for_a_moment_is_asked_again() -> None:
    statuses = in_turn(replying("", status=503), replying("", status=524), job("COMPLETED"))
    with StandInLLM(answering("Yes."), routes(at_status=statuses)) as server:
        llm = endpoints(server.runpod_url)
        assert (await ask(llm)).completion.text == "Yes."
        await llm.close()

    assert asked(server, "/run") == 1


@pytest.mark.parametrize("at_run", [replying("{}"), replying('{"error": "Unauthorized"}', status=401)])
async def test_a_start_that_is_refused_is_an_error_of_the_endpoint(at_run: Script) -> None:
    with StandInLLM(answering("never asked for"), routes(at_run=at_run)) as server:
        llm = endpoints(server.runpod_url)
        with pytest.raises(LLMReplyInvalid):
            await ask(llm)
        await llm.close()


async def test_a_start_outlives_neither_its_loop_nor_the_next_question() -> None:
    """A serverless worker may ask in one loop and work in another."""
    with StandInLLM(answering("Yes."), routes(at_status=in_turn(hanging, job("COMPLETED")))) as server:
        made = settings(server.runpod_url)
        assert made.endpoint is not None
        llm = LLMClient(made.endpoint, made)
        cold_start = ColdStart(llm, server.runpod_url.removesuffix("/openai/v1"), poll_s=POLL_S)

        def first() -> None:
            with pytest.raises(LLMStarting):
                asyncio.run(cold_start.ensure_up(0.5))

        await asyncio.to_thread(first)
        async with asyncio.timeout(BOUND_S):
            await cold_start.ensure_up(BOUND_S)
        await cold_start.close()
        await llm.close()

    assert asked(server, "/run") == 2
