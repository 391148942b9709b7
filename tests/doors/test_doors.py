"""What came in by one door is found by every other, deleted by any, and then gone from all; and all say the same.

A door is an entry in `DOORS`: a function that opens it over a running house, and gives an object with the four verbs of
`Door`. All doors lead to workers that share one data folder.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.runpod.jobs import JobRunner
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.doors.stdio_client import META, StdioClient
from tests.stand_in_platform import QueueWorker, StandInPlatform
from tests.worker_process import WorkerProcess
from vector_memory import Client, Consistency
from vector_memory.errors import NotFound

NAMESPACE = "doors"
AT_ONCE = "0"
"""MEMORY_FOLLOW_INTERVAL_MS of workers whose callers cannot ask for strong reads."""


class Door(Protocol):
    """The four verbs, with JSON as the wire has it; reads see every acknowledged write."""

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]: ...

    def retrieve(self, query: str) -> list[dict[str, Any]]: ...

    def get(self, key: str) -> dict[str, Any] | None:
        """None when there is none."""

    def delete(self, key: str) -> bool:
        """Whether there was one."""


@dataclass(frozen=True, slots=True)
class House:
    """What the doors lead to."""

    folder: Path
    served: WorkerProcess
    platform: StandInPlatform


def memories_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    memories: list[dict[str, Any]] = answer["memories"]
    return memories


class HTTP:
    def __init__(self, house: House) -> None:
        self._http = house.served.http

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return self._ok(
            self._http.post(
                "/v1/memories", json={"content": content, "key": key, "metadata": metadata, "namespace": NAMESPACE}
            )
        )

    def retrieve(self, query: str) -> list[dict[str, Any]]:
        body = {"query": query, "namespace": NAMESPACE, "consistency": "strong"}
        return memories_of(self._ok(self._http.post("/v1/memories/retrieve", json=body)))

    def get(self, key: str) -> dict[str, Any] | None:
        params = {"namespace": NAMESPACE, "consistency": "strong"}
        answer = self._http.get(f"/v1/memories/{key}", params=params)
        return None if answer.status_code == 404 else self._ok(answer)

    def delete(self, key: str) -> bool:
        answer = self._http.delete(f"/v1/memories/{key}", params={"namespace": NAMESPACE})
        return answer.status_code != 404 and bool(self._ok(answer))

    def _ok(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


class Jobs:
    """Actions, by whatever runs a job's input to its output."""

    def __init__(self, run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._run = run

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return self._ok({"action": "store", "content": content, "key": key, "metadata": metadata})

    def retrieve(self, query: str) -> list[dict[str, Any]]:
        return memories_of(self._ok({"action": "retrieve", "query": query, "consistency": "strong"}))

    def get(self, key: str) -> dict[str, Any] | None:
        return self._there({"action": "get", "key": key, "consistency": "strong"})

    def delete(self, key: str) -> bool:
        return self._there({"action": "delete", "key": key}) is not None

    def _there(self, input: dict[str, Any]) -> dict[str, Any] | None:
        output = self._run({**input, "namespace": NAMESPACE})
        if "error" in output:
            assert json.loads(output["error"])["code"] == "not_found"
            return None
        return output

    def _ok(self, input: dict[str, Any]) -> dict[str, Any]:
        output = self._run({**input, "namespace": NAMESPACE})
        assert "error" not in output, output
        return output


class OfClient:
    def __init__(self, client: Client) -> None:
        self._client = client

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return self._client.store(content, key=key, metadata=metadata, namespace=NAMESPACE).body()

    def retrieve(self, query: str) -> list[dict[str, Any]]:
        found = self._client.retrieve(query, namespace=NAMESPACE, consistency=Consistency.STRONG)
        return [hit.body() for hit in found.hits]

    def get(self, key: str) -> dict[str, Any] | None:
        with contextlib.suppress(NotFound):
            return self._client.get(key, namespace=NAMESPACE, consistency="strong").body()
        return None

    def delete(self, key: str) -> bool:
        with contextlib.suppress(NotFound):
            return self._client.delete(key, namespace=NAMESPACE).key == key
        return False


class CommandLine:
    def __init__(self, house: House) -> None:
        self._url = f"http://127.0.0.1:{house.served.port}"

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return self._ok("store", content, "--key", key, "--metadata", json.dumps(metadata))

    def retrieve(self, query: str) -> list[dict[str, Any]]:
        return memories_of(self._ok("retrieve", query, "--strong"))

    def get(self, key: str) -> dict[str, Any] | None:
        return self._run("get", key, "--strong")

    def delete(self, key: str) -> bool:
        return self._run("delete", key) is not None

    def _ok(self, *arguments: str) -> dict[str, Any]:
        output = self._run(*arguments)
        assert output is not None, arguments
        return output

    def _run(self, *arguments: str) -> dict[str, Any] | None:
        done = CliRunner().invoke(app, [*arguments, "-n", NAMESPACE, "--json", "--url", self._url])
        assert done.exit_code in (0, 3), done.output
        if done.exit_code == 3:
            return None
        output: dict[str, Any] = json.loads(done.stdout)
        return output


class Tools:
    """The tools, by whatever calls one: its result, or None and a sentence where it failed.

    They take no consistency: the workers behind them look for others' writes before every call.
    """

    def __init__(self, call: Callable[[str, dict[str, Any]], tuple[dict[str, Any] | None, str]]) -> None:
        self._call = call

    def store(self, content: str, key: str, metadata: dict[str, Any]) -> dict[str, Any]:
        return self._ok("store_memory", content=content, key=key, metadata=metadata)

    def retrieve(self, query: str) -> list[dict[str, Any]]:
        return memories_of(self._ok("retrieve_memory", query=query))

    def get(self, key: str) -> dict[str, Any] | None:
        return self._there("get_memory", key=key)

    def delete(self, key: str) -> bool:
        return self._there("delete_memory", key=key) is not None

    def _there(self, tool: str, **parameters: Any) -> dict[str, Any] | None:
        result, said = self._call(tool, {**parameters, "namespace": NAMESPACE})
        assert result is not None or "There is no memory with key" in said, said
        return result

    def _ok(self, tool: str, **parameters: Any) -> dict[str, Any]:
        result, said = self._call(tool, {**parameters, "namespace": NAMESPACE})
        assert result is not None, said
        return result


def tools_of_the_gateway(house: House) -> Tools:
    def call(tool: str, parameters: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        answer = house.served.http.post(f"/v1/tools/{tool}", json=parameters).json()
        return answer.get("result"), answer.get("error", {}).get("message", "")

    return Tools(call)


def mcp_over_http(house: House) -> Tools:
    """Without a session: each call stands on its own."""

    def call(tool: str, parameters: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        params = {"name": tool, "arguments": parameters, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        answer = house.served.http.post("/mcp", json=message, headers=headers)
        assert "mcp-session-id" not in answer.headers
        return _told(answer.json()["result"])

    return Tools(call)


@contextlib.contextmanager
def mcp_over_stdio(house: House) -> Iterator[Tools]:
    """A process of its own on the same folder."""
    numbers = itertools.count()
    with StdioClient(MEMORY_DATA_DIR=str(house.folder), MEMORY_FOLLOW_INTERVAL_MS=AT_ONCE) as client:
        client.initialize()
        yield Tools(lambda tool, parameters: _told(client.call(next(numbers), tool, **parameters)))


def _told(result: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    text = result["content"][0]["text"]
    return (None, text) if result.get("isError") else (result["structuredContent"], text)


@contextlib.contextmanager
def jobs_in_this_process(house: House) -> Iterator[Jobs]:
    settings = Settings(memory=MemorySettings(data_dir=house.folder), gateway=GatewaySettings(), llm=LLMSettings())
    worker = Worker(settings)
    worker.load()
    assert worker.failure is None
    numbers = itertools.count()
    with asyncio.Runner() as loop:
        runner = JobRunner(worker)

        def run(asked: dict[str, Any]) -> dict[str, Any]:
            output = loop.run(runner.run({"id": f"door-{next(numbers)}", "input": asked}))
            assert isinstance(output, dict)
            return output

        yield Jobs(run)


@contextlib.contextmanager
def jobs_of_the_queue(house: House) -> Iterator[Jobs]:
    def run(input: dict[str, Any]) -> dict[str, Any]:
        posted = house.platform.run(input).posted
        return {"error": posted["error"]} if "error" in posted else posted["output"]

    yield Jobs(run)


@contextlib.contextmanager
def client_over(client: Client) -> Iterator[OfClient]:
    with client:
        yield OfClient(client)


DOORS: dict[str, Callable[[House], AbstractContextManager[Door]]] = {
    "http": lambda house: contextlib.nullcontext(HTTP(house)),
    "jobs": jobs_in_this_process,
    "queue": jobs_of_the_queue,
    "client over http": lambda house: client_over(Client(f"http://127.0.0.1:{house.served.port}")),
    "client over runpod": lambda house: client_over(Client.runpod("endpoint", api_key="key", url=house.platform.url)),
    "client in this process": lambda house: client_over(Client.local(house.folder)),
    "command line": lambda house: contextlib.nullcontext(CommandLine(house)),
    "tools over http": lambda house: contextlib.nullcontext(tools_of_the_gateway(house)),
    "mcp over http": lambda house: contextlib.nullcontext(mcp_over_http(house)),
    "mcp over stdio": mcp_over_stdio,
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    folder = tmp_path_factory.mktemp("doors")
    memory = folder / "memory"
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(WorkerProcess(memory, logs=folder, MEMORY_FOLLOW_INTERVAL_MS=AT_ONCE))
        platform = stack.enter_context(StandInPlatform())
        stack.enter_context(QueueWorker(platform, folder, MEMORY_DATA_DIR=str(memory)))
        house = House(memory, served, platform)
        yield {name: stack.enter_context(open_(house)) for name, open_ in DOORS.items()}


ROTATED = dict(zip(DOORS, [*DOORS][1:] + [*DOORS][:1], strict=True))
"""For each door another, so that every door deletes what another stored."""


@pytest.mark.parametrize("stores", DOORS)
def test_what_one_door_stores_every_door_finds_and_what_another_deletes_is_gone_from_all(
    doors: dict[str, Door], stores: str
) -> None:
    key = stores.replace(" ", "-")
    content = f"The password of the shed is {key} in July."

    stored = doors[stores].store(content, key, {"door": stores})
    assert (stored["key"], stored["status"]) == (key, "stored")

    for name, door in doors.items():
        found = door.retrieve(content)[0]
        assert (found["key"], found["content"], found["metadata"]) == (key, content, {"door": stores}), name
        held = door.get(key)
        assert held is not None, name
        assert held["content"] == content, name

    assert doors[ROTATED[stores]].delete(key)
    for name, door in doors.items():
        assert door.get(key) is None, name
        assert key not in [hit["key"] for hit in door.retrieve(content)], name
        assert not door.delete(key), name


NOTES = {"a": "Dana drinks an oat flat white.", "b": "Acme stalled on price.", "c": "Oslo opens in May: ☕ \t\n."}
METADATA = {"n": 1, "x": [None, 1.5, {"ä": "日"}]}
QUESTIONS = ("what does Dana drink?", "price", "☕")


@pytest.fixture
def noted(doors: dict[str, Door]) -> dict[str, Door]:
    """The doors, after one of them stored some notes."""
    for key, content in NOTES.items():
        doors["http"].store(content, key, METADATA)
    return doors


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_retrieve_has_the_same_memories_contents_and_scores_at_every_door(
    noted: dict[str, Door], question: str
) -> None:
    """Tools round scores to four digits, since each digit is a token of a model."""
    expected = [(hit["key"], hit["content"], round(hit["score"], 4)) for hit in noted["http"].retrieve(question)]
    assert len(expected) == len(NOTES)
    for name, door in noted.items():
        found = [(hit["key"], hit["content"], round(hit["score"], 4)) for hit in door.retrieve(question)]
        assert found == expected, name


def test_the_same_question_has_the_same_answer_in_full_at_every_door_but_the_tools(noted: dict[str, Door]) -> None:
    first, *others = (door for door in noted.values() if not isinstance(door, Tools))
    for question in QUESTIONS:
        expected = first.retrieve(question)
        assert [door.retrieve(question) for door in others] == [expected] * len(others)
    for key in NOTES:
        held = first.get(key)
        assert [door.get(key) for door in others] == [held] * len(others)


def test_what_is_there_already_is_unchanged_at_every_door(noted: dict[str, Door]) -> None:
    for name, door in noted.items():
        assert door.store(NOTES["a"], "a", METADATA)["status"] == "unchanged", name
