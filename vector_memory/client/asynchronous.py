"""The asynchronous client. It has one method for each operation of the service."""

import base64
import importlib
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeAlias, TypeVar

from vector_memory import operations
from vector_memory.administration import Compacted, Health, Stats, ToolDescription
from vector_memory.client.asking import asks
from vector_memory.client.errors import SUCCESS, answered, failure
from vector_memory.client.requests import Unanswered, WireRequest, WireResponse
from vector_memory.client.retries import Retries
from vector_memory.client.transports import HTTPTransport, Transport
from vector_memory.documents import (
    FORM_OF_SUFFIX,
    DeletedDocument,
    Docs,
    Document,
    DocumentsPage,
    Form,
    Library,
    PlacedDocument,
    Uploaded,
)
from vector_memory.errors import InvalidInput, ServiceError, StartupError, Unavailable
from vector_memory.fields import JSON, Request, Value
from vector_memory.memories import (
    DEFAULT_NAMESPACE,
    Consistency,
    Deleted,
    Deletion,
    DuplicatesPage,
    Event,
    Memory,
    NewMemory,
    Page,
    Receipt,
    Refused,
    Stored,
)
from vector_memory.operations import Operation, Repeat
from vector_memory.research import Answer, Cited, Context, Failed, ResearchRequest, Token, read_step
from vector_memory.retrieval import Retrieval, Retrieved

if TYPE_CHECKING:
    from gateway.serving.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
Q = TypeVar("Q", bound=Request)
A = TypeVar("A", bound=Value)

Source: TypeAlias = str | bytes | Path
"""A document's text, its bytes, or the path of its file."""

ResearchEvent: TypeAlias = Context | Token | Cited | Answer
"""A step of a streamed research. A failure is not a step: it is raised."""

TIMEOUT_S = 120.0
"""Default seconds for one attempt. Research waits a minute for its LLM; storing 1,000 long texts takes as long."""


