"""Research step by step: what is told, in which order, and how it ends when something fails."""

import asyncio
import json
import logging
from contextlib import ExitStack

import pytest

from research.grounding.extractive import NOTICE
from research.llm.endpoints import connect
from research.llm.errors import LLMNotConnected
from research.llm.settings import LLMSettings
from research.researcher import ABSTAINED, Researcher
from tests.list_recall import ListRecall, memory
from tests.stand_in_llm import (
    StandInLLM,
    answering,
    chunk,
    completion,
    hanging,
    replying,
    stream_of,
    streaming,
)
from vector_memory.errors import InvalidInput, LimitExceeded, LLMNotConfigured, LLMUnreachable
from vector_memory.research import Answer, Cited, Context, Failed, ResearchRequest, Step, Token

MEMORIES = [
    memory("The budget of Brightwater is 48,000 euro.", key="budget-1", metadata={"event_time": "2026-09-16"}),
    memory("The budget of Brightwater is now 62,000 euro.", key="budget-2", metadata={"event_time": "2026-10-01"}),
]
QUESTION = ResearchRequest(query="What is the budget of Brightwater?")
COUNTING = {"/tokenize": replying('{"count": 300, "max_model_len": 8192}')}
BOUND_S = 10.0


def researcher(settings: LLMSettings) -> Researcher:
    return Researcher(ListRecall(MEMORIES), settings, connect(settings))


async def steps_of(request: ResearchRequest, settings: LLMSettings) -> list[Step]:
    made = researcher(settings)
    try:
        return [step async for step in made.research_stream(request)]
    finally:
        await made.close()


async def answer_of(request: ResearchRequest, settings: LLMSettings) -> Answer:
    made = researcher(settings)
    try:
        return await made.research(request)
    finally:
        await made.close()


async def test_passages_come_first_then_the_text_and_then_the_same_answer_as_at_once() -> None:
    text = "First 48,000 [2], now 62,000 euro [1]; see also [9]."
    with ExitStack() as stack:
        streams = stack.enter_context(StandInLLM(streaming(*stream_of(text[:10], text[10:])), COUNTING))
        whole = stack.enter_context(StandInLLM(answering(text), COUNTING))
        context, *tokens, answer = await steps_of(QUESTION, LLMSettings(base_url=streams.base_url, input_price=3.0))
        expected = await answer_of(QUESTION, LLMSettings(base_url=whole.base_url, input_price=3.0))

    assert isinstance(context, Context)
    assert [step for step in tokens if isinstance(step, Token)] == [Token(text=text[:10]), Token(text=text[10:])]
    cited = [step.citation for step in tokens if isinstance(step, Cited)]
    assert [(one.n, one.verdict) for one in cited] == [(one.n, one.verdict) for one in answer.citations]
    assert {one.n for one in cited} == {1, 2}
    assert isinstance(answer, Answer)
    assert (context.context, context.omitted, context.tokens_counted) == (answer.context, (), "server")
    for name in Answer.model_fields:
        if name not in ("latency_ms", "timestamp"):
            assert getattr(answer, name) == getattr(expected, name), name
    assert (answer.endpoint, answer.prompt_tokens, answer.completion_tokens) == ("primary", 100, 20)
    assert answer.cost == pytest.approx(0.0003)
    assert answer.tokens_counted == "server"


async def test_the_passages_are_there_while_the_llm_is_silent() -> None:
    with StandInLLM(hanging) as server:
        made = researcher(LLMSettings(base_url=server.base_url))
        steps = made.research_stream(QUESTION)
        async with asyncio.timeout(BOUND_S):
            assert isinstance(await anext(steps), Context)
        assert server.requests == []
        await steps.aclose()
        await made.close()


async def test_leaving_closes_the_llms_connection() -> None:
    with StandInLLM(streaming(chunk("First"), hang=True)) as server:
        made = researcher(LLMSettings(base_url=server.base_url))
        steps = made.research_stream(QUESTION)
        assert isinstance(await anext(steps), Context)
        assert await anext(steps) == Token(text="First")
        await steps.aclose()

        assert await asyncio.to_thread(server.left.wait, BOUND_S)
        await made.close()


async def test_a_failure_after_the_start_is_told_and_nothing_follows() -> None:
    with StandInLLM(streaming(chunk("Half"), cut=True)) as server:
        context, token, failed = await steps_of(QUESTION, LLMSettings(base_url=server.base_url))

    assert isinstance(context, Context)
    assert token == Token(text="Half")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, LLMUnreachable)


async def test_a_failure_before_the_start_is_an_error() -> None:
    with pytest.raises(LLMNotConfigured):
        await steps_of(QUESTION, LLMSettings())
    with pytest.raises(LimitExceeded, match="LLM_CONTEXT_TOKENS") as caught:
        await steps_of(ResearchRequest(query="Why?", context_tokens=8_193), LLMSettings(fallback="extractive"))
    assert caught.value.field == "context_tokens"
    with pytest.raises(InvalidInput):
        ResearchRequest(query="Why?", timeout_s=0)


