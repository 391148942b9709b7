"""The client for ordinary programs: the asynchronous one, whose loop runs in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
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
from research.model import Answer
from vector_memory.client.asynchronous import TIMEOUT_S, AsyncClient
from vector_memory.client.operations import Source
from vector_memory.client.retries import Retries
from vector_memory.client.transports import Transport
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

if TYPE_CHECKING:
    from gateway.serving.worker import Worker

T = TypeVar("T")

_CLOSED = "The client is closed."
_ENDING_S_MAX = 1.0
"""For what ends by itself. A call that goes on is cancelled again; a task that waits for something else is left."""


class _Loop:
    """An event loop in a thread that does not keep the process alive."""

    def __init__(self) -> None:
        self._submitting = threading.Lock()
        self._is_ending = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vector-memory-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; interrupted, it is cancelled.

        Raises:
            RuntimeError: the client is closed, or was meanwhile.
        """
        with self._submitting:
            if self._is_ending:
                work.close()
                raise RuntimeError(_CLOSED)
            done = asyncio.run_coroutine_threadsafe(self._noted(work), self._loop)
        try:
            return done.result()
        except CancelledError as error:
            raise RuntimeError(_CLOSED) from error
        except BaseException:
            done.cancel()
            raise

    async def _noted(self, work: Coroutine[Any, Any, T]) -> T:
        """Work that the end of the loop cancels: otherwise whoever waits for it would wait for ever."""
        task = asyncio.current_task()
        assert task is not None, "runs in a task of its own"
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    def each(self, values: AsyncGenerator[T]) -> Generator[T]:
        """The values as they come; closing this closes what makes them."""
        try:
            while (value := self.run(_next(values))) is not None:
                yield value[0]
        finally:
            with contextlib.suppress(
                RuntimeError
            ):  # the client is closed, or interrupted: then they are ending already
                self.run(values.aclose())

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, do the last work, and end loop and thread."""
        with self._submitting:
            if self._is_ending:
                last.close()
                return
            self._is_ending = True
        try:
            asyncio.run_coroutine_threadsafe(self._ended(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _ended(self, last: Coroutine[Any, Any, None]) -> None:
        running = set(self._tasks)
        for task in running:
            if not task.cancelling():  # an interrupted one is ending already; twice would break off how it ends
                task.cancel()
        while running:
            _, running = await asyncio.wait(running, timeout=_ENDING_S_MAX)
            for task in running:  # not interrupted: for a moment a scope of anyio's that ends counts as that too
                task.cancel()
        await last
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S_MAX):
                await self._alone()
        await self._loop.shutdown_default_executor()

    async def _alone(self) -> None:
        """Wait until no other task is left.

        A generator that nobody holds any more ends in a task of its own, which is made one turn of the loop after it
        was dropped and may drop the next generator, inside it. Such a chain can hide from one look, never from two in
        neighbouring turns.
        """
        looks = 0
        while looks < 2:
            await asyncio.sleep(0)
            looks += 1
            if rest := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(rest)
                looks = 0


async def _next(values: AsyncGenerator[T]) -> tuple[T] | None:
    async for value in values:
        return (value,)
    return None


class Client:
    """A vector-memory service, over HTTP. Thread-safe.

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
        """As `AsyncClient`."""
        self._begin(AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries))

    @classmethod
    def over(cls, transport: Transport, retries: Retries | None = None) -> Self:
        """Over a transport of your own."""
        return cls._of(AsyncClient.over(transport, retries))

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
        return cls._of(AsyncClient.runpod(endpoint_id, api_key=api_key, timeout_s=timeout_s, retries=retries, url=url))

    @classmethod
    def local(
        cls,
        folder: "Path | str | Worker",
        *,
        settings: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Self:
        """In this process, over a data folder or a worker that is there already; see `AsyncClient.local`."""
        return cls._of(AsyncClient.local(folder, settings=settings, timeout_s=timeout_s))

    @classmethod
    def _of(cls, client: AsyncClient) -> Self:
        self = cls.__new__(cls)
        self._begin(client)
        return self

    def _begin(self, client: AsyncClient) -> None:
        self._client = client
        self._loop = _Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release connections, and what `local` opened. What other threads still wait for ends in a RuntimeError."""
        self._loop.close(self._client.close())

    def store(
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
        work = self._client.store(
            content,
            key=key,
            namespace=namespace,
            metadata=metadata,
            ttl_seconds=ttl_seconds,
            idempotency_key=idempotency_key,
        )
        return self._loop.run(work)

    def store_batch(
        self, memories: Iterable[NewMemory], *, idempotency_key: str | None = None
    ) -> "list[Stored | Refused]":
        """Keep up to 1,000 memories, each judged on its own; results in their order."""
        return self._loop.run(self._client.store_batch([*memories], idempotency_key=idempotency_key))

    def retrieve(self, query: str | None = None, **fields: Unpack[RetrieveFields]) -> Retrieved:
        """Find the memories that answer a query best (or are `like` one), among those that match."""
        return self._loop.run(self._client.retrieve(query, **fields))

    def retrieve_batch(self, retrievals: Sequence[Retrieval]) -> "list[Retrieved]":
        """Answer up to 100 retrievals, whose queries share the model's runs; results in their order."""
        return self._loop.run(self._client.retrieve_batch(retrievals))

    def near_duplicates(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        threshold: float | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DuplicatesPage:
        """Report which memories say almost the same as an earlier one, page by page; nothing is merged."""
        work = self._client.near_duplicates(
            namespace=namespace, filter=filter, threshold=threshold, limit=limit, cursor=cursor
        )
        return self._loop.run(work)

    def get(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> Memory:
        """One memory by its key, as it is or as it was at a time (ISO 8601)."""
        return self._loop.run(self._client.get(key, namespace=namespace, as_of=as_of, consistency=consistency))

    def history(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency | str | None = None
    ) -> "list[Event]":
        """What happened to a memory since it was last deleted, newest first."""
        return self._loop.run(self._client.history(key, namespace=namespace, consistency=consistency))

    def page(
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
        work = self._client.page(
            namespace=namespace,
            filter=filter,
            limit=limit,
            cursor=cursor,
            as_of=as_of,
            consistency=consistency,
            embeddings=embeddings,
        )
        return self._loop.run(work)

    def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        page_size: int = 100,
        as_of: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> Iterator[Memory]:
        """Every memory that matches, newest first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            page = self.page(
                namespace=namespace,
                filter=filter,
                limit=page_size,
                cursor=cursor,
                as_of=as_of,
                consistency=consistency,
            )
            yield from page.memories
            if page.cursor is None:
                return
            cursor = page.cursor

    def update(
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
        work = self._client.update(
            key,
            namespace=namespace,
            content=content,
            metadata=metadata,
            ttl_seconds=ttl_seconds,
            idempotency_key=idempotency_key,
        )
        return self._loop.run(work)

    def delete(
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
        work = self._client.delete(key, namespace=namespace, receipt=receipt, idempotency_key=idempotency_key)
        return self._loop.run(work)

    def delete_many(
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
        work = self._client.delete_many(
            keys=keys,
            filter=filter,
            namespace=namespace,
            dry_run=dry_run,
            receipt=receipt,
            idempotency_key=idempotency_key,
        )
        return self._loop.run(work)

    def receipt(self, id: str) -> Receipt:
        """In which files the bytes of what a delete removed still are."""
        return self._loop.run(self._client.receipt(id))

    def research(self, query: str, **fields: Unpack[ResearchFields]) -> Answer:
        """Answer a question from the memories, with citations."""
        return self._loop.run(self._client.research(query, **fields))

    def research_stream(self, query: str, **fields: Unpack[ResearchFields]) -> Generator[ResearchEvent]:
        """Answer a question, and tell what happens on the way; see `AsyncClient.research_stream`."""
        return self._loop.each(self._client.research_stream(query, **fields))

    def store_document(
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
        work = self._client.store_document(
            source,
            form=form,
            id=id,
            namespace=namespace,
            title=title,
            library=library,
            topic=topic,
            metadata=metadata,
        )
        return self._loop.run(work)

    def documents_page(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        consistency: Consistency | str | None = None,
    ) -> DocumentsPage:
        """One page of the documents, in order of id."""
        work = self._client.documents_page(
            namespace=namespace, library=library, limit=limit, cursor=cursor, consistency=consistency
        )
        return self._loop.run(work)

    def documents(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        page_size: int = 100,
        consistency: Consistency | str | None = None,
    ) -> Iterator[Document]:
        """Every document, in order of id; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            page = self.documents_page(
                namespace=namespace, library=library, limit=page_size, cursor=cursor, consistency=consistency
            )
            yield from page.documents
            if page.cursor is None:
                return
            cursor = page.cursor

    def document(
        self, id: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency | str | None = None
    ) -> PlacedDocument:
        """One document, and where its chunks stand."""
        return self._loop.run(self._client.document(id, namespace=namespace, consistency=consistency))

    def delete_document(
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
        work = self._client.delete_document(id, namespace=namespace, receipt=receipt, idempotency_key=idempotency_key)
        return self._loop.run(work)

    def libraries(
        self,
        name: str | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int | None = None,
        consistency: Consistency | str | None = None,
    ) -> Sequence[Library]:
        """Libraries that a name may mean, best first; without one all, in order of id."""
        work = self._client.libraries(name, namespace=namespace, limit=limit, consistency=consistency)
        return self._loop.run(work)

    def library_docs(
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
        work = self._client.library_docs(library, topic, tokens=tokens, namespace=namespace, consistency=consistency)
        return self._loop.run(work)

    def tools(self) -> Sequence[ToolDescription]:
        """The tools that the service has: its own, and those that packages bring."""
        return self._loop.run(self._client.tools())

    def invoke_tool(
        self, name: str, parameters: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Call a tool, and get its result.

        Raises:
            NotFound: there is no such tool.
        """
        return self._loop.run(self._client.invoke_tool(name, parameters, idempotency_key=idempotency_key))

    def snapshot(self) -> str:
        """Take a snapshot now, so that the next start is quick; its name."""
        return self._loop.run(self._client.snapshot())

    def compact(self) -> Compacted:
        """Remove journals that snapshots cover, so that deleted texts are in no file any more."""
        return self._loop.run(self._client.compact())

    def health(self) -> Health:
        """How the service is."""
        return self._loop.run(self._client.health())

    def stats(self) -> Stats:
        """How many memories each namespace has."""
        return self._loop.run(self._client.stats())
