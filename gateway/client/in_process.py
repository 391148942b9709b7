"""An ASGI application as a transport of httpx that passes an answer on while it is made.

httpx's own gathers the whole answer first. Closing one before its end cancels the request.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_PIECES_MAX = 64
"""Pieces that may wait for a slow reader; then the application waits too."""


class ASGITransport(httpx.AsyncBaseTransport):
    """An application, each request of which is a task."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request to the application; returns when the answer has begun."""
        exchange = _Exchange(self._application, _scope(request), await request.aread())
        head = await exchange.begun()
        return httpx.Response(head["status"], headers=head.get("headers", []), stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request, and its answer piece by piece."""

    def __init__(self, application: Application, scope: Message, body: bytes) -> None:
        self._body: bytes | None = body
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue(_PIECES_MAX)
        self._task = asyncio.create_task(self._run(application, scope))

    async def begun(self) -> Message:
        """The head of the answer; status 500 where the application ended without one."""
        try:
            return await self._sent.get() or {"status": 500}
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            yield message.get("body", b"")

    async def aclose(self) -> None:
        """Leave, and wait until the application has ended."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _next(self) -> Message | None:
        return None if self._task.done() and self._sent.empty() else await self._sent.get()

    async def _run(self, application: Application, scope: Message) -> None:
        try:
            await application(scope, self._receive, self._sent.put)
        except Exception:  # what the application has no answer for; whoever asked finds the answer cut short
            log.exception("request.crashed")
        await self._sent.put(None)

    async def _receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # a client that leaves cancels, and says nothing more
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _scope(request: httpx.Request) -> Message:
    return {
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
        "client": ("127.0.0.1", 0),
        "root_path": "",
    }
