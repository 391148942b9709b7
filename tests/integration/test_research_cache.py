"""Answers of research from the response cache: the same question to an unchanged namespace costs nothing again."""

import asyncio

import pytest

from tests.integration.test_response_cache import serving, store
from tests.stand_in_llm import StandInLLM, answering, in_turn, replying

QUESTION = {"query": "What does Dana drink?", "min_relevance": 0}
COFFEE = "Dana drinks oat flat white."
ANSWER = "Dana drinks oat flat white [1]."


@pytest.fixture
def llm():
    with StandInLLM(answering(ANSWER)) as llm:
        yield llm


@pytest.fixture
def client(tmp_path, llm):
    with serving(tmp_path / "memory", llm={"base_url": llm.base_url}) as client:
        store(client, COFFEE, "coffee")
        yield client


def ask(client, headers=None, **rest):
    response = client.post("/v1/research", json={**QUESTION, **rest}, headers=headers)
    assert response.is_success, response.text
    return response.json()


def test_the_same_question_is_answered_from_the_cache_says_so_and_asks_no_llm(client, llm):
    first, again = ask(client), ask(client)

    assert "cached" not in first
    assert again.pop("cached") is True
    assert {**first, "latency_ms": 0} == {**again, "latency_ms": 0}
    assert len(llm.requests) == 1


def test_another_question_or_namespace_or_wish_is_another_answer(client, llm):
    ask(client)
    for rest in ({"query": "What does Bo drink?"}, {"k": 3}, {"strict": True}, {"temperature": 0.0}):
        assert "cached" not in ask(client, **rest)
    assert "cached" not in ask(client, namespace="other")
    assert len(llm.requests) == 5, "nothing is asked of the LLM about an empty namespace"


def test_no_cache_makes_a_new_answer_which_is_kept(client, llm):
    ask(client)
    assert "cached" not in ask(client, headers={"Cache-Control": "no-cache"})
    assert len(llm.requests) == 2
    assert ask(client)["cached"] is True


def test_every_change_of_the_namespace_is_seen_at_once(client, llm):
    ask(client)
    store(client, "Dana drinks tea at night.", "tea")
    assert {one["key"] for one in ask(client)["context"]} == {"coffee", "tea"}
    assert client.delete("/v1/memories/coffee").is_success
    answer = ask(client)
    assert {one["key"] for one in answer["context"]} == {"tea"}
    store(client, "Elsewhere it rains.", "rain", namespace="other")
    assert ask(client)["cached"] is True, "another namespace is no matter"
    assert len(llm.requests) == 3


def test_what_leaves_something_behind_or_comes_in_pieces_is_never_answered_from_it(client, llm):
    ask(client)
    assert "cached" not in ask(client, trace=True)
    assert ask(client, trace=True)["trace_id"] != ask(client, trace=True)["trace_id"]
    assert '"cached"' not in client.post("/v1/research", json={**QUESTION, "stream": True}).text
    asked = len(llm.requests)
    assert ask(client, remember=True)["remembered"]
    assert "cached" not in ask(client, remember=True)
    assert len(llm.requests) == asked + 2


def test_a_failure_is_kept_neither_as_an_error_nor_as_a_degraded_answer(tmp_path):
    down = replying("", status=503)
    with (
        StandInLLM(in_turn(down, down, answering(ANSWER))) as llm,
        serving(tmp_path / "memory", llm={"base_url": llm.base_url}) as client,
    ):
        store(client, COFFEE, "coffee")
        assert client.post("/v1/research", json={**QUESTION, "on_llm_error": "context"}).json()["degraded"]
        assert client.post("/v1/research", json=QUESTION).status_code == 503
        answer = ask(client, on_llm_error="context")

    assert (answer["degraded"], answer["result"], "cached" in answer) == (False, ANSWER, False)


def test_what_changes_while_the_llm_works_keeps_the_answer_out_of_the_cache(tmp_path):
    """The answer is of the state before; the next question must not get it."""
    stored = []

    async def script(writer):
        if not stored:
            stored.append(await asyncio.to_thread(store, client, "Dana drinks tea at night.", "tea"))
        await answering(ANSWER)(writer)

    with StandInLLM(script) as llm, serving(tmp_path / "memory", llm={"base_url": llm.base_url}) as client:
        store(client, COFFEE, "coffee")
        assert [one["key"] for one in ask(client)["context"]] == ["coffee"]
        answer = ask(client)

    assert "cached" not in answer
    assert {one["key"] for one in answer["context"]} == {"coffee", "tea"}


def test_without_a_cache_every_question_is_asked(tmp_path, llm):
    with serving(tmp_path / "memory", llm={"base_url": llm.base_url}, cache_ttl_s=0) as client:
        store(client, COFFEE, "coffee")
        ask(client)
        assert "cached" not in ask(client)
    assert len(llm.requests) == 2
