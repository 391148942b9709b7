"""What a job is translated into, and what becomes of the answer."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.errors import status_of
from gateway.runpod.jobs import RESULT_BYTES_MAX, JobRunner, _output, actions, translated
from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.stand_in_llm import StandInLLM, answering, chunk, hanging, stream_of, streaming
from vector_memory.errors import InvalidInput, LimitExceeded, ServiceError
from vector_memory.operations import OPERATIONS

WITHOUT_ACTION = ("/health/", "/metrics", "/v1/tools/", "/v1/chat/", "/v1/embeddings", "/v1/models")
"""Beginnings of paths that probes, scrapers or OpenAI's clients call, and of what `invoke_tool` calls."""


def worker(folder: Path, **llm: Any) -> Worker:
    memory = MemorySettings(data_dir=folder / "memory")
    return Worker(Settings(memory=memory, gateway=GatewaySettings(), llm=LLMSettings(**llm)))


def loaded(folder: Path, **llm: Any) -> Worker:
    loaded = worker(folder, **llm)
    loaded.load()
    return loaded


def job(input: object, id: str = "job-1") -> dict[str, Any]:
    return {"id": id, "input": input}


def run(worker: Worker, *inputs: object) -> list[Any]:
    """The outputs of jobs that run one after another in a loop of their own, as the SDK's is."""

    async def all_of_them() -> list[Any]:
        runner = JobRunner(worker)
        return [await runner.run(job(input, f"job-{n}")) for n, input in enumerate(inputs)]

    return asyncio.run(all_of_them())


def error_of(output: dict[str, Any]) -> dict[str, Any]:
    assert list(output) == ["error"]
    error: dict[str, Any] = json.loads(output["error"])
    return error


# -- translation ---------------------------------------------------------------------------------------------------


def test_the_actions_are_the_routes_of_the_application(tmp_path: Path) -> None:
    paths = create_app(worker(tmp_path)).openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}

    of_actions = {(OPERATIONS[name].method, OPERATIONS[name].path) for name in actions() if name in OPERATIONS}
    of_tools = {("POST", "/v1/tools"), ("GET", "/ping")}
    assert of_actions | of_tools == {
        (method, path) for method, path in routes if path != "/" and not path.startswith(WITHOUT_ACTION)
    }


def test_the_fields_of_an_action_are_the_body_of_its_post() -> None:
    request = translated(job({"action": "store", "content": "x", "key": "k"}))

    assert (request.method, request.url.path) == ("POST", "/v1/memories")
    assert json.loads(request.content) == {"content": "x", "key": "k"}


def test_the_fields_of_a_listing_are_its_query_and_null_is_absent() -> None:
    request = translated(job({"action": "list", "limit": 7, "filter": {"lead": "acme"}, "cursor": None}))

    assert dict(request.url.params) == {"limit": "7", "filter": '{"lead": "acme"}'}
    assert request.content == b""


@pytest.mark.parametrize("fields", [{"keys": ["a"]}, {"filter": {"lead": "acme"}}])
def test_a_delete_of_many_is_known_by_its_fields(fields: dict[str, Any]) -> None:
    assert translated(job({"action": "delete", **fields})).url.path == "/v1/memories/delete"


def test_a_write_goes_by_the_jobs_id_unless_it_names_an_idempotency_key() -> None:
    by_id = translated(job({"action": "store", "content": "x"}, "job-7"))
    by_field = translated(job({"action": "store", "content": "x", "idempotency_key": "mine"}, "job-7"))
    route = {"method": "POST", "path": "/v1/memories", "body": {}}
    by_header = translated(job({**route, "headers": {"Idempotency-Key": "mine"}}, "job-7"))

    assert by_id.headers["idempotency-key"] == by_id.headers["x-request-id"] == "job-7"
    assert by_field.headers.get_list("idempotency-key") == ["mine"]
    assert by_header.headers.get_list("idempotency-key") == ["mine"]


def test_the_sdks_test_jobs_share_an_id_so_it_is_no_idempotency_key() -> None:
    request = translated(job({"action": "store", "content": "x"}, "local_test"))

    assert "idempotency-key" not in request.headers


