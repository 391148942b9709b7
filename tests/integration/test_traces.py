"""Traces of research: whole while their memories are as they were, and without a word of what was deleted."""

import asyncio
import json

import pytest

from gateway.observability.traces import TTL_S, Traces
from gateway.runpod.jobs import JobRunner
from gateway.serving.shelves import LocalShelf
from gateway.serving.worker import Worker
from research.trace import Trace
from tests.integration.test_response_cache import clock, redis_url, serving, settings, store
from tests.stand_in_llm import StandInLLM, answering, stream_of, streaming
from tests.worker_process import free_port
from vector_memory.errors import NotFound
from vector_memory.research import Answer, ResearchRequest
from vector_memory.retrieval import Mode, Retrieved

__all__ = ["clock", "redis_url"]

FACTS = {
    "budget": "The budget of Brightwater is now 62,000 euro.",
    "secret": "The budget of Brightwater was 11,111 euro, which nobody may know.",
    "gate": "Gate 4 opens at six.",
}
QUESTION = {"query": "What is the budget of Brightwater?", "trace": True, "min_relevance": 0}
ANSWER = "It was 11,111 euro, which nobody may know [2]. The budget of Brightwater is now 62,000 euro [1]."
SECRETS = ("11,111", "11111", "nobody may know")


@pytest.fixture
def client(tmp_path, clock):
    with StandInLLM(answering(ANSWER)) as llm, served(tmp_path, llm, clock=clock) as client:
        for key, fact in FACTS.items():
            store(client, fact, key, metadata={"speaker": "Noël 11,111"} if key == "secret" else {})
        yield client


def served(folder, llm, **rest):
    return serving(folder / "memory", llm={"base_url": llm.base_url}, **rest)


def asked(client, **rest):
    response = client.post("/v1/research", json={**QUESTION, **rest})
    assert response.is_success, response.text
    return response.json()


def traced(client, id, **query):
    return client.get(f"/v1/research/{id}", params=query)


def replayed(client, id, **body):
    response = client.post(f"/v1/research/{id}/replay", json=body)
    assert response.is_success, response.text
    return response.json()


def test_a_trace_shows_how_the_answer_came_about(client):
    answer = asked(client)
    trace = traced(client, answer["trace_id"]).json()

    assert trace["answer"] == answer
    assert trace["request"]["query"] == QUESTION["query"]
    assert [one["key"] for one in trace["candidates"]] == [one["key"] for one in answer["context"]]
    assert all(one["now"] == "unchanged" and one["scores"] for one in trace["candidates"])
    assert trace["explanation"]["terms"]
    assert [one["key"] for one in trace["explanation"]["signals"]] == [one["key"] for one in trace["candidates"]]
    assert [message["role"] for message in trace["prompt"]] == ["system", "user"]
    assert FACTS["secret"] in json.dumps(trace["prompt"][1]["content"])
    assert list(trace["timings_ms"]) == ["retrieve", "pack", "generate", "verify"]
    assert (trace["answer"]["endpoint"], trace["answer"]["tokens_used"]) == ("primary", 120)
    assert trace["withheld"] == []


def test_the_prompt_of_a_trace_is_the_one_that_was_sent(tmp_path):
    with StandInLLM(answering(ANSWER)) as llm, served(tmp_path, llm) as client:
        store(client, FACTS["budget"], "budget")
        trace = traced(client, asked(client)["trace_id"]).json()

    assert trace["prompt"] == llm.requests[0].body["messages"]


def test_without_being_asked_for_there_is_no_trace(client):
    assert asked(client, trace=False)["trace_id"] is None


def test_a_streamed_answer_has_its_trace_too(tmp_path):
    with StandInLLM(streaming(*stream_of(ANSWER))) as llm, served(tmp_path, llm) as client:
        store(client, FACTS["budget"], "budget")
        text = client.post("/v1/research", json={**QUESTION, "stream": True}).text
        answer = json.loads(text.split("event: answer\ndata: ")[1].split("\n")[0])
        assert traced(client, answer["trace_id"]).json()["answer"]["result"] == answer["result"]


