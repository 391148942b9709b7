"""MCP over HTTP at /mcp. It is stateless: clients continue after a restart, and any worker answers any request."""

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.errors import error_response
from gateway.serving.worker import Worker
from gateway.settings import McpSettings
from vector_memory.errors import InvalidInput

if TYPE_CHECKING:
    from mcp.server.transport_security import TransportSecuritySettings

PATH = "/mcp"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_ANY = "*"


class McpEndpoint:
    """An ASGI application that loads the SDK when it is opened or first called."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._opening: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[ASGIApp] | None = None
        self._closing: asyncio.Event | None = None

    def install(self, app: FastAPI) -> None:
        """Serve /mcp from this application. The path is left out of /openapi.json."""
        app.router.routes.append(Route(PATH, endpoint=self, include_in_schema=False))
        app.state.mcp = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one POST request. Refuse every other method with status 405."""
        # Clients send GET to open a stream and DELETE to end a session. The endpoint offers neither of them, because
        # an open stream would delay every stop of the worker.
        if scope["method"] != "POST":
            refusal = error_response(
                InvalidInput(f"{PATH} takes POST alone; it has neither streams nor sessions."), 405
            )
            refusal.headers["Allow"] = "POST"
            await refusal(scope, receive, send)
            return
        # Whitespace around a header's value has no meaning (RFC 9110, 5.5), but HTTP parsers leave it in place.
        headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        await (await self.open())({**scope, "headers": headers}, receive, send)

    async def open(self) -> ASGIApp:
        """Return the SDK's application. The first call loads the SDK in a background task."""
        if self._opened is None:
            self._closing = asyncio.Event()
            self._opened = asyncio.get_running_loop().create_future()
            self._opening = asyncio.create_task(self._hold(self._opened, self._closing))
        # All callers share this future, so one cancelled request must not cancel it for the others.
        return await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Stop the SDK's application and wait until it has ended. The endpoint can be opened again."""
        if self._opening is not None and self._closing is not None:
            self._closing.set()
            await self._opening
        self._opening = self._opened = self._closing = None

    async def _hold(self, opened: "asyncio.Future[ASGIApp]", closing: asyncio.Event) -> None:
        """Run the SDK's manager until `closing` is set. Its task group must be entered and left in the same task."""
        try:
            manager = await asyncio.to_thread(self._manager)
            async with manager.run():
                opened.set_result(manager.asgi_app)
                await closing.wait()
        except Exception as error:
            if opened.done():
                raise
            # Everybody who waits gets the error, and the next request tries to load the SDK again.
            opened.set_exception(error)
            self._opened = None

    def _manager(self):  # type: ignore[no-untyped-def]  # its type would import the SDK
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from gateway.mcp.server import build

        return StreamableHTTPSessionManager(
            build(self._worker),
            json_response=True,
            stateless=True,
            security_settings=security(self._worker.settings.mcp, self._worker.settings.gateway.host),
            max_request_body_size=self._worker.settings.gateway.request_bytes_max,
        )


def security(settings: McpSettings, host: str) -> "TransportSecuritySettings":
    """Return which Host and Origin headers are accepted, so that a web page cannot call a local server (DNS rebinding).

    Args:
        settings: the host names that the operator adds. A `*` among them accepts every name.
        host: the address on which the worker listens. It is accepted too, unless it means every address.
    """
    from mcp.server.transport_security import TransportSecuritySettings

    if _ANY in settings.hosts:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    bound = () if host in ("0.0.0.0", "::") else (f"[{host}]" if ":" in host else host,)  # noqa: S104 - compared only
    names = [*_LOCAL, *bound, *settings.hosts]
    origins = [f"{scheme}://{name}" for scheme in ("http", "https") for name in names]
    # The SDK compares exact strings. `name:*` is its form for "this name with any port".
    return TransportSecuritySettings(
        allowed_hosts=[each for name in names for each in (name, f"{name}:*")],
        allowed_origins=[each for origin in origins for each in (origin, f"{origin}:*")],
    )
