"""One declaration and one function are all that a new operation needs: every door then has it.

CONTRIBUTING.md shows the same example.
"""

import asyncio

import pytest
from fastapi.testclient import TestClient
from pydantic import Field

from gateway import calls
from gateway.calls import Caller, carries_out
from gateway.runpod.jobs import JobRunner
from gateway.serving.app import create_app
from gateway.serving.in_process import InProcessTransport
from gateway.serving.services import Services
from gateway.serving.worker import Worker
from gateway.settings import load
from vector_memory import AsyncClient, InvalidInput
from vector_memory.client.transports import HTTPTransport
from vector_memory.fields import Request, Value
from vector_memory.memories import DEFAULT_NAMESPACE, Namespace
from vector_memory.operations import OPERATIONS, Operation, Right

EXPECTED = {"namespace": "team", "memories": 2}


class CountRequest(Request):
    """Which namespace to count."""

    namespace: Namespace = DEFAULT_NAMESPACE


class Count(Value):
    """How many memories a namespace has."""

    namespace: str
    memories: int = Field(description="Memories that have not expired.")


COUNT = Operation(
    name="count",
    method="GET",
    path="/v1/counts",
    request=CountRequest,
    answer=Count,
    needs=Right.READ,
    summary="Count the memories of a namespace",
)


@pytest.fixture
def worker(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setitem(OPERATIONS, COUNT.name, COUNT)
    monkeypatch.setattr(calls, "HANDLERS", dict(calls.HANDLERS))

    @carries_out(COUNT)
    def count(services: Services, request: CountRequest, _caller: Caller) -> Count:
        """Return how many memories a namespace has."""
        counts = services.memories.counts()
        return Count(namespace=request.namespace, memories=counts.get(request.namespace, 0))

    worker = Worker(load({"MEMORY_DATA_DIR": tmp_path / "memory"}, folder=tmp_path))
    worker.load()
    return worker


def test_a_new_operation_is_there_over_http_in_the_schema_as_a_job_and_in_the_client(worker):
    app = create_app(worker)
    with TestClient(app) as http:
        for key in ("a", "b"):
            assert http.post("/v1/memories", json={"content": key, "namespace": "team"}).is_success
        assert http.get("/v1/counts", params={"namespace": "team"}).json() == EXPECTED
        refused = http.get("/v1/counts", params={"namespace": "n" * 129})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "namespace")
        described = http.get("/openapi.json").json()
        counting = described["paths"]["/v1/counts"]["get"]
        assert [parameter["name"] for parameter in counting["parameters"]] == ["namespace"]
        assert counting["description"] == "Return how many memories a namespace has."
        assert described["components"]["schemas"]["Count"]["properties"]["memories"]["description"]
        assert asyncio.run(through_the_client(app)) == Count(**EXPECTED)
        assert asyncio.run(as_a_job(worker)) == EXPECTED


async def through_the_client(app) -> Count:
    transport = HTTPTransport("http://local", timeout_s=10, transport=InProcessTransport(app))
    async with AsyncClient.over(transport) as client:
        with pytest.raises(InvalidInput):
            await client.call(COUNT, {"namespace": ""})
        return await client.call(COUNT, CountRequest(namespace="team"))


async def as_a_job(worker: Worker) -> object:
    return await JobRunner(worker).run({"id": "local_test", "input": {"action": "count", "namespace": "team"}})


def test_every_operation_names_the_right_that_it_needs_and_describes_its_fields():
    for operation in OPERATIONS.values():
        assert isinstance(operation.needs, Right)
        assert calls.description(operation).endswith(".")
        for type_ in (operation.request, operation.answer):
            assert (type_.__doc__ or "").rstrip().endswith("."), type_
