"""Streamed research over a real port, as server-sent events."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.http import event_stream
from gateway.runpod.jobs import translated
from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.stand_in_llm import StandInLLM, chunk, hanging, replying, stream_of, streaming
from vector_memory.errors import InvalidInput

BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."
QUESTION = {"query": "What is the budget at Brightwater?", "stream": True}
BOUND_S = 20.0


@asynccontextmanager
async def serving(folder: Path, **llm: object) -> AsyncIterator[httpx.AsyncClient]:
    """A worker with one memory behind uvicorn on a free port."""
    worker = Worker(
        Settings(
            memory=MemorySettings(data_dir=folder / "memory"),
            gateway=GatewaySettings(),
            llm=LLMSettings.model_validate(llm),
        )
    )
    await asyncio.to_thread(worker.load)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(worker), log_config=None))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=BOUND_S) as client:
                response = await client.post("/v1/memories", json={"content": BUDGET, "key": "budget"})
                assert response.status_code in (200, 201)
                yield client
        finally:
            server.should_exit = True
            await task


def events_of(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        match block.split("\n"):
            case [name, data]:
                found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_events_are_context_tokens_and_the_answer_of_the_route_without_stream(tmp_path: Path) -> None:
    with StandInLLM(streaming(*stream_of("62,000\n", "\u2028euros [1]."))) as server:
        async with serving(tmp_path, base_url=server.base_url) as client:
            response = await client.post("/v1/research", json=QUESTION)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"]
    (first, context), *tokens, (last, answer) = events_of(response.text)
    assert (first, last) == ("context", "answer")
    assert [p["key"] for p in context["context"]] == ["budget"]
    *tokens, (cited, citation) = tokens
    assert tokens == [("token", {"text": "62,000\n"}), ("token", {"text": "\u2028euros [1]."})]
    assert (cited, [citation]) == ("citation", answer["citations"])
    assert answer["result"] == "62,000\n\u2028euros [1]."
    assert [c["key"] for c in answer["citations"]] == ["budget"]
    assert (answer["endpoint"], answer["degraded"], answer["cost"]) == ("primary", False, None)
    assert answer["context"] == context["context"]


async def test_an_error_before_the_first_event_keeps_its_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        refused = await client.post("/v1/research", json=QUESTION | {"passages": 0})
        unset = await client.post("/v1/research", json=QUESTION)

    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "passages")
    assert (unset.status_code, unset.json()["error"]["code"]) == (500, "llm_not_configured")


async def test_an_error_afterwards_is_an_event_in_the_shape_of_every_error(tmp_path: Path) -> None:
    with StandInLLM(streaming(chunk("Half"), cut=True)) as server:
        async with serving(tmp_path, base_url=server.base_url) as client:
            response = await client.post("/v1/research", json=QUESTION, headers={"X-Request-ID": "req-7"})

    *_, (name, data) = events_of(response.text)
    assert (response.status_code, name) == (200, "error")
    assert data["error"]["code"] == "upstream"
    assert data["error"]["request_id"] == "req-7"
    assert "broke the connection off" in data["error"]["message"]


async def test_while_the_llm_is_silent_the_connection_is_kept_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream.stream_response, "__kwdefaults__", {"heartbeat_s": 0.05})
    with StandInLLM(hanging) as server:
        async with serving(tmp_path, base_url=server.base_url) as client:
            async with client.stream("POST", "/v1/research", json=QUESTION) as response:
                heard = ""
                async for text in response.aiter_text():
                    heard += text
                    if heard.count(": waiting\n\n") >= 2:
                        break
            assert await asyncio.to_thread(server.left.wait, BOUND_S)

    assert heard.startswith("event: context\n")


@pytest.mark.parametrize("script", [hanging, streaming(chunk("First"), hang=True)], ids=["before", "after"])
async def test_a_client_that_goes_away_ends_the_llms_work(tmp_path: Path, script: Any) -> None:
    with StandInLLM(script) as server:
        async with serving(tmp_path, base_url=server.base_url) as client:
            async with client.stream("POST", "/v1/research", json=QUESTION) as response:
                await anext(response.aiter_text())
                await server.arrived()
            assert await asyncio.to_thread(server.left.wait, BOUND_S)


async def test_a_starting_endpoint_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    cold = {
        "/v2/abc123/health": replying('{"workers": {"idle": 0, "ready": 0, "running": 0, "initializing": 1}}'),
        "/v2/abc123/run": replying('{"id": "j-1", "status": "IN_QUEUE"}'),
        "/v2/abc123/status/j-1": replying('{"id": "j-1", "status": "IN_QUEUE"}'),
    }
    with StandInLLM(hanging, cold) as server:
        async with serving(tmp_path, base_url=server.runpod_url) as client:
            response = await client.post("/v1/research", json={"query": "What budget?", "timeout_s": 1.5})

    assert (response.status_code, response.headers["retry-after"]) == (503, "15")
    assert "starting" in response.json()["error"]["message"]


async def test_on_request_a_failing_llm_is_a_200_with_the_passages(tmp_path: Path) -> None:
    with StandInLLM(replying("", status=503)) as server:
        async with serving(tmp_path, base_url=server.base_url) as client:
            response = await client.post("/v1/research", json={"query": "What budget?", "on_llm_error": "context"})

    body = response.json()
    assert (response.status_code, body["degraded"], body["result"]) == (200, True, "")
    assert body["llm_error"]["code"] == "upstream"
    assert [p["key"] for p in body["context"]] == ["budget"]


@pytest.mark.parametrize(
    "input",
    [
        {"action": "research", **QUESTION},
        {"method": "POST", "path": "/v1/research", "body": QUESTION},
    ],
)
def test_a_job_cannot_stream(input: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="leave stream out") as caught:
        translated({"id": "j-1", "input": input})

    assert caught.value.field == "stream"
