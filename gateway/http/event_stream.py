"""Server-sent events: an answer whose client reads it while it is made (WHATWG HTML, section 9.2)."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from gateway.observability.logs import request_id
from vector_memory.errors import ServiceError
from vector_memory.research import Failed, Step, step_event

_T = TypeVar("_T")

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Seconds of silence after which a comment is sent. Proxies usually close an idle connection after 60 s, and a model
takes longer to start."""

_WAITING_MAX = 64
"""Events that may wait for a slow reader. When there are more, the LLM's own stream waits too."""

_CLIENT_LEFT = 499
"""The status under which nginx logs a client that closed its request. Nobody reads it."""

_CRASHED = "Something went wrong inside the service; its log has the details under this request id."


@dataclass(frozen=True, slots=True)
class Dialect(Generic[_T]):
    """How the steps of an answer are written as events.

    Attributes:
        step: writes one step.
        error: writes the error that ended the steps early.
        end: is written after the last step, unless an error ended them.
    """

    step: Callable[[_T], bytes]
    error: Callable[[ServiceError], bytes]
    end: bytes = b""


def _research_step(step: Step) -> bytes:
    name, data = step_event(step)
    if isinstance(step, Failed):
        data = {"error": step.error.body(request_id.get())}
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


RESEARCH: Dialect[Step] = Dialect(_research_step, lambda error: _research_step(Failed(error=error)))


async def stream_response(
    request: Request, steps: AsyncGenerator[_T], dialect: Dialect[_T], *, heartbeat_s: float = HEARTBEAT_S
) -> Response:
    """Return a response that sends steps as they come. It begins with the first, so an error before it has its status.

    A client that disconnects, also before the first step, ends the generator of the steps.
    """
    first_step = asyncio.ensure_future(anext(steps))
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({first_step, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not first_step.done():
            return Response(status_code=_CLIENT_LEFT)
        first = first_step.result()
    finally:
        first_step.cancel()
        leaving.cancel()
        await asyncio.wait({first_step, leaving})
    return StreamingResponse(
        _body(first, steps, dialect, heartbeat_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _body(first: _T, steps: AsyncGenerator[_T], dialect: Dialect[_T], heartbeat_s: float) -> AsyncIterator[bytes]:
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING_MAX)
    # A task of its own, which is cancelled once when the client disconnects. Starlette's cancellation returns at every
    # `await`, and would keep the LLM's connection from being closed.
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


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects. Its whole request has been read before."""
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
    except Exception:  # the status is sent already, so an event has to say it
        log.exception("request.crashed")
        await waiting.put(dialect.error(ServiceError(_CRASHED)))
    await waiting.put(None)