def test_headers_that_describe_the_bytes_are_not_the_callers() -> None:
    sent = {"Content-Length": "1", "Content-Type": "text/plain", "Host": "elsewhere", "Transfer-Encoding": "chunked"}

    request = translated(job({"method": "POST", "path": "/v1/memories", "body": {"content": "x"}, "headers": sent}))

    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == "worker"
    assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize(
    ("input", "field"),
    [
        (None, "input"),
        ("store", "input"),
        ({}, "input"),
        ({"action": None}, "action"),
        ({"action": ["store"]}, "action"),
        ({"action": "get"}, "key"),
        ({"action": "delete"}, "key"),
        ({"action": "get", "key": 7}, "key"),
        ({"action": "get", "key": "half \udc00"}, "key"),
        ({"action": "list", "cursor": "half \udc00"}, "input"),
        ({"action": "list", "cursor": "long" * 20_000}, "path"),
        ({"action": "store", "content": float("inf")}, "input"),
        ({"action": "store", "content": "x", "idempotency_key": 7}, "idempotency_key"),
        ({"path": "/ping"}, "method"),
        ({"method": "GET"}, "path"),
        ({"method": "GET", "path": 7}, "path"),
        ({"method": "GET", "path": "ping"}, "path"),
        ({"method": "GET", "path": "http://elsewhere/ping"}, "path"),
        ({"method": "GET", "path": "/v1/memories?limit=1"}, "path"),
        ({"method": "GET", "path": "/ping", "query": "limit=1"}, "query"),
        ({"method": "GET", "path": "/ping", "headers": {"x": 1}}, "headers.x"),
        ({"method": "GET", "path": "/ping", "content": "x"}, "content"),
    ],
)
def test_an_input_of_no_shape_is_refused_by_the_name_of_its_field(input: object, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        translated(job(input))

    assert refused.value.field == field


def test_a_body_nested_beyond_reason_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(InvalidInput, match="nested"):
        translated(job({"action": "store", "metadata": nested}))


@pytest.mark.parametrize("sent", [{}, {"openai_input": None}, {"openai_input": {}}])
def test_openais_models_are_read_and_all_else_of_openais_is_posted(sent: dict[str, Any]) -> None:
    models = translated(job({"openai_route": "/v1/models/meta-llama/Llama", **sent}))
    chat = translated(job({"openai_route": "/v1/chat/completions", "openai_input": {"messages": []}}))

    assert (models.method, models.url.path, models.content) == ("GET", "/v1/models/meta-llama/Llama", b"")
    assert (chat.method, chat.url.path, json.loads(chat.content)) == ("POST", "/v1/chat/completions", {"messages": []})


@pytest.mark.parametrize("route", [None, 7, "", "v1/models", "/v1/models?x=1"])
def test_an_openai_route_is_a_path(route: object) -> None:
    with pytest.raises(InvalidInput, match="openai_route"):
        translated(job({"openai_route": route}))


@pytest.mark.parametrize(
    "input",
    [
        {"openai_route": "/v1/chat/completions", "openai_input": {"messages": [], "stream": True}},
        {"action": "research", "query": "x", "stream": True},
        {"method": "POST", "path": "/v1/research", "body": {"query": "x", "stream": True}},
    ],
)
def test_a_chat_and_research_may_stream_where_jobs_can(input: dict[str, Any]) -> None:
    streamed = job(input)

    assert translated(streamed, may_stream=True).url.path in ("/v1/chat/completions", "/v1/research")
    with pytest.raises(InvalidInput, match="MEMORY_JOB_STREAMING"):
        translated(streamed)


def test_the_output_of_an_openai_route_is_a_list_and_its_failure_an_error_as_ever(tmp_path: Path) -> None:
    with StandInLLM(answering("Fine.")) as llm:
        question = {"messages": [{"role": "user", "content": "Hello."}]}
        chat, models, vectors, unknown, refused = run(
            loaded(tmp_path, base_url=llm.base_url),
            {"openai_route": "/v1/chat/completions", "openai_input": question},
            {"openai_route": "/v1/models", "openai_input": {}},
            {"openai_route": "/v1/embeddings", "openai_input": {"model": "all-MiniLM-L6-v2", "input": "x"}},
            {"openai_route": "/v1/chat/completions", "openai_input": {**question, "model": "gpt-4o"}},
            {"openai_route": "/v1/chat/completions"},
        )

    assert chat[0]["choices"][0]["message"]["content"] == "Fine."
    assert [model["object"] for model in models[0]["data"]] == ["model", "model"]
    assert len(vectors[0]["data"][0]["embedding"]) == 384
    assert (error_of(unknown)["code"], error_of(unknown)["status"]) == ("model_not_found", 404)
    assert (error_of(refused)["code"], error_of(refused)["status"]) == ("invalid", 400)


async def test_where_jobs_stream_a_chat_comes_in_events_and_all_else_as_one_item(tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "Hello."}], "stream": True}
    with StandInLLM(streaming(*stream_of("Fi", "ne."))) as llm:
        runner = JobRunner(await asyncio.to_thread(loaded, tmp_path, base_url=llm.base_url))
        chat = job({"openai_route": "/v1/chat/completions", "openai_input": question})
        events = [item async for item in runner.stream(chat)]
        ping = [item async for item in runner.stream(job({"action": "ping"}))]
        missing = [item async for item in runner.stream(job({"action": "get", "key": "nobody"}))]

    assert all(isinstance(item, str) and item.startswith("data: ") and item.endswith("\n\n") for item in events)
    *chunks, done = "".join(map(str, events)).strip().split("\n\n")
    said = [json.loads(one.removeprefix("data: "))["choices"] for one in chunks]
    assert "".join(choices[0]["delta"].get("content", "") for choices in said if choices) == "Fine."
    assert done == "data: [DONE]"
    assert [item["status"] for item in ping if isinstance(item, dict)] == ["healthy"]
    assert [error_of(item)["code"] for item in missing if isinstance(item, dict)] == ["not_found"]


