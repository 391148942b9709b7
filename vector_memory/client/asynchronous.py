"""The client for asynchronous programs."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from memory_service.documents.model import Document, DocumentsPage, Library, Uploaded
from memory_service.model import (
    DEFAULT_NAMESPACE,
    JSON,
    Compacted,
    Consistency,
    DuplicatesPage,
    Event,
    Memory,
    NewMemory,
    Page,
    Receipt,
    Refused,
    Stored,
)
from memory_service.retrieval.request import Retrieval, Retrieved
from research.events import Failed
from research.model import Answer
from vector_memory.client import operations, values
from vector_memory.client.errors import answered, failure
from vector_memory.client.operations import Operation, Source
from vector_memory.client.requests import Unanswered
from vector_memory.client.retries import Retries
from vector_memory.client.transports import HTTPTransport, Transport
from vector_memory.client.values import (
    Deletion,
    Docs,
    Health,
    PlacedDocument,
    ResearchEvent,
    ResearchFields,
    RetrieveFields,
    Stats,
    ToolDescription,
)
from vector_memory.errors import ServiceError, Unavailable

if TYPE_CHECKING:
    from gateway.serving.worker import Worker

A = TypeVar("A")
T = TypeVar("T")

TIMEOUT_S = 120.0
"""For a whole answer: research waits a minute for its LLM, and a batch of 1,000 long texts takes as long to embed."""


class AsyncClient:
    """A vector-memory service, over HTTP.

    Every method raises an error of `vector_memory.errors`, with `field` where one is to blame, and with `status` and
    `request_id` where the service answered. `Unavailable` with no status: it cannot be reached.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        """Args:
        url: of the service; nothing is sent yet.
        api_key: for what stands in front of the service, as RunPod's load balancer does; the service asks for none.
        timeout_s: for one attempt.
        retries: how often what may safely be sent again is.
        """
        self._transport: Transport = HTTPTransport(url, api_key=api_key, timeout_s=timeout_s)
        self._retries = retries or Retries()

    @classmethod
    def over(cls, transport: Transport, retries: Retries | None = None) -> Self:
        """Over a transport of your own."""
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
        """Over a queue endpoint of RunPod, whose cold start may take minutes. `url` is RunPod's own by default."""
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
        """In this process, over a data folder or a worker that is there already.

        Args:
            folder: made if need be; its memories are loaded by the first call. A worker is left open at the end.
            settings: by the names of variables, such as `LLM_FALLBACK`; they go before the environment.
            timeout_s: not used by what runs in this process, and there for the sake of what will.

        Raises:
            StartupError: the folder cannot be used, or a setting is wrong; from the first call if it cannot be loaded.
        """
        from vector_memory.client.local import LocalTransport

        return cls.over(LocalTransport.over(folder, settings or {}, timeout_s=timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release connections, and what `local` opened."""
        await self._transport.close()

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
        """Keep one memory: durable and retrievable when this returns."""
        memory = NewMemory(content, key, namespace, metadata, ttl_seconds)
        return await self._done(operations.store(memory, idempotency_key))

    async def store_batch(
        self, memories: Iterable[NewMemory], *, idempotency_key: str | None = None
    ) -> list[Stored | Refused]:
        """Keep up to 1,000 memories, each judged on its own; results in their order."""
        return await self._done(operations.store_batch(memories, idempotency_key))

    async def retrieve(self, query: str | None = None, **fields: Unpack[RetrieveFields]) -> Retrieved:
        """Find the memories that answer a query best (or are `like` one), among those that match."""
        return await self._done(operations.retrieve(query, fields))

    async def retrieve_batch(self, retrievals: Sequence[Retrieval]) -> list[Retrieved]:
        """Answer up to 100 retrievals, whose queries share the model's runs; results in their order."""
        return await self._done(operations.retrieve_batch(retrievals))

    async def near_duplicates(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        threshold: float | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DuplicatesPage:
        """Report which memories say almost the same as an earlier one, page by page; nothing is merged."""
        wanted = operations.near_duplicates(
            namespace=namespace, filter=filter, threshold=threshold, limit=limit, cursor=cursor
        )
        return await self._done(wanted)

    async def get(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> Memory:
        """One memory by its key, as it is or as it was at a time (ISO 8601)."""
        return await self._done(operations.get(key, namespace=namespace, as_of=as_of, consistency=consistency))

    async def history(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency | str | None = None
    ) -> list[Event]:
        """What happened to a memory since it was last deleted, newest first."""
        return await self._done(operations.history(key, namespace=namespace, consistency=consistency))

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
        """One page of a listing, newest first; with `embeddings` the vectors of each memory."""
        wanted = operations.page(
            namespace=namespace,
            filter=filter,
            limit=limit,
            cursor=cursor,
            as_of=as_of,
            consistency=consistency,
            embeddings=embeddings,
        )
        return await self._done(wanted)

    async def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        page_size: int = 100,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> AsyncIterator[Memory]:
        """Every memory that matches, newest first; pages are fetched as they are needed."""
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
        """Change the text, the metadata (merged key by key, null removes one) or the lifetime of a memory.

        Raises:
            NotFound: there is none.
        """
        wanted = operations.update(
            key, namespace, idempotency_key, content=content, metadata=metadata, ttl_seconds=ttl_seconds
        )
        return await self._done(wanted)

    async def delete(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        receipt: bool = False,
        idempotency_key: str | None = None,
    ) -> Deletion:
        """Delete one memory.

        Raises:
            NotFound: there is none.
        """
        return await self._done(operations.delete(key, namespace, receipt=receipt, idempotency_key=idempotency_key))

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
        """Delete up to 1,000 keys, or everything in the namespace that matches a filter."""
        listed = None if keys is None else [*keys]
        wanted = operations.delete_many(
            idempotency_key, keys=listed, filter=filter, namespace=namespace, dry_run=dry_run, receipt=receipt
        )
        return await self._done(wanted)

    async def receipt(self, id: str) -> Receipt:
        """In which files the bytes of what a delete removed still are."""
        return await self._done(operations.receipt(id))

    async def research(self, query: str, **fields: Unpack[ResearchFields]) -> Answer:
        """Answer a question from the memories, with citations."""
        return await self._done(operations.research(query, fields))

    async def research_stream(self, query: str, **fields: Unpack[ResearchFields]) -> AsyncGenerator[ResearchEvent]:
        """Answer a question, and tell what happens on the way. Closing the iterator ends the LLM's work.

        Yields:
            Context, then Token for each piece of text and Cited for each citation of a sentence that is complete, then
            the whole Answer.

        Raises:
            InvalidInput: also where nothing streams: on a queue endpoint of RunPod.
            ServiceError: as `research`; also after the answer has begun, and what came before is none then.
        """
        response = await self._retries.send(operations.research_stream(query, fields), self._transport.stream)
        if response.events is None:
            answered(response)
            raise failure(response)
        try:
            async with aclosing(response.events) as events:
                async for event in events:
                    told = _understood(values.research_event, event)
                    if isinstance(told, Failed):
                        raise told.error
                    if told is not None:
                        yield told
                    if isinstance(told, Answer):
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
        """Keep a document as chunks, which are memories; storing it again under its id replaces only what changed.

        Args:
            source: its text, its bytes, or the file that has them.
            form: `text`, `markdown`, `html` or `pdf`; default: by the file's name, else text, and pdf for bytes.
            id: default: derived from the source, so that the same source is the same document.
            namespace: in which.
            title: default: its own, or else its id.
            library: whose documentation it is part of.
            topic: what it is about.
            metadata: of all its chunks.
        """
        wanted = operations.store_document(
            source,
            form=form,
            id=id,
            namespace=namespace,
            title=title,
            library=library,
            topic=topic,
            metadata=metadata,
        )
        return await self._done(wanted)

    async def documents_page(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> DocumentsPage:
        """One page of the documents, in order of id."""
        wanted = operations.documents_page(
            namespace=namespace, library=library, limit=limit, cursor=cursor, consistency=consistency
        )
        return await self._done(wanted)

    async def documents(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        page_size: int = 100,
        consistency: Consistency | str | None = None,
    ) -> AsyncIterator[Document]:
        """Every document, in order of id; pages are fetched as they are needed."""
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
        """One document, and where its chunks stand."""
        return await self._done(operations.document(id, namespace=namespace, consistency=consistency))

    async def delete_document(
        self,
        id: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        receipt: bool = False,
        idempotency_key: str | None = None,
    ) -> Deletion:
        """Delete a document with all its chunks, at once.

        Raises:
            NotFound: there is none.
        """
        wanted = operations.delete_document(id, namespace, receipt=receipt, idempotency_key=idempotency_key)
        return await self._done(wanted)

    async def libraries(
        self,
        name: str | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        consistency: Consistency | str | None = None,
    ) -> Sequence[Library]:
        """Libraries that a name may mean, best first; without one all, in order of id."""
        wanted = operations.libraries(name=name, namespace=namespace, limit=limit, consistency=consistency)
        return await self._done(wanted)

    async def library_docs(
        self,
        library: str,
        topic: str | None = None,
        *,
        tokens: int | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        consistency: Consistency | str | None = None,
    ) -> Docs:
        """The best chunks of a library on a topic that fit so many tokens; without one, how its documents begin.

        Raises:
            NotFound: there is no library of this id.
        """
        wanted = operations.library_docs(
            library, topic=topic, tokens=tokens, namespace=namespace, consistency=consistency
        )
        return await self._done(wanted)

    async def tools(self) -> Sequence[ToolDescription]:
        """The tools that the service has: its own, and those that packages bring."""
        return await self._done(operations.tools())

    async def invoke_tool(
        self, name: str, parameters: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Call a tool, and get its result.

        Raises:
            NotFound: there is no such tool.
        """
        return await self._done(operations.invoke_tool(name, parameters or {}, idempotency_key))

    async def snapshot(self) -> str:
        """Take a snapshot now, so that the next start is quick; its name."""
        return await self._done(operations.snapshot())

    async def compact(self) -> Compacted:
        """Remove journals that snapshots cover, so that deleted texts are in no file any more."""
        return await self._done(operations.compact())

    async def health(self) -> Health:
        """How the service is."""
        return await self._done(operations.health())

    async def stats(self) -> Stats:
        """How many memories each namespace has."""
        return await self._done(operations.stats())

    async def _done(self, operation: Operation[T]) -> T:
        return _understood(operation.read, answered(await self._retries.send(operation.request, self._transport.send)))


def _understood(read: Callable[[A], T], answer: A) -> T:
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError(
            "The answer is not of the shape this client knows; is this a vector-memory service of its version?"
        ) from error
