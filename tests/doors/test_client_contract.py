"""One contract for the client over HTTP, RunPod (its stand-in) and in this process, synchronous and asynchronous."""

import asyncio
import base64
import contextlib
import gc
import itertools
import json
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.errors import MalformedBody, status_of
from gateway.serving.in_process import InProcessTransport
from research.llm.errors import LLMBusy, LLMNotConnected, LLMRefused, LLMStarting
from tests.stand_in_llm import Script, StandInLLM, stream_of, streaming
from tests.stand_in_platform import QueueWorker, StandInPlatform
from tests.worker_process import WorkerProcess, free_port
from vector_memory import (
    Answer,
    AsyncClient,
    Cited,
    Client,
    Context,
    Embedding,
    NewMemory,
    ResearchEvent,
    Retries,
    Retrieval,
    Token,
    errors,
)
from vector_memory.client.errors import failure
from vector_memory.client.requests import Unanswered, WireRequest, WireResponse
from vector_memory.client.runpod import _input as runpod_input
from vector_memory.documents import Document
from vector_memory.errors import (
    InvalidInput,
    LimitExceeded,
    LLMUnreachable,
    NotFound,
    RateLimited,
    ServiceError,
    StartupError,
    Unauthorized,
    Unavailable,
    UnsupportedForm,
)
from vector_memory.memories import EventKind, Refused, Stored, StoreStatus
from vector_memory.retrieval import Mode
from vector_memory.server_sent import EventReader, ServerSentEvent

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."
QUICK = Retries(attempts_max=3, first_pause_s=0.001)


T = TypeVar("T")
C = TypeVar("C", Client, AsyncClient)


class Way(Protocol):
    """Makes a client of either kind over one transport."""

    def __call__(self, kind: type[C]) -> C: ...


class OverLLM(Protocol):
    """Makes a client of either kind over a transport that is named, and a model that answers by a script."""

    def __call__(self, kind: type[C], way: str, script: Script) -> tuple[StandInLLM, C]: ...


