"""Middleware for every HTTP request: an id, a bound on the body, and a line in the log. Plain ASGI."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.errors import error_response
from gateway.observability.logs import request_id
from vector_memory.errors import LimitExceeded, ServiceError

log = logging.getLogger(__name__)

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CRASHED = "Something went wrong inside the service; its log has the details under this request id."
_UNLOGGED = frozenset({"/ping", "/health/live", "/health/ready"})


class RequestId:
    """Takes the X-Request-ID of the caller or makes one, sends it back, logs under it, and answers after a crash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if _ACCEPTABLE_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(id)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request.crashed")
            if not status:
                await error_response(ServiceError(_CRASHED))(scope, receive, send_with_id)
        finally:
            if scope["path"] not in _UNLOGGED:
                _log(scope, status, started)
            request_id.reset(token)


def _log(scope: Scope, status: int, started: float) -> None:
    """Log one line per request, with the template of the route: the path may hold a key."""
    route = getattr(scope.get("route"), "path", None)
    elapsed_ms = round((time.perf_counter() - started) * 1000, 1)
    log.info("request.served", extra={"method": scope["method"], "route": route, "status": status, "ms": elapsed_ms})


class BodyLimit:
    """Refuses bodies over a number of bytes: at once if the declared length says so, otherwise while they arrive."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._bytes_max:
            await error_response(LimitExceeded(self._message()))(scope, receive, send)
            return
        received = 0

        async def receive_counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise HTTPException(413, self._message())
            return message

        await self._app(scope, receive_counting, send)

    def _message(self) -> str:
        return f"The body is over {self._bytes_max} bytes; send less at once, such as smaller batches."
