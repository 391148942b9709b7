"""Filling the window by a server's own count of tokens, in both dialects of /tokenize, or by the estimate."""

import itertools
import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.tokens import TEMPLATE_TOKENS
from research.context.budget import FilledPrompt, fill, plan
from research.context.prompt import build
from research.llm.client import LLMClient
from research.llm.counting import Count, TokenCounter
from research.llm.settings import LLMSettings
from tests.list_recall import hits
from tests.stand_in_llm import Script, StandInLLM, hanging, in_turn, replying
from vector_memory.errors import LimitExceeded
from vector_memory.research import ChatMessage

MESSAGES: tuple[ChatMessage, ...] = ({"role": "system", "content": "Rules."}, {"role": "user", "content": "Why?"})
VLLM = replying(json.dumps({"count": 41, "max_model_len": 4_096, "tokens": [1] * 41}))
LLAMA_CPP = replying('{"tokens": [1, 2, 3]}')
QUESTION = "What do the memories say?"
TEXTS = [f"{i}: " + "The quick brown fox jumps over the lazy dog. " * 6 for i in range(40)]


async def counts(
    script: Script, times: int = 1, clock: Callable[[], float] = lambda: 0.0, props: Script | None = None
) -> tuple[list[Count | None], StandInLLM]:
    with StandInLLM(hanging, {"/tokenize": script} | ({} if props is None else {"/props": props})) as server:
        made = LLMSettings(base_url=server.base_url, model="m-8b")
        assert made.endpoint is not None
        llm = LLMClient(made.endpoint, made)
        counter = TokenCounter(llm, made.endpoint.root_url, now=clock)
        found = [await counter.count(MESSAGES) for _ in range(times)]
        await llm.close()
    return found, server


async def test_vllm_counts_messages_with_its_template_and_tells_its_window() -> None:
    found, server = await counts(VLLM, times=2)

    assert found == [Count(41, 4_096)] * 2
    assert [request.body for request in server.other_requests] == [{"model": "m-8b", "messages": list(MESSAGES)}] * 2


async def test_llama_cpp_counts_text_and_the_template_is_added() -> None:
    found, server = await counts(LLAMA_CPP, times=2)

    assert found == [Count(3 + TEMPLATE_TOKENS, None)] * 2
    tokenized = [request for request in server.other_requests if request.path == "/tokenize"]
    assert [list(request.body) for request in tokenized] == [["model", "messages"], ["content"], ["content"]]


@pytest.mark.parametrize(
    ("props", "window"),
    [
        pytest.param(replying('{"default_generation_settings": {"n_ctx": 8192}, "total_slots": 2}'), 8_192, id="told"),
        pytest.param(replying('{"default_generation_settings": {"n_ctx": 0}}'), None, id="nothing"),
        pytest.param(replying('{"default_generation_settings": {"n_ctx": "8192"}}'), None, id="text"),
        pytest.param(replying("[]"), None, id="a list"),
        pytest.param(replying('{"error": {}}', status=401), None, id="closed"),
        pytest.param(hanging, None, id="slow"),
    ],
)
async def test_llama_cpp_tells_once_how_much_a_slot_holds(props: Script, window: int | None) -> None:
    found, server = await counts(LLAMA_CPP, times=2, props=props)

    assert found == [Count(3 + TEMPLATE_TOKENS, window)] * 2
    assert [request.path for request in server.other_requests].count("/props") == 1


async def test_a_llama_cpp_that_was_away_is_asked_again_how_much_a_slot_holds() -> None:
    told = '{"default_generation_settings": {"n_ctx": %d}}'
    found, _ = await counts(
        in_turn(LLAMA_CPP, LLAMA_CPP, hanging, LLAMA_CPP),
        times=3,
        clock=itertools.count(0.0, 60.0).__next__,
        props=in_turn(replying(told % 8_192), replying(told % 2_048)),
    )

    assert [one and one.window for one in found] == [8_192, None, 2_048]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(replying('{"detail": "Not Found"}', status=404), id="absent"),
        pytest.param(replying("<html>"), id="page"),
        pytest.param(replying('{"count": 0}'), id="nothing"),
        pytest.param(replying('{"count": "41"}'), id="text"),
        pytest.param(replying('{"tokens": []}'), id="empty list"),
        pytest.param(replying("", status=503), id="busy"),
        pytest.param(hanging, id="slow"),
    ],
)
async def test_a_server_that_does_not_count_is_not_asked_again_for_a_while(script: Script) -> None:
    found, server = await counts(script, times=3)

    assert found == [None] * 3
    assert len(server.other_requests) <= 2, "the second is llama.cpp's dialect"