def test_a_stream_that_is_asked_for_by_another_spelling_of_its_path_is_no_output_of_a_job(tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "Hello."}], "stream": True}
    with StandInLLM(streaming(*stream_of("Fine."))) as llm:
        [output] = run(
            loaded(tmp_path, base_url=llm.base_url),
            {"openai_route": "/v1/chat/%63ompletions", "openai_input": question},
        )

    assert "JSON" in error_of(output)["message"]


async def test_whoever_stops_reading_a_stream_ends_the_llms_work(tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "Hello."}], "stream": True}
    with StandInLLM(streaming(chunk("Fi"), hang=True)) as llm:
        runner = JobRunner(await asyncio.to_thread(loaded, tmp_path, base_url=llm.base_url))
        items = runner.stream(job({"openai_route": "/v1/chat/completions", "openai_input": question}))
        assert "Fi" in str(await anext(items))
        await items.aclose()
        assert await asyncio.to_thread(llm.left.wait, 20)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_key_leads_to_another_path(key: str) -> None:
    path = translated(job({"action": "delete", "key": key})).url.raw_path

    assert path.startswith(b"/v1/memories/")
    assert path.count(b"/") == 3


# -- answers -------------------------------------------------------------------------------------------------------


async def test_a_job_and_a_request_get_the_same_body(tmp_path: Path) -> None:
    served = loaded(tmp_path)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(served)), base_url="http://test")
    runner = JobRunner(served)

    stored = await runner.run(job({"action": "store", "content": "Bo sails.", "key": "bo"}))
    found = await runner.run(job({"action": "list"}))
    missing = await runner.run(job({"action": "get", "key": "nobody"}))

    unchanged = (await http.post("/v1/memories", json={"content": "Bo sails.", "key": "bo"})).json()
    answered = await http.get("/v1/memories/nobody", headers={"X-Request-ID": "job-1"})
    assert stored == {**unchanged, "status": "stored"}
    assert found == (await http.get("/v1/memories")).json()
    assert error_of(missing) == {**answered.json()["error"], "status": answered.status_code}
    await served.close()


