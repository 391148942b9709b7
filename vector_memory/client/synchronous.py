"""The synchronous client. It runs the asynchronous client on an event loop in a thread of its own."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from vector_memory.client.asking import Asking
from vector_memory.client.asynchronous import TIMEOUT_S, AsyncClient
from vector_memory.client.retries import Retries
from vector_memory.client.transports import Transport

if TYPE_CHECKING:
    from gateway.serving.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")

_CLOSED = "The client is closed."
_ENDING_S_MAX = 1.0
"""Seconds to wait for running work at the end. A call that still goes on is cancelled again. Other tasks are left."""


class _Loop:
    """An event loop in a daemon thread, so that a client that nobody closed does not keep the process alive."""

    def __init__(self) -> None:
        self._submitting = threading.Lock()
        self._is_ending = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vector-memory-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result. An interrupt cancels the coroutine.

        Raises:
            RuntimeError: the client is closed, or another thread closes it before the coroutine ends.
        """
        # Submitting under the lock queues each accepted call before `_ended`, which then finds its task.
        with self._submitting:
            if self._is_ending:
                work.close()  # a coroutine that is never awaited would warn
                raise RuntimeError(_CLOSED)
            done = asyncio.run_coroutine_threadsafe(self._noted(work), self._loop)
        try:
            return done.result()
        except CancelledError as error:
            raise RuntimeError(_CLOSED) from error  # only `_ended` cancels a call whose thread still waits
        except BaseException:
            done.cancel()  # after KeyboardInterrupt the call still runs; an error of the call itself has ended it
            raise

    async def _noted(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as a task that `_ended` can cancel. Otherwise the waiting thread would wait forever."""
        task = asyncio.current_task()
        assert task is not None, "runs in a task of its own"
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    def each(self, values: AsyncGenerator[T]) -> Generator[T]:
        """Yield the values of an asynchronous generator. Closing this iterator closes that generator."""
        try:
            while (value := self.run(_next(values))) is not None:
                yield value[0]
        finally:
            # A RuntimeError says that the client is closed, or that an interrupted call still runs the generator.
            # In both cases the generator is ending already.
            with contextlib.suppress(RuntimeError):
                self.run(values.aclose())

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel the running calls, run the last coroutine, and end the loop and its thread."""
        with self._submitting:
            if self._is_ending:
                last.close()
                return
            self._is_ending = True
        try:
            asyncio.run_coroutine_threadsafe(self._ended(last), self._loop).result()
        finally:
            # The thread ends even if the clean-up failed or was interrupted.
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _ended(self, last: Coroutine[Any, Any, None]) -> None:
        running = set(self._tasks)
        for task in running:
            # An interrupted call is cancelled already. Cancelling it again would break off its clean-up.
            if not task.cancelling():
                task.cancel()
        while running:
            _, running = await asyncio.wait(running, timeout=_ENDING_S_MAX)
            # A task may have been passed over above without being cancelled: while a cancel scope of anyio ends,
            # it raises `cancelling()` for a moment. So a task that still runs is cancelled whatever the count says.
            for task in running:
                task.cancel()
        # `last` closes the connections, so it runs after the calls that use them.
        await last
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S_MAX):
                await self._alone()
        await self._loop.shutdown_default_executor()

    async def _alone(self) -> None:
        """Wait until no other task is left.

        asyncio closes an abandoned generator in a new task. That task starts one turn of the loop after the generator
        was dropped, and it may drop another generator in turn. Such a chain can escape one look at the tasks. It
        cannot escape two looks in consecutive turns.
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


def _waits(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """Derive a method that waits for the asynchronous one. It keeps the signature and the docstring."""

    @functools.wraps(method)
    def waiting(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._client, *args, **kwargs))

    return waiting


def _iterates(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T]],
) -> Callable[Concatenate["Client", P], Generator[T]]:
    """Derive a method that iterates over the values which the asynchronous one yields."""

    @functools.wraps(method)
    def iterating(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        return self._loop.each(method(self._client, *args, **kwargs))

    return iterating


def _waits_asking(method: Asking[P, Coroutine[Any, Any, T]]) -> Asking[P, T]:
    return Asking(_waits(method.method))


def _iterates_asking(method: Asking[P, AsyncGenerator[T]]) -> Asking[P, Generator[T]]:
    return Asking(_iterates(method.method))


class Client:
    """A client of a vector-memory service over HTTP. It is thread-safe.

        with Client("http://127.0.0.1:8000") as memories:
            memories.store("Dana drinks an oat flat white.", key="dana/coffee")
            print(memories.retrieve("what does Dana drink?").hits[0].content)

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
        self._begin(AsyncClient(url, api_key=api_key, timeout_s=timeout_s, retries=retries))

    @classmethod
    def over(cls, transport: Transport, retries: Retries | None = None) -> Self:
        """Return a client over a transport of your own."""
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
        """Return a client of a RunPod queue endpoint, whose cold start may take minutes. `url` defaults to RunPod's."""
        return cls._of(AsyncClient.runpod(endpoint_id, api_key=api_key, timeout_s=timeout_s, retries=retries, url=url))

    @classmethod
    def local(
        cls,
        folder: "Path | str | Worker",
        *,
        settings: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Self:
        """Return a client of a service in this process, over a data folder or a worker. See `AsyncClient.local`."""
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
        """Close the connections, and what `local` opened. A call that another thread waits for raises RuntimeError."""
        self._loop.close(self._client.close())

    # Each method is derived from the asynchronous one, so signatures and docstrings exist once.
    call = _waits(AsyncClient.call)
    store = _waits(AsyncClient.store)
    store_batch = _waits(AsyncClient.store_batch)
    retrieve = _waits_asking(AsyncClient.retrieve)
    retrieve_batch = _waits(AsyncClient.retrieve_batch)
    near_duplicates = _waits(AsyncClient.near_duplicates)
    get = _waits(AsyncClient.get)
    history = _waits(AsyncClient.history)
    page = _waits(AsyncClient.page)
    list = _iterates(AsyncClient.list)
    update = _waits(AsyncClient.update)
    delete = _waits(AsyncClient.delete)
    delete_many = _waits(AsyncClient.delete_many)
    receipt = _waits(AsyncClient.receipt)
    research = _waits_asking(AsyncClient.research)
    research_stream = _iterates_asking(AsyncClient.research_stream)
    store_document = _waits(AsyncClient.store_document)
    documents_page = _waits(AsyncClient.documents_page)
    documents = _iterates(AsyncClient.documents)
    document = _waits(AsyncClient.document)
    delete_document = _waits(AsyncClient.delete_document)
    libraries = _waits(AsyncClient.libraries)
    library_docs = _waits(AsyncClient.library_docs)
    tools = _waits(AsyncClient.tools)
    invoke_tool = _waits(AsyncClient.invoke_tool)
    snapshot = _waits(AsyncClient.snapshot)
    compact = _waits(AsyncClient.compact)
    health = _waits(AsyncClient.health)
    stats = _waits(AsyncClient.stats)
