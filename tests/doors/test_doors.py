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

import pytest
from typer.testing import CliRunner

from gateway import wire
from gateway.cli import app
from gateway.client import Client
from gateway.jobs import JobRunner
from gateway.settings import GatewaySettings, Settings
from gateway.worker import Worker
from memory_service.errors import NotFound
from memory_service.settings import MemorySettings
from research.settings import LLMSettings
from tests.stand_in_platform import QueueWorker, StandInPlatform
from tests.worker_process import WorkerProcess

NAMESPACE = "doors"


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


class HTTP:
    def __init__(self, house: House) -> None:
        self._http = house.served.http

    def store(self, content, key, metadata):
        return self._ok(
            self._http.post(
                "/v1/memories", json={"content": content, "key": key, "metadata": metadata, "namespace": NAMESPACE}
            )
        )

    def retrieve(self, query):
        body = {"query": query, "namespace": NAMESPACE, "consistency": "strong"}
        return self._ok(self._http.post("/v1/memories/retrieve", json=body))["memories"]

    def get(self, key):
        params = {"namespace": NAMESPACE, "consistency": "strong"}
        answer = self._http.get(f"/v1/memories/{key}", params=params)
        return None if answer.status_code == 404 else self._ok(answer)

    def delete(self, key):
        answer = self._http.delete(f"/v1/memories/{key}", params={"namespace": NAMESPACE})
        return answer.status_code != 404 and bool(self._ok(answer))

    def _ok(self, answer):
        assert answer.status_code == 200, answer.text
        return answer.json()


class Jobs:
    """Actions, by whatever runs a job's input to its output."""

    def __init__(self, run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._run = run

    def store(self, content, key, metadata):
        return self._ok({"action": "store", "content": content, "key": key, "metadata": metadata})

    def retrieve(self, query):
        return self._ok({"action": "retrieve", "query": query, "consistency": "strong"})["memories"]

    def get(self, key):
        return self._there({"action": "get", "key": key, "consistency": "strong"})

    def delete(self, key):
        return self._there({"action": "delete", "key": key}) is not None

    def _there(self, input):
        output = self._run({**input, "namespace": NAMESPACE})
        if "error" in output:
            assert json.loads(output["error"])["code"] == "not_found"
            return None
        return output

    def _ok(self, input):
        output = self._run({**input, "namespace": NAMESPACE})
        assert "error" not in output, output
        return output


class OfClient:
    def __init__(self, client: Client) -> None:
        self._client = client

    def store(self, content, key, metadata):
        return wire.stored_body(self._client.store(content, key=key, metadata=metadata, namespace=NAMESPACE))

    def retrieve(self, query):
        found = self._client.retrieve(query, namespace=NAMESPACE, consistency="strong")
        return [wire.hit_body(hit) for hit in found.hits]

    def get(self, key):
        with contextlib.suppress(NotFound):
            return wire.memory_body(self._client.get(key, namespace=NAMESPACE, consistency="strong"))

    def delete(self, key):
        with contextlib.suppress(NotFound):
            return self._client.delete(key, namespace=NAMESPACE).count == 1
        return False


class CommandLine:
    def __init__(self, house: House) -> None:
        self._url = f"http://127.0.0.1:{house.served.port}"

    def store(self, content, key, metadata):
        return self._run("store", content, "--key", key, "--metadata", json.dumps(metadata))

    def retrieve(self, query):
        return self._run("retrieve", query, "--strong")["memories"]

    def get(self, key):
        return self._run("get", key, "--strong")

    def delete(self, key):
        return self._run("delete", key) is not None

    def _run(self, *arguments):
        done = CliRunner().invoke(app, [*arguments, "-n", NAMESPACE, "--json", "--url", self._url])
        assert done.exit_code in (0, 3), done.output
        return None if done.exit_code == 3 else json.loads(done.stdout)


@contextlib.contextmanager
def jobs_in_this_process(house: House) -> Iterator[Jobs]:
    settings = Settings(memory=MemorySettings(data_dir=house.folder), gateway=GatewaySettings(), llm=LLMSettings())
    worker = Worker(settings)
    worker.load()
    assert worker.failure is None
    numbers = itertools.count()
    with asyncio.Runner() as loop:
        runner = JobRunner(worker)
        yield Jobs(lambda asked: loop.run(runner.run({"id": f"door-{next(numbers)}", "input": asked})))


@contextlib.contextmanager
def jobs_of_the_queue(house: House) -> Iterator[Jobs]:
    def run(input):
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
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory) -> Iterator[dict[str, Door]]:
    folder = tmp_path_factory.mktemp("doors")
    memory = folder / "memory"
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(WorkerProcess(memory, logs=folder))
        platform = stack.enter_context(StandInPlatform())
        stack.enter_context(QueueWorker(platform, folder, MEMORY_DATA_DIR=str(memory)))
        house = House(memory, served, platform)
        yield {name: stack.enter_context(open_(house)) for name, open_ in DOORS.items()}


def third(first: str, second: str) -> str:
    """Another door for each pair, so that over all pairs every door stores, finds and deletes equally often."""
    names = list(DOORS)
    return names[(names.index(first) + names.index(second) + 1) % len(names)]


@pytest.mark.parametrize("stores", DOORS)
@pytest.mark.parametrize("finds", DOORS)
def test_what_one_door_stores_another_finds_and_a_third_deletes_is_gone_from_all(doors, stores, finds):
    key, deletes = f"{stores}-{finds}".replace(" ", "-"), third(stores, finds)
    content = f"The password of the shed is {key} in July."

    stored = doors[stores].store(content, key, {"door": stores})
    assert (stored["key"], stored["status"]) == (key, "stored")

    found = doors[finds].retrieve(content)
    assert found[0]["key"] == key
    assert (found[0]["content"], found[0]["metadata"]) == (content, {"door": stores})

    assert doors[deletes].delete(key)
    for name, door in doors.items():
        assert door.get(key) is None, name
        assert key not in [hit["key"] for hit in door.retrieve(content)], name
        assert not door.delete(key), name


def test_the_same_question_has_the_same_answer_at_every_door(doors):
    first, *others = doors.values()
    notes = {"a": "Dana drinks an oat flat white.", "b": "Acme stalled on price.", "c": "Oslo opens in May: ☕ \t\n."}
    for key, content in notes.items():
        first.store(content, key, {"n": 1, "x": [None, 1.5, {"ä": "日"}]})
    for question in ("what does Dana drink?", "price", "☕"):
        expected = first.retrieve(question)
        assert [door.retrieve(question) for door in others] == [expected] * len(others)
    for key in notes:
        expected = first.get(key)
        assert [door.get(key) for door in others] == [expected] * len(others)
    for door in doors.values():
        assert door.store(notes["a"], "a", {"n": 1, "x": [None, 1.5, {"ä": "日"}]})["status"] == "unchanged"
