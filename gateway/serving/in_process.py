"""An httpx transport that calls an ASGI application and returns each response while it is still being produced.

httpx's own ASGI transport collects the whole response first.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
from starlette.types import ASGIApp, Message

log = logging.getLogger(__name__)

_WAITING_MAX = 64
"""Most parts of a response that wait for a slow reader. The application waits while there are that many."""

_PART_BYTES_MAX = 500_000
"""Size from which waiting parts are no longer joined: half of what RunPod accepts as one part of a stream (1 MB)."""


class InProcessTransport(httpx.AsyncBaseTransport):
    """Runs each request as a task in an application of this process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request to the application and return when the response has begun.

        Closing the response before its end cancels the application, as a client that disconnects does.

        Raises:
            httpx.RemoteProtocolError: the application ended without a response.
        """
        exchange = _Exchange(self._app, request, await request.aread())
        start = await exchange.response_start()
        return httpx.Response(start["status"], headers=start.get("headers", ()), stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and the body of its response. Parts that wait for a slow reader are joined into one."""

    def __init__(self, app: ASGIApp, request: httpx.Request, body: bytes) -> None:
        self._body: bytes | None = body
        self._start: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING_MAX)
        self._running = asyncio.create_task(self._run(app, request))

    async def response_start(self) -> Message:
        """Wait for the status and the headers of the response and return them."""
        try:
            return await self._start
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        part = await self._waiting.get()
        while part is not None:
            # Join the parts that are waiting. None marks the end, so it stops both loops.
            joined, part = part, b""
            while not self._waiting.empty() and len(joined) < _PART_BYTES_MAX:
                part = self._waiting.get_nowait()
                if part is None:
                    break
                joined += part
            yield joined
            if part is not None:
                part = await self._waiting.get()

    async def aclose(self) -> None:
        """Disconnect, and wait until the application has ended."""
        self._running.cancel()
        await asyncio.wait({self._running})

    async def _run(self, app: ASGIApp, request: httpx.Request) -> None:
        try:
            await app(_scope(request), self._receive, self._send)
        except Exception:  # no handler answered it, so the body ends early
            log.exception("request.crashed")
        if not self._start.done():
            self._start.set_exception(httpx.RemoteProtocolError("The application ended without a response."))
        await self._waiting.put(None)

    async def _receive(self) -> Message:
        if self._body is None:
            # Wait forever: no disconnect message is sent, since a client that disconnects cancels this task.
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start.set_result(message)
        elif message.get("body"):
            await self._waiting.put(message["body"])


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
