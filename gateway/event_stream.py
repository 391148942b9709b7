"""Server-sent events of a research that goes on while it is read (WHATWG HTML, section 9.2)."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi.responses import StreamingResponse

from gateway.wire import step_body
from memory_service.errors import ServiceError
from research.events import Failed, Step

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""Proxies close a connection on which nothing moves, usually after 60 s; a model that starts takes longer."""

_WAITING_MAX = 64
"""Steps that may wait for a slow reader; then the LLM's own stream waits too."""

_CRASHED = "Something went wrong inside the service; its log has the details under this request id."


async def streamed(steps: AsyncGenerator[Step], *, heartbeat_s: float = HEARTBEAT_S) -> StreamingResponse:
    """A response that tells steps as they come. It begins with the first, so an error before it keeps its status.

    A client that goes away ends what makes them.
    """
    first = await anext(steps)
    return StreamingResponse(
        _body(first, steps, heartbeat_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _body(first: Step, steps: AsyncGenerator[Step], heartbeat_s: float) -> AsyncIterator[bytes]:
    waiting: asyncio.Queue[Step | None] = asyncio.Queue(_WAITING_MAX)
    # A task of its own, which a client that goes away cancels exactly once: Starlette's cancellation comes back at
    # every `await`, and would keep the LLM's connection from being closed.
    pump = asyncio.create_task(_pump(steps, waiting))
    try:
        yield _written(first)
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    step = await waiting.get()
            except TimeoutError:
                yield b": waiting\n\n"
                continue
            if step is None:
                return
            yield _written(step)
    finally:
        pump.cancel()


async def _pump(steps: AsyncGenerator[Step], waiting: "asyncio.Queue[Step | None]") -> None:
    try:
        async with aclosing(steps):
            async for step in steps:
                await waiting.put(step)
    except ServiceError as error:
        await waiting.put(Failed(error))
    except Exception:  # the status is sent; what is left is an event that says so
        log.exception("request.crashed")
        await waiting.put(Failed(ServiceError(_CRASHED)))
    await waiting.put(None)


def _written(step: Step) -> bytes:
    name, data = step_body(step)
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()