@pytest.mark.parametrize("end", ["deleted", "updated", "stored again", "expired"])
def test_no_word_of_a_memory_that_is_gone_or_changed_is_in_its_trace(client, clock, end):
    if end == "expired":
        store(client, FACTS["secret"], "secret", ttl_seconds=60)
    answer = asked(client)
    assert any(word in json.dumps(traced(client, answer["trace_id"]).json()) for word in SECRETS)

    match end:
        case "deleted":
            assert client.delete("/v1/memories/secret").is_success
        case "updated":
            store(client, "Nothing to see here.", "secret")
        case "stored again":
            assert client.delete("/v1/memories/secret").is_success
            store(client, FACTS["secret"], "secret")
        case "expired":
            clock.pass_s(61)
    trace = traced(client, answer["trace_id"]).json()

    shown = json.dumps(trace, ensure_ascii=False)
    assert not [word for word in (*SECRETS, "Noël") if word in shown]
    assert trace["withheld"] == ["secret"]
    assert {one["key"]: one["now"] for one in trace["candidates"]}["secret"] == (
        "updated" if end == "stored again" else end
    )
    assert (trace["prompt"], trace["answer"]["result"]) == (None, None)
    places = {one["key"]: one for one in trace["answer"]["context"]}
    assert places["secret"]["withheld"] is True
    assert places["budget"]["content"] == FACTS["budget"]
    assert any(one["key"] == "secret" and one["withheld"] for one in trace["answer"]["citations"])


def test_what_strict_removed_and_what_came_nearest_goes_with_its_memory(tmp_path):
    with StandInLLM(answering(ANSWER.replace("now", "never"))) as llm, served(tmp_path, llm) as client:
        for key, fact in FACTS.items():
            store(client, fact, key)
        strict = asked(client, strict=True)["trace_id"]
        nothing = asked(client, query="How do volcanoes form?", min_relevance=1)
        assert nothing["nearest"]
        for key in FACTS:
            assert client.delete(f"/v1/memories/{key}").is_success
        shown = json.dumps([traced(client, id).json() for id in (strict, nothing["trace_id"])])

    assert not [word for word in (*SECRETS, "62,000", "Gate 4") if word in shown]


def test_a_trace_is_found_in_its_own_namespace_alone(client):
    store(client, FACTS["budget"], "budget", namespace="mine")
    id = asked(client, namespace="mine")["trace_id"]

    assert traced(client, id, namespace="mine").is_success
    assert traced(client, id).status_code == 404
    assert client.post(f"/v1/research/{id}/replay", json={"namespace": "yours"}).status_code == 404
    assert traced(client, id[:-1] + ("A" if id[-1] != "A" else "B"), namespace="mine").status_code == 404
    assert traced(client, id, namespace="").status_code == 422
    assert len(id) >= 32


def test_other_methods_are_told_which_ones_there_are(client):
    for path, method, allowed in (("x", "DELETE", "GET"), ("x/replay", "GET", "POST")):
        refused = client.request(method, f"/v1/research/{path}")
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


def test_a_replay_of_an_unchanged_namespace_brings_the_same(client):
    answer = asked(client)
    keys = [one["key"] for one in answer["context"]]
    found = replayed(client, answer["trace_id"])

    assert found["then"] == [one["key"] for one in found["now"]] == found["kept"]
    assert sorted(found["then"]) == sorted(keys)
    assert (found["changed"], found["vanished"], found["new"]) == ([], [], [])


def test_a_replay_tells_what_vanished_and_why_and_what_is_new(client, clock):
    store(client, "The budget of Brightwater will soon be over.", "soon", ttl_seconds=60)
    answer = asked(client, k=4)
    assert {one["key"] for one in answer["context"]} == {*FACTS, "soon"}
    store(client, "The budget of Brightwater is now 70,000 euro.", "budget")
    assert client.delete("/v1/memories/secret").is_success
    for n in range(3):
        store(client, f"The budget of Brightwater for part {n} is {n},000 euro.", f"part-{n}")
    clock.pass_s(61)
    found = replayed(client, answer["trace_id"])

    assert found["changed"] == ["budget"]
    assert {one["key"]: one["reason"] for one in found["vanished"]} == {
        "secret": "deleted",
        "soon": "expired",
        "gate": "outranked",
    }
    outranked = next(one for one in found["vanished"] if one["key"] == "gate")
    assert outranked["rank"] == 5
    assert "number 5" in outranked["message"]
    assert {(one["key"], one["reason"]) for one in found["new"]} == {(f"part-{n}", "stored") for n in range(3)}
    assert len(found["now"]) == 4
    assert not any(word in json.dumps(found) for word in SECRETS)


