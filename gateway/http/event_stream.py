"""Server-sent events of an answer that goes on while it is read (WHATWG HTML, section 9.2)."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from vector_memory.errors import ServiceError
from vector_memory.research import Failed, Step, step_event

_T = TypeVar("_T")

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Proxies close a connection on which nothing moves, usually after 60 s; a model that starts takes longer."""

_WAITING_MAX = 64
"""Steps that may wait for a slow reader; then the LLM's own stream waits too."""

_CLIENT_LEFT = 499
"""A status that nobody reads, by which nginx logs a client that closed its request."""

_CRASHED = "Something went wrong inside the service; its log has the details under this request id."


@dataclass(frozen=True, slots=True)
class Dialect(Generic[_T]):
    """How steps are written.

    Attributes:
        step: writes one.
        error: writes what ended them too early.
        end: stands after the last, if none did.
    """

    step: Callable[[_T], bytes]
    error: Callable[[ServiceError], bytes]
    end: bytes = b""


def _research_step(step: Step) -> bytes:
    name, data = step_event(step)
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


RESEARCH: Dialect[Step] = Dialect(_research_step, lambda error: _research_step(Failed(error=error)))


async def streamed(
    request: Request, steps: AsyncGenerator[_T], dialect: Dialect[_T], *, heartbeat_s: float = HEARTBEAT_S
) -> Response:
    """A response that tells steps as they come. It begins with the first, so an error before it keeps its status.

    A client that goes away, also before the first, ends what makes them.
    """
    making = asyncio.ensure_future(anext(steps))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({making, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            return Response(status_code=_CLIENT_LEFT)
        first = making.result()
    finally:
        making.cancel()
        leaving.cancel()
        await asyncio.wait({making, leaving})
    return StreamingResponse(
        _body(first, steps, dialect, heartbeat_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _body(first: _T, steps: AsyncGenerator[_T], dialect: Dialect[_T], heartbeat_s: float) -> AsyncIterator[bytes]:
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING_MAX)
    # A task of its own, which a client that goes away cancels exactly once: Starlette's cancellation comes back at
    # every `await`, and would keep the LLM's connection from being closed.
    pump = asyncio.create_task(_pump(first, steps, dialect, waiting))
    try:
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    written = await waiting.get()
            except TimeoutError:
                yield b": waiting\n\n"
                continue
            if written is None:
                return
            if written:
                yield written
    finally:
        pump.cancel()


async def _left(request: Request) -> None:
    """Wait until the client goes away; its whole request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _pump(
    first: _T, steps: AsyncGenerator[_T], dialect: Dialect[_T], waiting: "asyncio.Queue[bytes | None]"
) -> None:
    try:
        async with aclosing(steps):
            await waiting.put(dialect.step(first))
            async for step in steps:
                await waiting.put(dialect.step(step))
        await waiting.put(dialect.end)
    except ServiceError as error:
        await waiting.put(dialect.error(error))
    except Exception:  # the status is sent; what is left is an event that says so
        log.exception("request.crashed")
        await waiting.put(dialect.error(ServiceError(_CRASHED)))
    await waiting.put(None)