def by_words(per_word: float, frame: int = 40) -> object:
    """A server whose tokens are words, and that is asked so often."""

    async def count(messages: Sequence[ChatMessage]) -> Count:
        return Count(round(per_word * sum(len(m["content"].split()) for m in messages)) + frame, None)

    return count


async def filled(
    texts: Sequence[str], *, window_tokens: int, answer_tokens: int = 500, count: object = None
) -> FilledPrompt:
    budget = plan(QUESTION, window_tokens=window_tokens, answer_tokens=answer_tokens)
    return await fill(budget, hits(*texts), count)  # type: ignore[arg-type]


async def test_without_a_count_the_estimate_stands_and_says_so() -> None:
    async def silent(_messages: Sequence[ChatMessage]) -> None:
        return None

    alone = await filled(TEXTS, window_tokens=2_048)

    assert alone.tokens_counted == "estimate"
    assert await filled(TEXTS, window_tokens=2_048, count=silent) == alone


async def test_a_count_lets_in_what_the_estimate_kept_out() -> None:
    estimated = await filled(TEXTS, window_tokens=2_048)
    counted = await filled(TEXTS, window_tokens=2_048, count=by_words(1.1))

    assert counted.tokens_counted == "server"
    assert len(counted.packed.passages) > 1.2 * len(estimated.packed.passages)


async def test_a_count_keeps_out_what_the_estimate_let_in() -> None:
    counted = await filled(TEXTS, window_tokens=2_048, count=by_words(3.0))

    assert counted.tokens_counted == "server"
    assert 0 < len(counted.packed.passages) < len((await filled(TEXTS, window_tokens=2_048)).packed.passages)


async def test_a_window_that_the_server_says_is_smaller_is_kept() -> None:
    async def small(messages: Sequence[ChatMessage]) -> Count:
        return Count(round(1.3 * sum(len(m["content"].split()) for m in messages)), 1_536)

    counted = await filled(TEXTS, window_tokens=8_192, count=small)

    assert (await small(build(QUESTION, counted.packed.passages))).tokens + 500 <= 1_536
    assert counted.packed.passages


async def test_a_window_of_the_server_without_room_is_refused_with_its_size() -> None:
    async def tiny(_messages: Sequence[ChatMessage]) -> Count:
        return Count(900, 1_024)

    with pytest.raises(LimitExceeded, match="1,024 tokens") as caught:
        await filled(TEXTS, window_tokens=8_192, answer_tokens=2_000, count=tiny)

    assert caught.value.field == "max_tokens"


@pytest.mark.parametrize("chars_per_token", [2.0, 3.0, 4.0, 6.0])
async def test_where_little_room_is_left_a_passage_with_text_fits_or_the_question_is_refused(
    chars_per_token: float,
) -> None:
    """Else an answer said that no memory matched, or the prompt was longer than the window."""

    async def count(messages: Sequence[ChatMessage]) -> Count:
        return Count(round(sum(len(m["content"]) for m in messages) / chars_per_token) + 30, window)

    for window in range(250, 900, 3):
        try:
            found = await filled([TEXTS[0] * 5, TEXTS[1]], window_tokens=8_192, answer_tokens=100, count=count)
        except LimitExceeded:
            continue
        assert found.packed.passages
        assert all(passage.content for passage in found.packed.passages)
        assert (await count(build(QUESTION, found.packed.passages))).tokens + 100 <= window


@given(st.floats(0.2, 3.5), st.integers(0, 300), st.integers(1_500, 6_000), st.integers(0, 40))
async def test_whatever_the_tokenizer_what_it_counts_stays_within_the_window(
    per_word: float, frame: int, window: int, texts: int
) -> None:
    count = by_words(per_word, frame)
    try:
        found = await filled(TEXTS[:texts], window_tokens=window, count=count)
    except LimitExceeded:
        return
    if found.tokens_counted == "server":
        prompt = await count(build(QUESTION, found.packed.passages))  # type: ignore[operator]
        assert prompt.tokens + 500 <= window
    assert len(found.packed.passages) + len(found.packed.omitted) == texts