def test_what_was_updated_and_falls_out_is_told_as_updated_and_what_moves_up_as_risen(client):
    answer = asked(client, k=2)
    assert {one["key"] for one in answer["context"]} == {"budget", "secret"}
    store(client, "Something else altogether.", "secret")
    found = replayed(client, answer["trace_id"])

    assert [(one["key"], one["reason"]) for one in found["vanished"]] in ([("secret", "updated")], [])
    assert found["kept"] == ["budget"]
    assert {one["key"]: one["reason"] for one in found["new"]} in ({"gate": "risen"}, {})
    assert bool(found["vanished"]) != bool(found["changed"])


def test_jobs_show_and_replay_traces(tmp_path):
    async def run():
        worker = Worker(settings(tmp_path / "memory", llm={"fallback": "extractive"}))
        worker.load()
        runner = JobRunner(worker)

        async def output(**input):
            return await runner.run({"id": "j", "input": input})

        await output(action="store", content=FACTS["budget"], namespace="mine")
        id = (await output(action="research", namespace="mine", **QUESTION))["trace_id"]
        found = [await output(action=name, trace_id=id, namespace="mine") for name in ("trace", "replay")]
        missing = await output(action="trace", trace_id=id)
        await worker.close()
        return id, found, missing

    id, (trace, replay), missing = asyncio.run(run())
    assert trace["trace_id"] == replay["trace_id"] == id
    assert len(replay["kept"]) == 1
    assert json.loads(missing["error"])["status"] == 404


def test_workers_share_traces_in_redis(tmp_path, redis_url):
    with (
        StandInLLM(answering(ANSWER)) as llm,
        served(tmp_path, llm, redis_url=redis_url) as one,
        served(tmp_path, llm, redis_url=redis_url) as two,
    ):
        for key, fact in FACTS.items():
            store(one, fact, key)
        id = asked(one)["trace_id"]
        assert traced(two, id).json()["withheld"] == []
        assert one.delete("/v1/memories/secret").is_success
        assert traced(two, id).json()["withheld"] == ["secret"]


def test_a_trace_that_redis_does_not_take_has_no_id(tmp_path):
    with (
        StandInLLM(answering(ANSWER)) as llm,
        served(tmp_path, llm, redis_url=f"redis://127.0.0.1:{free_port()}/0") as client,
    ):
        store(client, FACTS["budget"], "budget")
        assert asked(client)["trace_id"] is None


def test_no_trace_is_on_the_volume(client, tmp_path):
    before = {path for path in (tmp_path / "memory").rglob("*") if path.is_file()}
    id = asked(client)["trace_id"]

    files = {path for path in (tmp_path / "memory").rglob("*") if path.is_file()}
    assert files == before
    assert not any(id.encode() in path.read_bytes() for path in files)


def test_a_trace_lasts_an_hour():
    now = [0.0]
    traces = Traces(LocalShelf(TTL_S, now=lambda: now[0]))
    id = traces.keep(_trace())
    now[0] = 3_599.0
    assert traces.find(id, "default")["request"]["query"] == "Why?"
    now[0] = 3_600.0
    with pytest.raises(NotFound, match="an hour"):
        traces.find(id, "default")


def _trace():
    empty = Answer(
        result="",
        model=None,
        tokens_used=0,
        latency_ms=0,
        timestamp="",
        citations=(),
        unknown_citations=(),
        uncited=(),
        removed=(),
        context=(),
        omitted=(),
        abstained=True,
        nearest=(),
        truncated=False,
        prompt=None,
    )
    return Trace(
        request=ResearchRequest(query="Why?"),
        retrieved=Retrieved(hits=(), mode=Mode.DENSE),
        prompt=None,
        answer=empty,
        timings_ms={},
        asked_at_ms=0,
    )