class AsyncClient:
    """A client of a vector-memory service over HTTP, for asynchronous programs.

        async with AsyncClient("http://127.0.0.1:8000") as memories:
            await memories.store("Dana drinks an oat flat white.", key="dana/coffee")

    Every method raises an error of `vector_memory.errors`. Its `field` names the field to blame. Its `status` and
    `request_id` are set if the service answered. `Unavailable` without a status means that the service cannot be
    reached.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        """Prepare the client. Nothing is sent yet.

        Args:
            url: the service's address.
            api_key: the key that the service, or a proxy in front of it, asks for.
            timeout_s: seconds for one attempt.
            retries: how often a request that may safely be repeated is sent again.
        """
        self._transport: Transport = HTTPTransport(url, api_key=api_key, timeout_s=timeout_s)
        self._retries = retries or Retries()

    @classmethod
    def over(cls, transport: Transport, retries: Retries | None = None) -> Self:
        """Return a client over a transport of your own."""
        client = cls.__new__(cls)
        client._transport = transport
        client._retries = retries or Retries()
        return client

    @classmethod
    def runpod(
        cls,
        endpoint_id: str,
        *,
        api_key: str,
        timeout_s: float = 300.0,
        retries: Retries | None = None,
        url: str | None = None,
    ) -> Self:
        """Return a client of a RunPod queue endpoint, whose cold start may take minutes. `url` defaults to RunPod's."""
        from vector_memory.client.runpod import RUNPOD_URL, RunPodTransport

        transport = RunPodTransport(endpoint_id, api_key=api_key, timeout_s=timeout_s, url=url or RUNPOD_URL)
        return cls.over(transport, retries)

    @classmethod
    def local(
        cls,
        folder: "Path | str | Worker",
        *,
        settings: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Self:
        """Return a client of a service in this process, over a data folder. This needs the package `vector-memory`.

        Args:
            folder: the path of the data folder, or a worker. A missing folder is created, and the first call loads its
                memories. A worker stays open when the client closes.
            settings: values by the names of variables, such as `LLM_FALLBACK`. They override the environment.
            timeout_s: has no effect on a service in this process.

        Raises:
            StartupError: the folder cannot be used, a setting is wrong, or `vector-memory` is not installed. The first
                call raises it if the folder cannot be loaded.
        """
        try:
            service = importlib.import_module("gateway.serving.local")
        except ModuleNotFoundError as error:
            raise StartupError(
                "Client.local runs the service in this process, which needs it: pip install vector-memory."
            ) from error
        transport: Transport = service.LocalTransport.over(folder, settings or {}, timeout_s=timeout_s)
        return cls.over(transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, and what `local` opened."""
        await self._transport.close()

    async def call(
        self, operation: Operation[Q, A], request: Q | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> A:
        """Call any operation of `vector_memory.operations`. The other methods are shorthands for this one.

        Args:
            operation: the operation, such as `operations.RETRIEVE`.
            request: a value of the operation's request type, or the fields as JSON values.
            idempotency_key: your name for this write. Repeating the write within a day returns the first answer.
        """
        fields = request.sent() if isinstance(request, Request) else request
        wire = _wire(operation, fields, idempotency_key)
        body = answered(await self._retries.send(wire, self._transport.send))
        return _read(operation.answer.read, body)

    async def store(
        self,
        content: str,
        *,
        key: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: Mapping[str, JSON] | None = None,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Store one memory. It is durable and retrievable when this returns."""
        fields = _given(content=content, key=key, namespace=namespace, metadata=metadata, ttl_seconds=ttl_seconds)
        return await self.call(operations.STORE, fields, idempotency_key=idempotency_key)

    async def store_batch(
        self, memories: Iterable[NewMemory | Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Sequence[Stored | Refused]:
        """Store up to 1,000 memories and return their results in order. A refused memory does not affect the others."""
        items = [memory.sent() if isinstance(memory, NewMemory) else dict(memory) for memory in memories]
        batch = await self.call(operations.STORE_BATCH, {"memories": items}, idempotency_key=idempotency_key)
        return batch.results

    @asks(Retrieval)
    async def retrieve(self, query: str | None = None, **fields: Any) -> Retrieved:
        """Find the memories that answer a query best, or those most similar to the memory that `like` names.

        Only memories that match `filter` and the other conditions are candidates. The keywords are the fields of
        `Retrieval`.
        """
        return await self.call(operations.RETRIEVE, _given(query=query, **fields))

    async def retrieve_batch(self, retrievals: Sequence[Retrieval]) -> Sequence[Retrieved]:
        """Answer up to 100 retrievals in one request and return their results in order. Their queries share a batch."""
        queries = [retrieval.sent() for retrieval in retrievals]
        return (await self.call(operations.RETRIEVE_BATCH, {"queries": queries})).results

    async def near_duplicates(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        threshold: float | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DuplicatesPage:
        """Return one page of the memories that say almost the same as an earlier memory. Nothing is merged."""
        fields = _given(namespace=namespace, filter=filter, threshold=threshold, limit=limit, cursor=cursor)
        return await self.call(operations.DUPLICATES, fields)

    async def get(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> Memory:
        """Return one memory as it is now, or as it was at the time `as_of` (ISO 8601).

        Raises:
            NotFound: there is no such memory.
        """
        fields = _given(key=key, namespace=namespace, as_of=as_of, consistency=consistency)
        return await self.call(operations.GET, fields)

    async def history(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency | str | None = None
    ) -> Sequence[Event]:
        """Return what happened to a memory since it was last deleted, newest first."""
        fields = _given(key=key, namespace=namespace, consistency=consistency)
        return (await self.call(operations.HISTORY, fields)).events

    async def page(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
        embeddings: bool = False,
    ) -> Page:
        """Return one page of a listing, newest first. With `embeddings`, each memory has its vectors."""
        fields = _given(
            namespace=namespace,
            filter=filter,
            limit=limit,
            cursor=cursor,
            as_of=as_of,
            consistency=consistency,
            embeddings=embeddings or None,
        )
        return await self.call(operations.LIST, fields)

    async def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        page_size: int = 100,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> AsyncGenerator[Memory]:
        """Yield every memory that matches, newest first. Each page is fetched when it is needed."""
        cursor: str | None = None
        while True:
            page = await self.page(
                namespace=namespace,
                filter=filter,
                limit=page_size,
                cursor=cursor,
                as_of=as_of,
                consistency=consistency,
            )
            for memory in page.memories:
                yield memory
            if page.cursor is None:
                return
            cursor = page.cursor

    async def update(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        content: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Change the text, the metadata or the lifetime of a memory.

        Metadata is merged key by key. A null removes its key.

        Raises:
            NotFound: there is no such memory.
        """
        fields = _given(key=key, namespace=namespace, content=content, metadata=metadata, ttl_seconds=ttl_seconds)
        return await self.call(operations.UPDATE, fields, idempotency_key=idempotency_key)

    async def delete(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        receipt: bool = False,
        idempotency_key: str | None = None,
    ) -> Deleted:
        """Delete one memory.

        Raises:
            NotFound: there is no such memory.
        """
        fields = _given(key=key, namespace=namespace, receipt=receipt or None)
        return await self.call(operations.DELETE, fields, idempotency_key=idempotency_key)

    async def delete_many(
        self,
        *,
        keys: Sequence[str] | None = None,
        filter: Mapping[str, JSON] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        dry_run: bool = False,
        receipt: bool = False,
        idempotency_key: str | None = None,
    ) -> Deletion:
        """Delete up to 1,000 keys, or every memory in the namespace that matches a filter."""
        fields = _given(
            keys=None if keys is None else [*keys],
            filter=filter,
            namespace=namespace,
            dry_run=dry_run or None,
            receipt=receipt or None,
        )
        return await self.call(operations.DELETE_MANY, fields, idempotency_key=idempotency_key)

    async def receipt(self, id: str) -> Receipt:
        """Return which files still hold the bytes of deleted memories. `id` comes from the receipt of the delete."""
        return await self.call(operations.RECEIPT, {"receipt": id})

    @asks(ResearchRequest)
    async def research(self, query: str | None = None, **fields: Any) -> Answer:
        """Answer a question from the memories, with citations. The keywords are the fields of `ResearchRequest`."""
        return await self.call(operations.RESEARCH, _given(query=query, **fields))

    @asks(ResearchRequest)
    async def research_stream(self, query: str | None = None, **fields: Any) -> AsyncGenerator[ResearchEvent]:
        """Answer a question and yield each step. Closing the iterator stops the LLM.

        Yields:
            Context first. Then Token for each piece of text and Cited for each citation of a complete sentence. The
            whole Answer last.

        Raises:
            InvalidInput: a field is wrong, or the RunPod queue endpoint does not stream.
            ServiceError: the research failed. Tokens that were yielded before are then not an answer.
        """
        wire = _wire(operations.RESEARCH, _given(query=query, **fields, stream=True), None)
        response = await self._retries.send(wire, self._transport.stream)
        # Without events the request failed, and `answered` raises the reason. A success that does not stream is an
        # error too, since a stream was asked for.
        if response.events is None:
            answered(response)
            raise failure(response)
        try:
            async with aclosing(response.events) as events:
                async for event in events:
                    if event.name == "error":
                        raise failure(WireResponse(SUCCESS.start, event.data))
                    step = _read(lambda sent: read_step(sent.name, sent.data), event)
                    # None is an event of a newer service, which this client passes over.
                    if step is not None and not isinstance(step, Failed):
                        yield step
                    if isinstance(step, Answer):
                        return
        except Unanswered as unanswered:
            raise Unavailable(unanswered.reason) from unanswered
        raise Unavailable("The stream ended before its answer.")

    async def store_document(
        self,
        source: Source,
        *,
        form: str | None = None,
        id: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        title: str | None = None,
        library: str | None = None,
        topic: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
    ) -> Uploaded:
        """Store a document as chunks. Each chunk is a memory.

        Storing a document again under its id replaces only the chunks that changed.

        Args:
            source: the document's text, its bytes, or the path of its file.
            form: `text`, `markdown`, `html` or `pdf`. The default is the form of the file's name for a path, text for a
                text, and pdf for bytes.
            id: your name for the document. The default is derived from the source, so the same source has the same id.
            namespace: the namespace of the chunks.
            title: the document's title. The default is the title in the document, or its id.
            library: the library whose documentation the document is part of.
            topic: what the document is about.
            metadata: the metadata of every chunk.
        """
        fields = _given(id=id, namespace=namespace, title=title, library=library, topic=topic, metadata=metadata)
        return await self.call(operations.STORE_DOCUMENT, _content(source, form) | fields)

    async def documents_page(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> DocumentsPage:
        """Return one page of the documents, in order of id."""
        fields = _given(namespace=namespace, library=library, limit=limit, cursor=cursor, consistency=consistency)
        return await self.call(operations.LIST_DOCUMENTS, fields)

    async def documents(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        page_size: int = 100,
        consistency: Consistency | str | None = None,
    ) -> AsyncGenerator[Document]:
        """Yield every document, in order of id. Each page is fetched when it is needed."""
        cursor: str | None = None
        while True:
            page = await self.documents_page(
                namespace=namespace, library=library, limit=page_size, cursor=cursor, consistency=consistency
            )
            for document in page.documents:
                yield document
            if page.cursor is None:
                return
            cursor = page.cursor

    async def document(
        self, id: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency | str | None = None
    ) -> PlacedDocument:
        """Return one document and the places of its chunks."""
        return await self.call(operations.GET_DOCUMENT, _given(id=id, namespace=namespace, consistency=consistency))

    async def delete_document(
        self,
        id: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        receipt: bool = False,
        idempotency_key: str | None = None,
    ) -> DeletedDocument:
        """Delete a document and all its chunks in one step.

        Raises:
            NotFound: there is no such document.
        """
        fields = _given(id=id, namespace=namespace, receipt=receipt or None)
        return await self.call(operations.DELETE_DOCUMENT, fields, idempotency_key=idempotency_key)

    async def libraries(
        self,
        name: str | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        consistency: Consistency | str | None = None,
    ) -> Sequence[Library]:
        """Return the libraries that a name may mean, best first. Without a name, return all in order of id."""
        fields = _given(name=name, namespace=namespace, limit=limit, consistency=consistency)
        return (await self.call(operations.RESOLVE_LIBRARY, fields)).libraries

    async def library_docs(
        self,
        library: str,
        topic: str | None = None,
        *,
        tokens: int | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        consistency: Consistency | str | None = None,
    ) -> Docs:
        """Return a library's best chunks on a topic, as many as fit into `tokens`.

        Without a topic, the chunks are the beginnings of its documents.

        Raises:
            NotFound: there is no library of this id.
        """
        fields = _given(library=library, topic=topic, tokens=tokens, namespace=namespace, consistency=consistency)
        return await self.call(operations.GET_DOCS, fields)

    async def tools(self) -> Sequence[ToolDescription]:
        """Return the tools of the service and of the packages installed with it."""
        return (await self.call(operations.LIST_TOOLS, {})).result.tools

    async def invoke_tool(
        self, name: str, parameters: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Call a tool and return its result.

        Raises:
            NotFound: there is no such tool.
        """
        fields = {"name": name, "parameters": dict(parameters or {})}
        return (await self.call(operations.CALL_TOOL, fields, idempotency_key=idempotency_key)).result

    async def snapshot(self) -> str:
        """Take a snapshot now, so that the next start is quick, and return its name."""
        return (await self.call(operations.SNAPSHOT, {})).snapshot

    async def compact(self) -> Compacted:
        """Remove the journals that snapshots cover, so that no file still holds deleted texts."""
        return await self.call(operations.COMPACT, {})

    async def health(self) -> Health:
        """Return the state and size of the service."""
        return await self.call(operations.HEALTH, {})

    async def stats(self) -> Stats:
        """Return the number of memories in each namespace."""
        return await self.call(operations.STATS, {})


def _wire(operation: Operation[Any, Any], fields: Mapping[str, Any], idempotency_key: str | None) -> WireRequest:
    parts = operation.parts(fields)
    return WireRequest(
        parts.method,
        parts.path,
        parts.query,
        parts.body,
        # Each write has a key, so that a retry returns the first answer and does not write twice.
        idempotency_key=(idempotency_key or uuid.uuid4().hex) if operation.is_keyed else None,
        is_repeatable=operation.repeat is not Repeat.NEVER,
    )


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _content(source: Source, form: str | None) -> dict[str, Any]:
    """Return the fields that hold a document and its form. Bytes are sent as base64.

    Raises:
        InvalidInput: the file cannot be read, or its name does not tell its form.
    """
    match source:
        case str():
            return _given(content=source, form=form)
        case Path():
            # Unlike a text or bytes, a file has no default form: a wrong guess would store unreadable chunks.
            form = form or FORM_OF_SUFFIX.get(source.suffix.lower())
            if form is None:
                raise InvalidInput(f"The form of {source} cannot be told from its name; pass one of {', '.join(Form)}.")
            return _content(_bytes_of(source), form)
        case bytes():
            return _given(content_base64=base64.b64encode(source).decode(), form=form)
    raise InvalidInput("source must be a text, bytes or a path.", field="source")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{path} cannot be read: {reason}.", field="source") from error


def _read(read: Callable[[Any], R], body: Any) -> R:
    try:
        return read(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError(
            "The answer is not of the shape this client knows; is this a vector-memory service of its version?"
        ) from error
