"""The one way into the services: every door has an operation carried out here, and nowhere else.

`call` takes an operation of `vector_memory.operations` and its request, and returns its answer. Whatever holds for all
calls, such as rights, quotas, counters and the audit log, belongs into `admitted`. Each function below binds
one operation to the service that carries it out; its docstring is the operation's description in `/openapi.json`.
"""

import inspect
import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, Literal, TypeVar

from starlette.concurrency import run_in_threadpool

from gateway.observability.trace_shapes import shown_trace, unpack_request, unpack_seen
from gateway.serving.services import Services
from gateway.tools.toolbox import idempotency_key
from memory_service.clock import wall_ms
from memory_service.documents.libraries import headings_of
from memory_service.documents.model import NewDocument
from memory_service.model import DeleteOutcome
from vector_memory import operations
from vector_memory.administration import (
    Compacted,
    EmbedderShown,
    Health,
    HealthEmbedder,
    Nothing,
    SnapshotTaken,
    Stats,
    ToolAnswer,
    ToolCall,
    ToolDescription,
    ToolList,
    ToolsAnswer,
)
from vector_memory.documents import (
    DeletedDocument,
    DeleteDocument,
    Docs,
    DocumentListing,
    DocumentsPage,
    GetDocument,
    Libraries,
    LibraryReading,
    LibrarySearch,
    Part,
    PlacedDocument,
    StoreDocument,
    Uploaded,
)
from vector_memory.errors import InvalidInput, ServiceError, StorageUnavailable
from vector_memory.fields import Request, Value
from vector_memory.memories import (
    BATCH,
    DELETED_KEYS_MAX,
    Batch,
    BulkDelete,
    Consistency,
    Delete,
    Deleted,
    Deletion,
    DuplicateSearch,
    DuplicatesPage,
    Get,
    GetHistory,
    History,
    Listing,
    Memory,
    NewMemory,
    Page,
    Receipt,
    Redeem,
    Refused,
    Stored,
    StoredBatch,
    Update,
    either,
)
from vector_memory.operations import Action, Operation
from vector_memory.research import (
    Answer,
    GetTrace,
    Replay,
    ReplayRequest,
    ResearchRequest,
    Step,
    TraceShown,
)
from vector_memory.retrieval import Retrieval, RetrievalBatch, Retrieved, RetrievedBatch
from vector_memory.times import iso_time

Q = TypeVar("Q", bound=Request)
A = TypeVar("A", bound=Value)
R = TypeVar("R")

Door = Literal["http", "tool", "openai"]
"""The door that a call comes in by. A RunPod job comes in by HTTP, or by OpenAI's routes; an MCP client calls tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and how.

    Attributes:
        idempotency_key: the caller's name for this write; its repetition gets the same answer.
        skips_cache: make a new answer even if the response cache has one.
    """

    door: Door
    idempotency_key: str | None = None
    skips_cache: bool = False


Handler = Callable[[Services, Q, Caller], A | Awaitable[A]]
HANDLERS: dict[str, Callable[[Services, Any, Caller], Any]] = {}
"""The function that carries out each operation, by the name of the operation."""


def carries_out(operation: Operation[Q, A]) -> Callable[[Handler[Q, A]], Handler[Q, A]]:
    """Bind an operation to the function that carries it out."""

    def bind(handler: Handler[Q, A]) -> Handler[Q, A]:
        HANDLERS[operation.name] = handler
        return handler

    return bind


def description(operation: Operation[Any, Any]) -> str:
    """Return what an operation does, in the words of its handler."""
    return inspect.getdoc(HANDLERS[operation.name]) or ""


async def call(
    services: Services, operation: Operation[Q, A], request: Q, caller: Caller, render: Callable[[A], R]
) -> R:
    """Have an operation carried out, and render its answer in the thread that made it.

    Raises:
        ServiceError: what goes wrong; each door translates it into its own words.
    """
    handler = HANDLERS[operation.name]
    with admitted(services, operation, caller):
        started = time.perf_counter()
        if inspect.iscoroutinefunction(handler):
            awaited: A = await handler(services, request, caller)
            return render(_timed(awaited, started))

        def answer() -> R:
            made: A = handler(services, request, caller)
            return render(_timed(made, started))

        return await run_in_threadpool(answer)