class InLoop:
    """The asynchronous client driven like the other, so that both pass the same tests."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name in ("list", "documents", "research_stream"):
            return lambda *given, **fields: self._runner.run(collected(method(*given, **fields)))
        return lambda *given, **fields: self._runner.run(method(*given, **fields))


def answer_of(client: Client, question: str, **fields: Any) -> Answer:
    """What research answers. The question goes by position, which works but is not in the types of `research`."""
    return client.research(question, **fields)


def told_by(client: Client, question: str, **fields: Any) -> Iterator[ResearchEvent]:
    """What research tells as a stream; of the question, see `answer_of`."""
    return client.research_stream(question, **fields)


async def collected(values: AsyncIterator[T]) -> list[T]:
    return [value async for value in values]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInPlatform]:
    folder = tmp_path_factory.mktemp("runpod")
    with (
        StandInPlatform() as platform,
        QueueWorker(platform, folder, LLM_FALLBACK="extractive", MEMORY_JOB_STREAMING="true"),
    ):
        yield platform


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path_factory.mktemp("http") / "memory", LLM_FALLBACK="extractive") as worker:
        yield worker


@pytest.fixture(scope="module")
def local_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local") / "memory"


@pytest.fixture(scope="module", params=["http", "runpod", "local"])
def way(request: pytest.FixtureRequest) -> Way:
    """How to make a client of either kind over one transport."""
    match request.param:
        case "http":
            worker = request.getfixturevalue("served")
            return lambda kind: kind(f"http://127.0.0.1:{worker.port}")
        case "runpod":
            platform = request.getfixturevalue("endpoint")
            return lambda kind: kind.runpod("endpoint", api_key="key", url=platform.url)
        case "local":
            folder = request.getfixturevalue("local_folder")
            return lambda kind: kind.local(folder, settings={"LLM_FALLBACK": "extractive"})
        case other:
            raise AssertionError(other)


@pytest.fixture(scope="module", params=["sync", "async"])
def client(request: pytest.FixtureRequest, way: Way) -> Iterator[Client]:
    if request.param == "sync":
        with way(Client) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        asynchronous = way(AsyncClient)
        yield cast(Client, InLoop(asynchronous, runner))
        runner.run(asynchronous.close())


NUMBER = itertools.count()


@pytest.fixture
def namespace() -> str:
    """One that no other test uses: the services live as long as the module."""
    return f"contract-{next(NUMBER)}"


# -- what it does --------------------------------------------------------------------------------------------------


def test_a_memory_is_stored_found_read_listed_and_deleted(client: Client, namespace: str) -> None:
    stored = client.store(COFFEE, key="dana/coffee", namespace=namespace, metadata={"lead": "acme"}, ttl_seconds=3_600)
    assert isinstance(stored, Stored)
    assert (stored.key, stored.status) == ("dana/coffee", StoreStatus.STORED)

    found = client.retrieve("what does Dana drink?", namespace=namespace, filter={"lead": "acme"}, k=1)
    assert found.mode is Mode.HYBRID
    [hit] = found.hits
    assert (hit.memory.key, hit.memory.content, hit.memory.metadata) == ("dana/coffee", COFFEE, {"lead": "acme"})
    assert hit.memory.expires_at_ms is not None
    assert hit.memory.created_at_ms == stored.created_at_ms

    memory = client.get("dana/coffee", namespace=namespace)
    assert dict(memory).items() <= dict(hit).items()
    assert list(client.list(namespace=namespace)) == [memory]

    deleted = client.delete("dana/coffee", namespace=namespace, receipt=True)
    assert (deleted.count, deleted.keys) == (1, ("dana/coffee",))
    assert deleted.receipt is not None
    assert client.receipt(deleted.receipt.id).id == deleted.receipt.id
    with pytest.raises(NotFound):
        client.get("dana/coffee", namespace=namespace)


@pytest.mark.parametrize("key", ["..", "a/b", "a b", "ä/ö?x=1#y", "x/history", "%2F", "\x00", "日本"])
def test_any_text_is_a_key(client: Client, namespace: str, key: str) -> None:
    client.store(BUDGET, key=key, namespace=namespace)
    assert client.get(key, namespace=namespace).key == key
    assert [event.kind for event in client.history(key, namespace=namespace)] == [EventKind.STORED]
    assert client.delete(key, namespace=namespace).keys == (key,)


def test_each_memory_of_a_batch_is_judged_on_its_own(client: Client, namespace: str) -> None:
    memories: list[NewMemory | Mapping[str, Any]] = [
        NewMemory(content=COFFEE, key="a", namespace=namespace),
        {"content": "", "key": "b", "namespace": namespace},
        NewMemory(content=BUDGET, key="c", namespace=namespace),
    ]
    first, refused, last = client.store_batch(memories)
    assert (first.key, last.key) == ("a", "c")
    assert isinstance(refused, Refused)
    assert (refused.key, refused.error.code, refused.error.field) == ("b", "invalid", "content")


def test_a_listing_runs_over_all_pages(client: Client, namespace: str) -> None:
    client.store_batch([NewMemory(content=f"note {n}", key=f"k{n:02}", namespace=namespace) for n in range(25)])
    assert {memory.key for memory in client.list(namespace=namespace, page_size=10)} == {f"k{n:02}" for n in range(25)}
    page = client.page(namespace=namespace, limit=10)
    assert (len(page.memories), page.cursor is not None) == (10, True)


def test_every_control_of_a_retrieval_is_passed_on(client: Client, namespace: str) -> None:
    client.store_batch(
        [
            NewMemory(content=COFFEE, key="a", namespace=namespace, metadata={"n": 1}),
            NewMemory(content=BUDGET, key="b", namespace=namespace, metadata={"n": 2}),
        ]
    )
    found = client.retrieve(
        "what does Dana drink?",
        namespace=namespace,
        k=2,
        filter={"n": {"$gte": 1}},
        after="2020-01-01",
        before="2090-01-01",
        mode="hybrid",
        recency_half_life_days=30.0,
        importance_weight=0.1,
        diversity=0.2,
        per_session=5,
        min_score=-1.0,
        min_relevance=0.0,
        max_tokens=1_000,
        consistency="strong",
        explain=True,
        why_not="b",
    )
    assert found.hits[0].memory.key == "a"
    assert found.tokens is not None
    assert found.tokens > 0
    explanation = found.explanation
    assert explanation is not None
    assert explanation.why_not is not None
    assert explanation.why_not.key == "b"
    assert explanation.filter is not None
    assert explanation.filter.matches == 2
    assert len(explanation.signals) == len(found.hits)
    [alike] = client.retrieve(like="a", namespace=namespace, k=1).hits
    assert alike.memory.key == "b"


def test_many_queries_are_answered_in_their_order(client: Client, namespace: str) -> None:
    client.store_batch(
        [
            NewMemory(content=COFFEE, key="a", namespace=namespace),
            NewMemory(content=BUDGET, key="b", namespace=namespace),
        ]
    )
    wanted = [
        Retrieval(query="the budget", namespace=namespace, k=1),
        Retrieval(query="oat flat white", namespace=namespace, k=1, mode=Mode.DENSE),
    ]
    budget, coffee = client.retrieve_batch(wanted)
    assert (budget.hits[0].memory.key, coffee.hits[0].memory.key, coffee.mode) == ("b", "a", Mode.DENSE)


def test_abstaining_shows_what_came_nearest(client: Client, namespace: str) -> None:
    client.store(COFFEE, namespace=namespace)
    found = client.retrieve("quarterly earnings of a shipyard", namespace=namespace, min_relevance=0.99)
    assert found.nearest is not None
    assert (found.hits, found.abstained, len(found.nearest)) == ((), True, 1)


def test_near_duplicates_are_reported(client: Client, namespace: str) -> None:
    client.store_batch(
        [
            NewMemory(content=COFFEE, key="a", namespace=namespace),
            NewMemory(content=COFFEE + " ", key="b", namespace=namespace),
        ]
    )
    page = client.near_duplicates(namespace=namespace, threshold=0.9)
    assert page.examined == 2
    [found] = page.duplicates
    assert {found.memory.key, found.alike[0].memory.key} == {"a", "b"}


def test_many_are_deleted_by_key_or_filter_after_a_dry_run(client: Client, namespace: str) -> None:
    client.store_batch(
        [NewMemory(content=f"note {n}", key=f"k{n}", namespace=namespace, metadata={"n": n}) for n in range(4)]
    )
    dry = client.delete_many(filter={"n": {"$gte": 2}}, namespace=namespace, dry_run=True)
    assert (dry.count, dry.keys, dry.dry_run) == (2, ("k2", "k3"), True)
    assert client.delete_many(filter={"n": {"$gte": 2}}, namespace=namespace).keys == ("k2", "k3")
    by_key = client.delete_many(keys=["k0", "zz"], namespace=namespace)
    assert (by_key.keys, by_key.missing, by_key.count) == (("k0",), ("zz",), 1)


def test_research_answers_with_citations(client: Client, namespace: str) -> None:
    client.store(COFFEE, key="dana/coffee", namespace=namespace)
    answer = answer_of(client, "What does Dana drink?", namespace=namespace)
    assert answer.citations[0].key == "dana/coffee"
    assert answer.context[answer.citations[0].n - 1].content == COFFEE
    ready = answer_of(client, "What does Dana drink?", namespace=namespace, context_only=True)
    assert ready.prompt is not None
    assert (ready.result, ready.prompt[0]["role"]) == ("", "system")


def test_a_memory_is_updated(client: Client, namespace: str) -> None:
    client.store(COFFEE, key="a/b", namespace=namespace, metadata={"lead": "acme", "draft": True})
    updated = client.update("a/b", namespace=namespace, content=BUDGET, metadata={"draft": None, "n": 1})
    assert updated.status is StoreStatus.UPDATED
    memory = client.get("a/b", namespace=namespace)
    assert (memory.content, memory.metadata) == (BUDGET, {"lead": "acme", "n": 1})
    client.update("a/b", namespace=namespace, ttl_seconds=3_600)
    assert client.get("a/b", namespace=namespace).expires_at_ms is not None
    with pytest.raises(NotFound):
        client.update("nothing", namespace=namespace, content=BUDGET)
    with pytest.raises(InvalidInput):
        client.update("a/b", namespace=namespace)


GUIDE = (
    "# Owl guide\n\n## Feeding\n\nFeed each owl two mice at dusk.\n\n## Housing\n\nBuild the box of untreated oak.\n"
)


def test_documents_are_stored_listed_read_and_deleted(client: Client, namespace: str, tmp_path: Path) -> None:
    uploaded = client.store_document(GUIDE, form="markdown", id="owls/1", library="Owl Care", namespace=namespace)
    assert (uploaded.stored, uploaded.document.title, uploaded.document.is_complete) == (2, "Owl guide", True)
    file = tmp_path / "boxes.html"
    file.write_text("<h1>Boxes</h1><p>Hang a box four metres above the ground.")
    boxes = client.store_document(file, library="Owl Care", namespace=namespace, metadata={"n": 1})
    assert boxes.document.form == "html"
    assert client.store_document(file, library="Owl Care", namespace=namespace, metadata={"n": 1}).unchanged == 1

    listed = list(client.documents(namespace=namespace, page_size=1))
    assert {document.id for document in listed} == {"owls/1", boxes.document.id}
    page = client.documents_page(namespace=namespace, library="owl-care", limit=1)
    assert (len(page.documents), page.cursor is not None) == (1, True)
    placed = client.document("owls/1", namespace=namespace)
    assert {name: getattr(placed, name) for name in Document.model_fields} == {
        name: getattr(uploaded, name) for name in Document.model_fields
    }
    assert [part.headings for part in placed.parts] == [("Owl guide", "Feeding"), ("Owl guide", "Housing")]
    assert [part.number for part in placed.parts] == [1, 2]
    assert client.get(placed.parts[0].key, namespace=namespace).content in GUIDE

    [library] = client.libraries("owl", namespace=namespace)
    assert (library.id, library.documents, library.match) == ("owl-care", 2, "prefix")
    docs = client.library_docs(library.id, "where do I hang a box?", tokens=500, namespace=namespace)
    assert "four metres" in docs.chunks[0].content
    assert client.library_docs(library.id, namespace=namespace).chunks

    deleted = client.delete_document("owls/1", namespace=namespace, receipt=True)
    assert deleted.count == 2
    assert deleted.receipt is not None
    assert deleted.receipt.id
    with pytest.raises(NotFound):
        client.document("owls/1", namespace=namespace)


def test_what_is_no_document_is_refused(client: Client, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_bytes(b"x")
    for source in (tmp_path / "x.docx", tmp_path / "missing.md", 5, None):
        with pytest.raises(InvalidInput):
            client.store_document(source, namespace=namespace)  # type: ignore[arg-type]  # what is no source
    with pytest.raises(InvalidInput):
        client.store_document(b"no PDF", namespace=namespace)
    with pytest.raises(UnsupportedForm):
        client.store_document("x", form="docx", namespace=namespace)
    with pytest.raises(NotFound):
        client.library_docs("nothing", namespace=namespace)


def test_tools_are_listed_and_called(client: Client, namespace: str) -> None:
    tools = {tool.name: tool for tool in client.tools()}
    assert tools["delete_memory"].hints["destructive"]
    assert tools["store_memory"].input_schema["required"] == ["content"]
    stored = client.invoke_tool("store_memory", {"content": COFFEE, "key": "a", "namespace": namespace})
    assert (stored["status"], client.get("a", namespace=namespace).content) == ("stored", COFFEE)
    assert client.invoke_tool("memory_status")["status"] == "healthy"
    with pytest.raises(InvalidInput) as caught:
        client.invoke_tool("get_memory", {"namespace": namespace})
    assert caught.value.field == "key"
    with pytest.raises(NotFound):
        client.invoke_tool("no tool/", {})


def test_research_streams(client: Client, namespace: str) -> None:
    client.store(COFFEE, key="dana/coffee", namespace=namespace)
    context, *told, answer = told_by(client, "What does Dana drink?", namespace=namespace)
    assert isinstance(context, Context)
    assert isinstance(answer, Answer)
    assert context.context == answer.context
    tokens = [step for step in told if isinstance(step, Token)]
    assert len(tokens) == len(told)
    assert "".join(token.text for token in tokens) == answer.result
    assert answer.citations[0].key == "dana/coffee"
    with pytest.raises(InvalidInput) as caught:
        list(told_by(client, "What does Dana drink?", namespace=namespace, k=0))
    assert (caught.value.field, caught.value.status) == ("k", 422)
    assert caught.value.request_id


def test_the_operator_is_served_too(client: Client, namespace: str) -> None:
    client.store(COFFEE, namespace=namespace)
    assert client.health().status == "healthy"
    stats = client.stats()
    assert stats.namespaces[namespace] == 1
    assert stats.memories == sum(stats.namespaces.values())
    assert client.snapshot()
    assert isinstance(client.compact().removed, tuple)


# -- exchange ------------------------------------------------------------------------------------------------------


def test_what_is_listed_with_vectors_can_be_stored_elsewhere_as_it_was(client: Client, namespace: str) -> None:
    client.store(COFFEE, key="a", namespace=namespace, metadata={"lead": "acme"})
    page = client.page(namespace=namespace, embeddings=True)
    [memory] = page.memories
    embedding = memory.embedding
    there = NewMemory(
        content=COFFEE,
        key="a",
        namespace=f"{namespace}-2",
        metadata=memory.metadata,
        created_at="2024-05-01",
        embedding=embedding,
    )
    [stored] = client.store_batch([there])
    assert isinstance(stored, Stored)
    assert stored.created_at_ms == 1_714_521_600_000
    [again] = client.store_batch([there])
    assert isinstance(again, Stored)
    assert (again.status, again.updated_at_ms) == (StoreStatus.UNCHANGED, stored.updated_at_ms)
    assert client.page(namespace=f"{namespace}-2", embeddings=True).embeddings == (embedding,)


def test_vectors_of_another_embedder_are_made_anew_and_wrong_ones_are_refused(client: Client, namespace: str) -> None:
    revision = client.stats().revision
    nonsense = base64.b64encode(np.full(384, 7, dtype="<f4").tobytes()).decode()
    no_number = base64.b64encode(np.full(384, np.nan, dtype="<f4").tobytes()).decode()
    results = client.store_batch(
        [
            NewMemory(
                content=COFFEE,
                key="other",
                namespace=namespace,
                embedding=Embedding(revision="another", vectors=nonsense),
            ),
            NewMemory(
                content=COFFEE,
                key="length",
                namespace=namespace,
                embedding=Embedding(revision=revision, vectors=nonsense),
            ),
            NewMemory(
                content=COFFEE,
                key="nan",
                namespace=namespace,
                embedding=Embedding(revision=revision, vectors=no_number),
            ),
            NewMemory(
                content=COFFEE, key="empty", namespace=namespace, embedding=Embedding(revision=revision, vectors="")
            ),
            NewMemory(
                content=COFFEE,
                key="text",
                namespace=namespace,
                embedding=Embedding(revision=revision, vectors="no base64!"),
            ),
            NewMemory(content=COFFEE, key="future", namespace=namespace, created_at="2999-01-01"),
            NewMemory(content=COFFEE, key="past", namespace=namespace, expires_at="1999-01-01"),
            NewMemory(content=COFFEE, key="both", namespace=namespace, ttl_seconds=1, expires_at="2030-01-01"),
        ]
    )
    assert isinstance(results[0], Stored)
    refused = [each for each in results[1:] if isinstance(each, Refused)]
    assert [each.error.field for each in refused] == [*["embedding.vectors"] * 4, "created_at", *["expires_at"] * 2]
    found = client.retrieve("oat flat white", namespace=namespace, mode="dense")
    assert found.hits[0].memory.key == "other"


# -- how it fails --------------------------------------------------------------------------------------------------


def test_an_error_says_what_where_and_under_which_id(client: Client, namespace: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.retrieve("x", namespace=namespace, k=0)
    error = caught.value
    assert (error.field, error.status) == ("k", 422)
    assert error.request_id
    with pytest.raises(NotFound) as missing:
        client.get("nothing", namespace=namespace)
    assert missing.value.status == 404
    with pytest.raises(InvalidInput):
        client.store(COFFEE, namespace=namespace, metadata={"x": float("nan")})
    with pytest.raises(InvalidInput):
        client.get("\ud800", namespace=namespace)
    with pytest.raises(InvalidInput):
        client.store("\ud800", namespace=namespace)
    with pytest.raises(InvalidInput):
        client.store_batch([])


def test_a_request_that_is_too_large_is_refused(client: Client, namespace: str) -> None:
    with pytest.raises((LimitExceeded, InvalidInput)):
        client.store("x" * 11_000_000, namespace=namespace)


def test_the_same_idempotency_key_gives_the_first_answer_again(client: Client, namespace: str) -> None:
    first = client.store(COFFEE, key="a", namespace=namespace, idempotency_key=f"once-{namespace}")
    again = client.store(COFFEE, key="a", namespace=namespace, idempotency_key=f"once-{namespace}")
    assert again == first
    assert again.status is StoreStatus.STORED


def public_errors() -> list[type[ServiceError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


@pytest.mark.parametrize("error", public_errors(), ids=lambda error: error.__name__)
def test_every_error_of_the_service_comes_out_as_what_it_went_in(error: type[ServiceError]) -> None:
    status = status_of(error())
    told = failure(WireResponse(status, {"error": error("Said so.", field="k").body("id-1")}))
    assert type(told) is error
    assert (told.message, told.field, told.status, told.request_id) == ("Said so.", "k", status, "id-1")


@pytest.mark.parametrize("error", [LLMNotConnected, LLMBusy, LLMStarting, LLMRefused, MalformedBody])
def test_an_error_that_is_finer_than_the_wire_comes_out_as_its_base_class(error: type[ServiceError]) -> None:
    told = failure(WireResponse(status_of(error()), {"error": error("Said so.").body()}))
    assert type(told) is error.__base__


@pytest.mark.parametrize("body", [None, [], "text", {"error": "text"}, {"error": {"code": 5}}, {"detail": "x"}])
@pytest.mark.parametrize("status", [400, 401, 404, 418, 429, 500, 502, 524])
def test_an_answer_of_something_else_is_an_error_in_our_words(status: int, body: object) -> None:
    told = failure(WireResponse(status, body))
    assert isinstance(told, ServiceError)
    assert told.status == status
    assert str(status) in told.message


# -- asking again --------------------------------------------------------------------------------------------------


class Scripted:
    """A transport that answers by a script, and remembers what it was asked."""

    def __init__(self, *answers: WireResponse | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[WireRequest] = []

    async def send(self, request: WireRequest) -> WireResponse:
        self.asked.append(request)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(self, request: WireRequest) -> WireResponse:
        raise AssertionError("no script streams here")

    async def close(self) -> None:
        pass


HEALTHY = WireResponse(
    200,
    {
        "status": "healthy",
        "problems": [],
        "version": "1",
        "memories": 0,
        "namespaces": 0,
        "embedder": {"model": "m"},
        "vllm_configured": False,
        "something_new": 1,
    },
)
STORED = WireResponse(
    200,
    {
        "key": "k",
        "namespace": "n",
        "status": "stored",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    },
)
BUSY = WireResponse(503, {"error": {"code": "unavailable", "message": "Not now."}}, 0.0)
LATER = WireResponse(503, {"error": {"code": "unavailable", "message": "Not now."}}, 3_600.0)
LIMITED = WireResponse(429, None)
LOST = Unanswered("lost", was_sent=True)
UNREACHED = Unanswered("unreached", was_sent=False)
LATE = Unanswered("late", was_sent=True, is_final=True)


def asked(script: Scripted, work: Callable[[Client], object]) -> tuple[int, ServiceError | None]:
    with Client.over(script, QUICK) as client:
        try:
            work(client)
        except ServiceError as error:
            return len(script.asked), error
    return len(script.asked), None


@pytest.mark.parametrize("first", [BUSY, LIMITED, LOST, UNREACHED])
def test_reads_and_named_writes_are_sent_again(first: WireResponse | Unanswered) -> None:
    assert asked(Scripted(first, HEALTHY), lambda client: client.health()) == (2, None)
    assert asked(Scripted(first, first, STORED), lambda client: client.store("x")) == (3, None)


def test_a_write_is_sent_again_under_the_same_key_and_the_next_write_has_another() -> None:
    script = Scripted(LOST, STORED, STORED)
    with Client.over(script, QUICK) as client:
        client.store("x")
        client.store("x")
    first, again, other = (request.idempotency_key for request in script.asked)
    assert first == again != other


def test_attempts_are_bounded_and_the_last_answer_counts() -> None:
    count, error = asked(Scripted(*[BUSY] * 9), lambda client: client.health())
    assert error is not None
    assert (count, type(error), error.status) == (3, Unavailable, 503)
    count, error = asked(Scripted(*[LIMITED] * 9), lambda client: client.health())
    assert (count, type(error)) == (3, RateLimited)
    count, error = asked(Scripted(*[UNREACHED] * 9), lambda client: client.health())
    assert error is not None
    assert (count, type(error), error.status) == (3, Unavailable, None)


def test_what_may_have_been_carried_out_and_has_no_key_is_not_sent_again() -> None:
    for answer in (LOST, BUSY):
        count, error = asked(Scripted(answer), lambda client: client.snapshot())
        assert (count, isinstance(error, Unavailable)) == (1, True)
    assert asked(Scripted(UNREACHED, WireResponse(200, {"snapshot": "s"})), lambda client: client.snapshot()) == (
        2,
        None,
    )


@pytest.mark.parametrize("answer", [LATE, LATER])
def test_a_long_wait_is_left_to_the_caller(answer: WireResponse | Unanswered) -> None:
    assert asked(Scripted(answer), lambda client: client.health())[0] == 1


@pytest.mark.parametrize("body", [None, [], {}, {"status": 5}, {"memories": "x"}])
def test_an_answer_of_another_shape_is_an_error_and_no_traceback(body: object) -> None:
    assert isinstance(asked(Scripted(WireResponse(200, body)), lambda client: client.health())[1], ServiceError)
    assert isinstance(asked(Scripted(WireResponse(200, body)), lambda client: client.retrieve("x"))[1], ServiceError)


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retries=QUICK) as client, pytest.raises(Unavailable) as caught:
        client.health()
    assert "cannot be reached" in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://x",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://xn--",
    ],
)
def test_a_url_that_is_none_is_named(url: str) -> None:
    with Client(url, retries=QUICK) as client, pytest.raises((InvalidInput, Unavailable)):
        client.health()


class _DropsFirst(BaseHTTPRequestHandler):
    """Carries the first request out as far as anybody can tell, and drops the connection instead of answering."""

    seen: list[str | None]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(self.headers["idempotency-key"])
        if len(self.seen) == 1:
            self.close_connection = True
            return
        content = json.dumps(STORED.body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_dropped_connection_is_retried_under_the_same_key() -> None:
    seen: list[str | None] = []
    handler = type("Handler", (_DropsFirst,), {"seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{server.server_address[1]}", retries=QUICK) as client:
            assert client.store("x").key == "k"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(seen) == 2
    assert seen[0] == seen[1] is not None


# -- streaming -----------------------------------------------------------------------------------------------------

PIECES = ("Dana drinks an oat flat white [1]", ". Who paid?", " ☕\u2028[1].")


@pytest.fixture
def over_llm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OverLLM]:
    """Makes a client over HTTP or in this process, whose research asks a scripted model."""
    with contextlib.ExitStack() as stack:

        def make(kind: type[C], way: str, script: Script) -> tuple[StandInLLM, C]:
            llm = stack.enter_context(StandInLLM(script))
            settings = {"LLM_BASE_URL": llm.base_url}
            if way == "local":
                return llm, kind.local(tmp_path / "memory", settings=settings)
            if way == "runpod":
                platform = stack.enter_context(StandInPlatform())
                stack.enter_context(QueueWorker(platform, tmp_path, MEMORY_JOB_STREAMING="true", **settings))
                return llm, kind.runpod("endpoint", api_key="key", url=platform.url, retries=QUICK)
            worker = stack.enter_context(WorkerProcess(tmp_path / "memory", LLM_BASE_URL=llm.base_url))
            return llm, kind(f"http://127.0.0.1:{worker.port}", retries=QUICK)

        yield make


@pytest.mark.parametrize("way", ["http", "runpod", "local"])
def test_tokens_come_while_the_model_speaks_and_closing_ends_its_work(over_llm: OverLLM, way: str) -> None:
    llm, client = over_llm(Client, way, streaming(*stream_of(*PIECES)[:-3], hang=True))
    with client:
        client.store(COFFEE, key="dana/coffee")
        steps = told_by(client, "What does Dana drink?")
        told = [next(steps) for _ in range(5)]
        assert [type(step) for step in told] == [Context, Token, Token, Cited, Token]
        cited, token = told[3:]
        assert isinstance(cited, Cited)
        assert isinstance(token, Token)
        assert cited.citation.verdict == "supported"
        assert token.text == PIECES[2]
        assert not llm.left.is_set()
        assert isinstance(steps, Generator)
        steps.close()
        assert llm.left.wait(10)
        assert client.health().memories == 1


@pytest.mark.parametrize("way", ["http", "runpod", "local"])
async def test_an_asynchronous_stream_that_is_left_or_cancelled_ends_the_models_work_too(
    over_llm: OverLLM, way: str
) -> None:
    llm, client = over_llm(AsyncClient, way, streaming(*stream_of(*PIECES)[:-3], hang=True))
    async with client:
        await client.store(COFFEE)

        async def listen(heard: asyncio.Event) -> None:
            async for step in client.research_stream("What does Dana drink?"):
                if isinstance(step, Token):
                    heard.set()

        heard = asyncio.Event()
        listening = asyncio.create_task(listen(heard))
        await asyncio.wait_for(heard.wait(), 10)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert await asyncio.to_thread(llm.left.wait, 10)


def test_the_whole_answer_comes_last_with_the_verdicts(over_llm: OverLLM) -> None:
    _, client = over_llm(Client, "local", streaming(*stream_of(*PIECES)))
    with client:
        client.store(COFFEE, key="dana/coffee")
        *steps, answer = told_by(client, "What does Dana drink?")
    assert isinstance(answer, Answer)
    assert "".join(step.text for step in steps if isinstance(step, Token)) == answer.result == "".join(PIECES)
    assert tuple(step.citation for step in steps if isinstance(step, Cited)) == answer.citations


def test_a_model_that_breaks_off_is_an_error_after_what_it_said(over_llm: OverLLM) -> None:
    _, client = over_llm(Client, "local", streaming(*stream_of(*PIECES)[:2], cut=True))
    with client:
        client.store(COFFEE)
        heard: list[str] = []
        question = "What does Dana drink?"
        with pytest.raises(LLMUnreachable) as caught:
            heard.extend(step.text for step in told_by(client, question) if isinstance(step, Token))
        assert (caught.value.status, caught.value.code) == (200, "upstream")
        assert caught.value.request_id
        assert heard == [PIECES[0]]


class Streaming(Scripted):
    """Answers with events by a script, the last of which may be an error."""

    def __init__(self, *events: ServerSentEvent | Exception, first: WireResponse | None = None) -> None:
        super().__init__()
        self._events = events
        self._first = first

    async def stream(self, request: WireRequest) -> WireResponse:
        self.asked.append(request)
        if self._first is not None and len(self.asked) == 1:
            return self._first
        return WireResponse(200, None, events=self._told())

    async def _told(self) -> AsyncGenerator[ServerSentEvent]:
        for event in self._events:
            if isinstance(event, Exception):
                raise event
            yield event


@pytest.mark.parametrize(
    "events",
    [[], [ServerSentEvent("token", {"text": "x"})], [LOST], [ServerSentEvent("token", {"text": "x"}), LOST]],
)
def test_a_stream_without_an_answer_is_unavailable(events: list[ServerSentEvent | Exception]) -> None:
    with Client.over(Streaming(*events), QUICK) as client, pytest.raises(Unavailable):
        list(told_by(client, "x"))


@pytest.mark.parametrize(
    "event",
    [
        ServerSentEvent("token", None),
        ServerSentEvent("answer", {}),
        ServerSentEvent("context", []),
        ServerSentEvent("error", 5),
    ],
)
def test_an_event_of_another_shape_is_an_error_and_an_unknown_one_is_passed_over(event: ServerSentEvent) -> None:
    script = Streaming(ServerSentEvent("something new", {}), ServerSentEvent("token", {"text": "x"}), event)
    with Client.over(script, QUICK) as client:
        steps = told_by(client, "x")
        assert next(steps) == Token(text="x")
        with pytest.raises(ServiceError):
            next(steps)


def test_a_stream_is_asked_for_again_only_before_it_begins() -> None:
    script = Streaming(ServerSentEvent("token", {"text": "x"}), LOST, first=BUSY)
    with Client.over(script, QUICK) as client:
        steps = told_by(client, "x")
        assert next(steps) == Token(text="x")
        with pytest.raises(Unavailable):
            next(steps)
    assert len(script.asked) == 2


def test_a_stream_outlives_its_client_without_a_traceback() -> None:
    with Client.over(Streaming(ServerSentEvent("token", {"text": "x"}), LOST), QUICK) as client:
        steps = told_by(client, "x")
        next(steps)
    assert isinstance(steps, Generator)
    steps.close()


class Nested(Streaming):
    """Tells through generators inside generators, as HTTP libraries do, none of which closes the one inside it."""

    def __init__(self, depth: int) -> None:
        super().__init__(*[ServerSentEvent("token", {"text": "x"})] * 2)
        self._depth = depth
        self.ended = 0

    async def _told(self) -> AsyncGenerator[ServerSentEvent]:
        async for event in self._through(self._depth):
            yield event

    async def _through(self, depth: int) -> AsyncGenerator[ServerSentEvent]:
        try:
            async for event in self._through(depth - 1) if depth else super()._told():
                yield event
        finally:
            await asyncio.sleep(0)
            self.ended += 1


@pytest.mark.parametrize("depth", range(12))
def test_a_stream_that_is_left_leaves_nothing_of_itself_to_the_end_of_the_client(
    depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    script = Nested(depth)
    with Client.over(script, QUICK) as client:
        steps = told_by(client, "x")
        next(steps)
        assert isinstance(steps, Generator)
        steps.close()
    assert script.ended == depth + 1
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_the_same_however_the_stream_is_cut(size: int, end: bytes) -> None:
    lines = [b": waiting", b"", b"event: token", 'data: {"text": "ä\u2028\x85☕"}'.encode(), b"", b"id: 1", b"event:a"]
    lines += [b"data: [1,", b"data: 2]", b"", b"data: broken{", b"", b"event: no data", b"", b"data: 1"]
    stream = b"".join(line + end for line in lines)
    reader = EventReader()
    events = [event for at in range(0, len(stream), size) for event in reader.feed(stream[at : at + size])]
    assert events == [
        ServerSentEvent("token", {"text": "ä\u2028\x85☕"}),
        ServerSentEvent("a", [1, 2]),
        ServerSentEvent("", None),
    ]


# -- RunPod --------------------------------------------------------------------------------------------------------


def test_a_job_that_is_not_done_in_time_is_asked_for_until_it_is(
    endpoint: StandInPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "sync_s", 0.0)
    with Client.runpod("endpoint", api_key="key", url=endpoint.url) as client:
        assert client.store(COFFEE, key="slow", namespace="polled").status is StoreStatus.STORED
        with pytest.raises(NotFound):
            client.get("nothing", namespace="polled")


def test_a_call_that_was_cut_off_goes_to_the_queue_instead(endpoint: StandInPlatform) -> None:
    endpoint.refusals.append((524, {}))
    with Client.runpod("endpoint", api_key="key", url=endpoint.url, retries=QUICK) as client:
        assert client.health().status == "healthy"


def test_a_busy_endpoint_is_asked_again(endpoint: StandInPlatform) -> None:
    endpoint.refusals.extend([(429, {"Retry-After": "0"}), (503, {})])
    with Client.runpod("endpoint", api_key="key", url=endpoint.url, retries=QUICK) as client:
        assert client.health().status == "healthy"


def test_a_wrong_key_and_a_wrong_endpoint_are_told_apart(endpoint: StandInPlatform) -> None:
    with Client.runpod("endpoint", api_key="wrong", url=endpoint.url) as client, pytest.raises(Unauthorized):
        client.health()
    with Client.runpod("other", api_key="key", url=endpoint.url) as client, pytest.raises(Unavailable) as caught:
        client.health()
    assert "no endpoint other" in caught.value.message


def test_a_job_that_nobody_takes_is_given_up() -> None:
    with StandInPlatform(sync_s=0) as platform:
        client = Client.runpod("endpoint", api_key="key", url=platform.url, timeout_s=0.3)
        with client, pytest.raises(Unavailable) as caught:
            client.store("x")
        assert "IN_QUEUE" in caught.value.message
        assert len(platform.submitted) == 1, "asking again would only lengthen the queue"


def test_an_endpoint_whose_jobs_do_not_stream_says_so(tmp_path: Path) -> None:
    with (
        StandInPlatform() as platform,
        QueueWorker(platform, tmp_path, LLM_FALLBACK="extractive"),
        Client.runpod("endpoint", api_key="key", url=platform.url) as client,
    ):
        with pytest.raises(InvalidInput, match="MEMORY_JOB_STREAMING") as caught:
            list(told_by(client, "What does Dana drink?"))
        assert caught.value.field == "stream"


def test_a_stream_of_an_endpoint_that_is_not_there_or_says_nothing_is_given_up() -> None:
    with StandInPlatform() as platform:
        client = Client.runpod("endpoint", api_key="key", url=platform.url, timeout_s=0.3)
        with client, pytest.raises(Unavailable, match="said nothing"):
            list(told_by(client, "x"))
        assert platform.stops() == platform.submitted
        client = Client.runpod("other", api_key="key", url=platform.url)
        with client, pytest.raises(Unavailable, match="no endpoint other"):
            list(told_by(client, "x"))


def test_an_empty_body_is_sent_as_one() -> None:
    """A tool without parameters was once called over RunPod without a body, and refused."""
    request = WireRequest("POST", "/v1/tools/memory_status", body={})
    assert runpod_input(request) == {"method": "POST", "path": "/v1/tools/memory_status", "body": {}}


# -- in this process -----------------------------------------------------------------------------------------------


async def crashing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("no answer")


async def crashing_half_way(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
    raise ValueError("half an answer")


async def echoing(_scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-request-id", b"7")]})
    for byte in body:  # more pieces than may wait
        await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
    await send({"type": "http.response.body"})


async def test_an_application_in_this_process_answers_whatever_it_does(caplog: pytest.LogCaptureFixture) -> None:
    async def sent(application: ASGIApp, body: bytes = b"") -> httpx.Response:
        async with httpx.AsyncClient(transport=InProcessTransport(application), base_url="http://local") as http:
            return await http.post("/", content=body)

    answer = await sent(echoing, b"x" * 1_000)
    assert (answer.status_code, answer.content, answer.headers["x-request-id"]) == (201, b"x" * 1_000, "7")
    with pytest.raises(httpx.RemoteProtocolError, match="ended without a response"):
        await sent(crashing)
    assert (await sent(crashing_half_way)).content == b"{"
    assert "request.crashed" in caplog.text


async def test_a_request_that_is_cancelled_ends_the_application() -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def hanging(_scope: Scope, _receive: Receive, _send: Send) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with httpx.AsyncClient(transport=InProcessTransport(hanging), base_url="http://local") as http:
        asking = asyncio.create_task(http.get("/"))
        await entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert ended.is_set()


def test_a_folder_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StartupError):
        Client.local(tmp_path / "file")


def test_a_folder_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with Client.local(tmp_path / "memory") as client:
        client.store("x")
    store = tmp_path / "memory" / "store.json"
    store.write_text(store.read_text().replace('"revision": "', '"revision": "0'))
    with pytest.raises(StartupError), Client.local(tmp_path / "memory") as client:
        client.health()


def test_neither_a_key_nor_a_password_is_in_a_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        Client("http://127.0.0.1:1", api_key="secret\n")
    assert "secret" not in caught.value.message
    url = f"http://user:secret@127.0.0.1:{free_port()}"
    with Client(url, retries=QUICK) as client, pytest.raises(Unavailable) as unreached:
        client.health()
    assert "secret" not in unreached.value.message


def test_an_idempotency_key_that_no_header_takes_is_refused(served: WorkerProcess) -> None:
    with Client(f"http://127.0.0.1:{served.port}") as client, pytest.raises(InvalidInput):
        client.store("x", idempotency_key="a\nb")


def test_a_closed_client_says_so() -> None:
    client = Client.over(Scripted())
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()


def test_a_call_that_still_waits_ends_when_another_thread_closes_the_client() -> None:
    """It once waited for ever, since the loop that its answer would have come from was gone."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.health)
            connection, _ = silent.accept()
            with connection:
                client.close()
                with pytest.raises(RuntimeError, match="closed"):
                    waiting.result(60)


