"""Requests of an ASGI application in its own process, whose responses can be read while they are made."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from starlette.types import ASGIApp, Message

from memory_service.errors import ServiceError

log = logging.getLogger(__name__)

_WAITING_MAX = 64
"""Parts that may wait for a slow reader; then the application waits too."""

_PART_BYTES_MAX = 500_000
"""RunPod takes 1 MB for a part of a stream."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response that has begun.

    Attributes:
        is_events: whether it is a stream of server-sent events.
        parts: the body, none of them empty; what has come meanwhile is one part.
    """

    status: int
    is_events: bool
    parts: AsyncGenerator[bytes]


@asynccontextmanager
async def responding(app: ASGIApp, request: httpx.Request) -> AsyncIterator[Response]:
    """Send a request; leaving the block is for the application a client that has gone.

    httpx has a transport for this, which gives nothing out before the application is through.

    Raises:
        ServiceError: the application ended without a response.
    """
    begun: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING_MAX)
    running = asyncio.create_task(_run(app, request, begun, waiting))
    try:
        start = await begun
        headers = dict(start.get("headers", ()))
        is_events = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        yield Response(start["status"], is_events, _parts(waiting))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _run(
    app: ASGIApp, request: httpx.Request, begun: "asyncio.Future[Message]", waiting: "asyncio.Queue[bytes | None]"
) -> None:
    bodies: list[Message] = [{"type": "http.request", "body": request.content, "more_body": False}]

    async def receive() -> Message:
        return bodies.pop() if bodies else await asyncio.Future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.set_result(message)
        elif message.get("body"):
            await waiting.put(message["body"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 123),
        "root_path": "",
    }
    try:
        await app(scope, receive, send)
    except Exception:  # nobody else would hear of it
        log.exception("request.crashed")
    if not begun.done():
        begun.set_exception(ServiceError())
    await waiting.put(None)


async def _parts(waiting: "asyncio.Queue[bytes | None]") -> AsyncGenerator[bytes]:
    part = await waiting.get()
    while part is not None:
        joined, part = part, b""
        while not waiting.empty() and len(joined) < _PART_BYTES_MAX and (part := waiting.get_nowait()) is not None:
            joined += part
        yield joined
        if part is not None:
            part = await waiting.get()