def call_now(services: Services, operation: Operation[Q, A], request: Q, caller: Caller) -> A:
    """Have an operation carried out in this thread; for callers that are in a thread already."""
    handler = HANDLERS[operation.name]
    assert not inspect.iscoroutinefunction(handler), "an asynchronous operation is awaited by `call`"
    with admitted(services, operation, caller):
        started = time.perf_counter()
        answer: A = handler(services, request, caller)
        return _timed(answer, started)


def stream(services: Services, request: ResearchRequest, caller: Caller) -> AsyncGenerator[Step]:
    """Have a research carried out, and yield its steps as they come."""
    return admitted_stream(services, operations.RESEARCH, caller, lambda: services.researcher.research_stream(request))


async def admitted_stream(
    services: Services, action: Action, caller: Caller, begin: Callable[[], AsyncGenerator[R]]
) -> AsyncGenerator[R]:
    """Let a call whose answer streams pass, and yield the parts of its answer."""
    with admitted(services, action, caller):
        async with aclosing(begin()) as parts:
            async for part in parts:
                yield part


@contextmanager
def admitted(services: Services, action: Action, caller: Caller) -> Iterator[None]:
    """Let a call pass, and count how it ended. Every call of every door comes through here."""
    outcome = "internal"
    try:
        yield
        outcome = "ok"
    except ServiceError as error:
        outcome = error.code
        raise
    except (CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    finally:
        services.metrics.count_call(action.name, caller.door, outcome)


def _timed(answer: A, started: float) -> A:
    if "latency_ms" not in type(answer).model_fields or (isinstance(answer, Answer) and not answer.cached):
        return answer  # research measures itself, and its trace says the same
    milliseconds = (time.perf_counter() - started) * 1000
    latency_ms = round(milliseconds) if isinstance(answer, Answer) else round(milliseconds, 2)
    return answer.model_copy(update={"latency_ms": latency_ms})


# -- the response cache ------------------------------------------------------------------------------------------------


class _Lookup(Generic[A]):
    """One look into the response cache for a read of one namespace, and what keeps a new answer."""

    def __init__(self, services: Services, operation: Operation[Any, A], request: Q, caller: Caller) -> None:
        fields = request.model_dump(mode="json")
        self._services = services
        self._answer = operation.answer
        self._namespace: str = fields["namespace"]
        consistency = Consistency(fields.get("consistency", Consistency.EVENTUAL))
        self._state = services.memories.state(self._namespace, consistency=consistency)
        self._key = services.cache.key(operation.name, self._state[0], fields)
        self.found: A | None = None
        if not caller.skips_cache:
            kept = services.cache.find(self._key)
            services.metrics.count_lookup(operation.name, is_hit=kept is not None)
            self.found = None if kept is None else operation.answer.read(kept)

    def keep(self, answer: Value) -> None:
        """Keep the answer, unless the namespace has changed while it was made."""
        if self._services.memories.state(self._namespace) == self._state:
            self._services.cache.keep(self._key, answer.body())


# -- memories ----------------------------------------------------------------------------------------------------------


@carries_out(operations.STORE)
def _store(services: Services, request: NewMemory, caller: Caller) -> Stored:
    """Keep a text under a key, durably. Storing under a key that is there updates it."""
    return services.memories.store(request, idempotency_key=caller.idempotency_key)


@carries_out(operations.STORE_BATCH)
def _store_batch(services: Services, request: Batch, caller: Caller) -> StoredBatch:
    """Keep up to 1,000 memories. Each is judged on its own: `results` are in the order of the request."""
    BATCH.check(request.memories, "memories")
    items = [_item(sent, request.namespace) for sent in request.memories]
    accepted = [item for item in items if isinstance(item, NewMemory)]
    stored = iter(services.memories.store_batch(accepted, idempotency_key=caller.idempotency_key) if accepted else [])
    results = [item if isinstance(item, Refused) else next(stored) for item in items]
    failures = [result.error for result in results if isinstance(result, Refused)]
    if len(failures) == len(results) and all(isinstance(error, StorageUnavailable) for error in failures):
        raise failures[0]
    return StoredBatch.of(results)


def _item(sent: object, namespace: str) -> NewMemory | Refused:
    """Read one item of a batch; the batch's namespace is for items that name none."""
    if isinstance(sent, NewMemory):
        return sent
    fields = {"namespace": namespace, **sent} if isinstance(sent, dict) else {}
    try:
        return NewMemory.read({"namespace": namespace, **sent} if isinstance(sent, dict) else sent)
    except InvalidInput as error:
        own, key = (value if isinstance(value := fields.get(name), str) else None for name in ("namespace", "key"))
        return Refused(namespace=own, key=key, error=error)


@carries_out(operations.RETRIEVE)
def _retrieve(services: Services, request: Retrieval, caller: Caller) -> Retrieved:
    """Return the k memories that answer the query best, best first, among those that match the filter."""
    # A look back is never cached: superseded versions end without a change of the present.
    if services.cache.is_off or request.as_of is not None:
        return services.memories.retrieve(request)
    lookup = _Lookup(services, operations.RETRIEVE, request, caller)
    if lookup.found is not None:
        return lookup.found
    retrieved = services.memories.retrieve(request)
    lookup.keep(retrieved)
    return retrieved


@carries_out(operations.RETRIEVE_BATCH)
def _retrieve_batch(services: Services, request: RetrievalBatch, _caller: Caller) -> RetrievedBatch:
    """Answer up to 100 retrieves in one: `results` are in the order of `queries`."""
    return RetrievedBatch(results=tuple(services.memories.retrieve_batch(request.queries)))


@carries_out(operations.DUPLICATES)
def _duplicates(services: Services, request: DuplicateSearch, _caller: Caller) -> DuplicatesPage:
    """Report memories that say almost the same as an earlier one, newest first, page by page. Nothing is merged."""
    return services.memories.near_duplicates(**request.arguments())


@carries_out(operations.DELETE_MANY)
def _delete_many(services: Services, request: BulkDelete, caller: Caller) -> Deletion:
    """Delete by `keys`, or everything in the namespace that matches `filter`."""
    either(request.keys, request.filter, ("keys", "filter"))
    options: dict[str, Any] = {
        "namespace": request.namespace,
        "dry_run": request.dry_run,
        "idempotency_key": caller.idempotency_key,
    }
    if request.keys is not None:
        outcome = services.memories.delete_keys(request.keys, **options)
    else:
        outcome = services.memories.delete_matching(request.filter or {}, **options)
    return Deletion(
        namespace=outcome.namespace,
        count=len(outcome.keys),
        keys=outcome.keys[:DELETED_KEYS_MAX],
        keys_truncated=len(outcome.keys) > DELETED_KEYS_MAX,
        missing=outcome.missing,
        dry_run=outcome.dry_run,
        receipt=_receipt_of(services, outcome, is_wanted=request.receipt),
    )


def _receipt_of(services: Services, outcome: DeleteOutcome, *, is_wanted: bool) -> Receipt | None:
    if not is_wanted or outcome.receipt is None:
        return None
    return services.memories.receipt(outcome.receipt)


@carries_out(operations.LIST)
def _list(services: Services, request: Listing, _caller: Caller) -> Page:
    """Return memories that match, newest first, page by page."""
    return services.memories.list(**request.arguments())


@carries_out(operations.HISTORY)
def _history(services: Services, request: GetHistory, _caller: Caller) -> History:
    """Return what happened to a memory since it was last deleted, newest first."""
    events = services.memories.history(**request.arguments())
    return History(key=request.key, namespace=request.namespace, events=tuple(events))


@carries_out(operations.GET)
def _get(services: Services, request: Get, _caller: Caller) -> Memory:
    """Return one memory by its key (percent-encoded where needed)."""
    return services.memories.get(**request.arguments())


@carries_out(operations.UPDATE)
def _update(services: Services, request: Update, caller: Caller) -> Stored:
    """Change the text, the metadata or the lifetime of a memory that is there."""
    return services.memories.update(**request.arguments(), idempotency_key=caller.idempotency_key)


@carries_out(operations.DELETE)
def _delete(services: Services, request: Delete, caller: Caller) -> Deleted:
    """Delete one memory: no call returns it, or an earlier version of it, from now on."""
    outcome = services.memories.delete(request.key, namespace=request.namespace, idempotency_key=caller.idempotency_key)
    receipt = _receipt_of(services, outcome, is_wanted=request.receipt)
    return Deleted(key=request.key, namespace=request.namespace, receipt=receipt)


@carries_out(operations.RECEIPT)
def _receipt(services: Services, request: Redeem, _caller: Caller) -> Receipt:
    """Return which files, if any, still hold the bytes of what was deleted."""
    return services.memories.receipt(request.receipt)


# -- research ----------------------------------------------------------------------------------------------------------


@carries_out(operations.RESEARCH)
async def _research(services: Services, request: ResearchRequest, caller: Caller) -> Answer:
    """Answer a question from the memories, with citations. `context` holds the numbered passages."""
    if services.cache.is_off or request.remember or request.trace:
        return await services.researcher.research(request)
    lookup: _Lookup[Answer] = await run_in_threadpool(_Lookup, services, operations.RESEARCH, request, caller)
    if lookup.found is not None:
        return lookup.found
    answer = await services.researcher.research(request)
    if not answer.degraded:
        await run_in_threadpool(lookup.keep, answer)
    return answer


@carries_out(operations.TRACE)
def _trace(services: Services, request: GetTrace, _caller: Caller) -> TraceShown:
    """Return how an answer came about, for an hour. Texts of memories that are gone or changed since are withheld."""
    from research.trace import fates

    kept = services.traces.find(request.trace_id, request.namespace)
    return shown_trace(request.trace_id, kept, fates(services.memories, request.namespace, unpack_seen(kept)))


@carries_out(operations.REPLAY)
def _replay(services: Services, request: ReplayRequest, _caller: Caller) -> Replay:
    """Retrieve for the question of a trace again: what comes as then, what vanished and why, and what is new."""
    from research.replay import replay

    kept = services.traces.find(request.trace_id, request.namespace)
    return replay(request.trace_id, unpack_request(kept), unpack_seen(kept), kept["asked_at_ms"], services.memories)


# -- documents ---------------------------------------------------------------------------------------------------------


@carries_out(operations.STORE_DOCUMENT)
def _store_document(services: Services, request: StoreDocument, _caller: Caller) -> Uploaded:
    """Keep a document as chunks, which are memories. Storing it again replaces only what changed."""
    return services.documents.store(NewDocument.of(request))


@carries_out(operations.LIST_DOCUMENTS)
def _list_documents(services: Services, request: DocumentListing, _caller: Caller) -> DocumentsPage:
    """Return documents in order of id, page by page."""
    return services.documents.list(**request.arguments())


@carries_out(operations.GET_DOCUMENT)
def _get_document(services: Services, request: GetDocument, _caller: Caller) -> PlacedDocument:
    """Return what is known of a document, and the keys and places of its chunks."""
    document, chunks = services.documents.get(**request.arguments())
    parts = tuple(
        Part(
            key=chunk.memory.key,
            number=chunk.number,
            start=chunk.start,
            end=chunk.end,
            headings=headings_of(chunk.memory.metadata),
            page=page if isinstance(page := chunk.memory.metadata.get("page"), int) else None,
        )
        for chunk in chunks
    )
    return PlacedDocument(**dict(document), parts=parts)


@carries_out(operations.DELETE_DOCUMENT)
def _delete_document(services: Services, request: DeleteDocument, caller: Caller) -> DeletedDocument:
    """Delete a document with all its chunks, at once."""
    outcome = services.documents.delete(request.id, namespace=request.namespace, idempotency_key=caller.idempotency_key)
    receipt = _receipt_of(services, outcome, is_wanted=request.receipt)
    return DeletedDocument(id=request.id, namespace=request.namespace, chunks=len(outcome.keys), receipt=receipt)


@carries_out(operations.RESOLVE_LIBRARY)
def _resolve_library(services: Services, request: LibrarySearch, _caller: Caller) -> Libraries:
    """Return libraries that a name may mean, best first; `match` tells how each was found."""
    return Libraries(libraries=tuple(services.libraries.resolve(**request.arguments())))


@carries_out(operations.GET_DOCS)
def _get_docs(services: Services, request: LibraryReading, _caller: Caller) -> Docs:
    """Return the best chunks on a topic that fit a budget of tokens, in reading order."""
    options = request.arguments()
    return services.libraries.docs(options.pop("library"), **options)


# -- tools -------------------------------------------------------------------------------------------------------------


@carries_out(operations.LIST_TOOLS)
async def _list_tools(services: Services, _request: Nothing, _caller: Caller) -> ToolsAnswer:
    """Return every tool with the JSON Schema of its parameters, as MCP lists them."""
    tools = tuple(ToolDescription.read(described) for described in services.toolbox.described())
    return ToolsAnswer(result=ToolList(tools=tools))


@carries_out(operations.CALL_TOOL)
async def _call_tool(services: Services, request: ToolCall, caller: Caller) -> ToolAnswer:
    """Call a tool with its parameters."""
    idempotency_key.set(caller.idempotency_key)
    result = await services.toolbox.invoke(request.name, request.parameters)
    return ToolAnswer(result=result)


# -- the operator ------------------------------------------------------------------------------------------------------


@carries_out(operations.STATS)
def _stats(services: Services, _request: Nothing, _caller: Caller) -> Stats:
    """Return how many memories each namespace has, and which model made their vectors."""
    counts = services.memories.counts()
    return Stats(
        memories=sum(counts.values()),
        namespaces=dict(sorted(counts.items())),
        embedder=EmbedderShown.read(services.memories.fingerprint.as_dict()),
    )


@carries_out(operations.SNAPSHOT)
def _snapshot(services: Services, _request: Nothing, _caller: Caller) -> SnapshotTaken:
    """Write the present state next to the journals, so that the next start is quick. Other requests go on."""
    return SnapshotTaken(snapshot=services.memories.snapshot())


@carries_out(operations.COMPACT)
def _compact(services: Services, _request: Nothing, _caller: Caller) -> Compacted:
    """Remove journals that snapshots cover: no file holds what was deleted afterwards, unless `kept` names one."""
    return services.memories.compact()


@carries_out(operations.HEALTH)
def _health(services: Services, _request: Nothing, _caller: Caller) -> Health:
    """Return whether requests are served, and how many memories there are. 503 while loading."""
    counts = services.memories.counts()
    embedder = services.memories.fingerprint
    problems = services.memories.problems()
    return Health(
        status="degraded" if problems else "healthy",
        problems=tuple(problems),
        version=version("vector-memory"),
        timestamp=iso_time(wall_ms()),
        memories=sum(counts.values()),
        namespaces=len(counts),
        embedder=HealthEmbedder(model=embedder.model, dim=embedder.dim),
        vllm_configured=bool(services.settings.llm.endpoints),
        llm_fallback=services.settings.llm.fallback,
    )


# An operation without a handler, or a handler without an operation, is found at the start and not by a caller.
assert HANDLERS.keys() == operations.OPERATIONS.keys(), "gateway/calls.py binds every operation, and no other"