class Connecting(Scripted):
    """Waits for ever, just after a cancellation within itself, as anyio makes when one of several connections is up."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    async def send(self, request: WireRequest) -> WireResponse:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        self.reached.set()
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")


def test_a_call_that_was_just_connecting_is_not_taken_for_one_that_is_ending_already() -> None:
    transport = Connecting()
    client = Client.over(transport, QUICK)
    ended = []

    def call() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            client.health()
        ended.append(True)

    waiting, closing = (threading.Thread(target=work, daemon=True) for work in (call, client.close))
    waiting.start()
    assert transport.reached.wait(10)
    closing.start()
    closing.join(10)
    waiting.join(10)
    assert ended
    assert not closing.is_alive()


def test_retries_send_at_least_once() -> None:
    with pytest.raises(InvalidInput, match="attempts_max"):
        Retries(attempts_max=0)


def test_many_threads_share_a_client(served: WorkerProcess) -> None:
    with Client(f"http://127.0.0.1:{served.port}") as client:
        failures = []

        def work(name: str) -> None:
            try:
                for n in range(10):
                    client.store(f"{name} {n}", key=f"{name}{n}", namespace="threads")
            except ServiceError as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert len(list(client.list(namespace="threads"))) == 40


def test_importing_the_client_loads_no_part_of_the_service() -> None:
    code = (
        "import sys; from vector_memory import Client; Client('http://127.0.0.1:1').close();"
        "heavy = 'fastapi starlette faiss onnxruntime numpy memory_service research gateway sqlite3'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