async def test_what_needs_no_llm_is_told_in_the_same_steps() -> None:
    _, token, quoted = await steps_of(QUESTION, LLMSettings(fallback="extractive"))
    _, said, nothing = await steps_of(
        ResearchRequest(query="x?", namespace="empty"), LLMSettings(fallback="extractive")
    )
    _, prompt = await steps_of(ResearchRequest(query="Brightwater?", context_only=True), LLMSettings())

    assert isinstance(quoted, Answer)
    assert token == Token(text=quoted.result)
    assert quoted.result.startswith(NOTICE)
    assert said == Token(text=ABSTAINED)
    assert isinstance(nothing, Answer)
    assert nothing.abstained
    assert isinstance(prompt, Answer)
    assert prompt.prompt


@pytest.mark.parametrize("is_stream", [False, True])
async def test_on_request_a_failing_llm_leaves_the_passages_and_says_so(
    is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    request = ResearchRequest(query=QUESTION.query, on_llm_error="context")
    with StandInLLM(hanging) as server, caplog.at_level(logging.INFO):
        server.kill()
        settings = LLMSettings(base_url=server.base_url)
        answer = (await steps_of(request, settings))[-1] if is_stream else await answer_of(request, settings)

    assert isinstance(answer, Answer)
    assert (answer.degraded, answer.result, answer.model, answer.citations) == (True, "", None, ())
    assert [passage.key for passage in answer.context] == ["budget-1", "budget-2"]
    assert answer.llm_error is not None
    assert answer.llm_error.code == LLMNotConnected.code
    assert "cannot be reached" in answer.llm_error.message
    assert any(getattr(record, "degraded", False) for record in caplog.records)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_on_request_no_llm_at_all_leaves_the_passages_too(is_stream: bool) -> None:
    request = ResearchRequest(query=QUESTION.query, on_llm_error="context")
    answer = (await steps_of(request, LLMSettings()))[-1] if is_stream else await answer_of(request, LLMSettings())

    assert isinstance(answer, Answer)
    assert answer.degraded
    assert answer.llm_error is not None
    assert answer.llm_error.code == "llm_not_configured"


async def test_a_window_that_ends_before_max_tokens_shows_as_truncated() -> None:
    """vLLM shortens the output in silence to what is left of the window, and says `length` as for max_tokens."""
    short = {"prompt_tokens": 8_136, "completion_tokens": 56, "total_tokens": 8_192}
    body = completion("x", choices=[{"message": {"content": "It is"}, "finish_reason": "length"}], usage=short)
    events = [chunk("It is"), chunk(finish_reason="length"), chunk(choices=[], usage=short), "[DONE]"]
    request = ResearchRequest(query=QUESTION.query, max_tokens=500)
    with StandInLLM(replying(json.dumps(body))) as whole, StandInLLM(streaming(*events)) as streams:
        once = await answer_of(request, LLMSettings(base_url=whole.base_url))
        last = (await steps_of(request, LLMSettings(base_url=streams.base_url)))[-1]

    assert isinstance(last, Answer)
    assert (once.truncated, last.truncated) == (True, True)
    assert (once.completion_tokens, last.completion_tokens) == (56, 56)


async def test_the_budgets_of_a_request_are_kept() -> None:
    with StandInLLM(answering("62,000 [1].")) as server:
        settings = LLMSettings(base_url=server.base_url)
        one = await answer_of(ResearchRequest(query="Brightwater budget?", passages=1), settings)
        small = await answer_of(ResearchRequest(query="Brightwater?", context_tokens=1_024, max_tokens=100), settings)

    assert [(p.key, left.key, left.reason) for p in one.context for left in one.omitted] == [
        (one.context[0].key, one.omitted[0].key, "passages")
    ]
    assert small.context
    assert one.tokens_counted == "estimate"


async def test_the_time_of_a_request_is_its_own() -> None:
    with StandInLLM(hanging) as server:
        request = ResearchRequest(query=QUESTION.query, timeout_s=1)
        async with asyncio.timeout(BOUND_S):
            steps = await steps_of(request, LLMSettings(base_url=server.base_url, timeout_s=300))

    assert isinstance(steps[-1], Failed)
    assert "within" in steps[-1].error.message


async def test_usage_that_a_stream_leaves_out_makes_the_cost_unknown() -> None:
    with StandInLLM(streaming(chunk("Yes."), chunk(finish_reason="stop"))) as server:
        answer = (await steps_of(QUESTION, LLMSettings(base_url=server.base_url, input_price=1.0)))[-1]

    assert isinstance(answer, Answer)
    assert (answer.tokens_used, answer.cost) == (0, None)


async def test_verdicts_come_as_soon_as_a_sentence_is_whole_while_the_model_goes_on() -> None:
    with StandInLLM(
        streaming(chunk("The budget is 62,000 euro [1]. And the key of the cabinet is "), hang=True)
    ) as server:
        made = researcher(LLMSettings(base_url=server.base_url))
        steps = made.research_stream(QUESTION)
        async with asyncio.timeout(BOUND_S):
            assert isinstance(await anext(steps), Context)
            assert isinstance(await anext(steps), Token)
            cited = await anext(steps)
        assert isinstance(cited, Cited)
        assert (cited.citation.n, cited.citation.answer_span) == (1, (0, 30))
        await steps.aclose()
        await made.close()