@pytest.mark.parametrize("key", [".", "..", "a/b", "../list", "a?b=c", "a%2Fb", "ключ", " ", "#"])
def test_a_memory_is_found_by_whatever_key_it_was_stored(tmp_path: Path, key: str) -> None:
    stored, got, deleted = run(
        loaded(tmp_path),
        {"action": "store", "content": "x", "key": key},
        {"action": "get", "key": key},
        {"action": "delete", "key": key},
    )

    assert stored["key"] == got["key"] == deleted["key"] == key


def test_the_end_of_the_loop_closes_the_worker(tmp_path: Path) -> None:
    served = loaded(tmp_path)

    run(served, {"action": "ping"})

    assert not served.is_ready


async def test_a_job_that_comes_while_the_worker_loads_waits_for_it(tmp_path: Path) -> None:
    loading = worker(tmp_path)
    answer = asyncio.create_task(JobRunner(loading).run(job({"action": "ping"})))
    await asyncio.sleep(0)  # the job begins

    await asyncio.to_thread(loading.load)

    assert (await answer)["status"] == "healthy"
    await loading.close()


def test_a_job_for_a_worker_that_could_not_load_fails_at_once(tmp_path: Path) -> None:
    failed = loaded(tmp_path / "no" / "volume")

    errors = [error_of(output) for output in run(failed, {"action": "health"}, {"action": "list"}, {"action": "ping"})]

    assert [(error["code"], error["status"]) for error in errors] == [("unavailable", 503)] * 3


async def test_a_cancelled_job_stays_cancelled(tmp_path: Path) -> None:
    """The SDK would report a job that swallows its cancellation as completed."""
    asked = threading.Event()

    async def hang(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await hanging(writer)

    with StandInLLM(hang) as llm:
        served = loaded(tmp_path, base_url=llm.base_url)
        runner = JobRunner(served)
        await runner.run(job({"action": "store", "content": "Bo sails."}))

        running = asyncio.create_task(runner.run(job({"action": "research", "query": "Who sails?"}, "job-2")))
        assert await asyncio.to_thread(asked.wait, 30)
        running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running
        await served.close()


def test_every_error_of_the_service_has_a_status_for_jobs_too() -> None:
    def tree(error: type[ServiceError]) -> set[type[ServiceError]]:
        return {error}.union(*map(tree, error.__subclasses__()))

    assert all(status_of(error()) >= 400 for error in tree(ServiceError))


def test_a_result_that_runpod_would_not_carry_is_refused() -> None:
    fits = json.dumps({"memories": "x" * (RESULT_BYTES_MAX - 100)}).encode()
    grows = json.dumps({"keys": ["x" * 99_996] * 200}, separators=(",", ":")).encode()

    assert _output(200, fits, "job-1")
    with pytest.raises(LimitExceeded, match="smaller k or limit"):
        _output(200, b"x" * (RESULT_BYTES_MAX + 1), "job-1")
    with pytest.raises(LimitExceeded):  # within bounds as the application sends it, not as the SDK posts it
        _output(200, grows, "job-1")


def test_an_answer_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        _output(200, b"<html>", "job-1")


def test_the_documented_jobs_succeed_in_their_order(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "runpod.md").read_text(encoding="utf-8")
    block = page.split("```jsonl\n")[1].split("```")[0]
    inputs = [json.loads(line)["input"] for line in block.splitlines()]

    outputs = run(loaded(tmp_path, fallback="extractive"), *inputs)

    assert {input["action"] for input in inputs if "action" in input} == set(actions()) - {"receipt", "trace", "replay"}
    assert [output for output in outputs if "error" in output] == []


def test_a_receipt_is_redeemed_by_a_job(tmp_path: Path) -> None:
    worker = loaded(tmp_path)
    _, deleted = run(
        worker, {"action": "store", "content": "a", "key": "k"}, {"action": "delete", "key": "k", "receipt": True}
    )
    id = deleted["receipt"]["id"]

    redeemed, unknown = run(loaded(tmp_path), {"action": "receipt", "receipt": id}, {"action": "receipt"})

    assert redeemed == deleted["receipt"]
    assert error_of(unknown)["field"] == "receipt"
