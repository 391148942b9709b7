"""The transport to a service in this process. It calls the same HTTP application as a server does.

Errors, bounds and bodies are therefore the same as over HTTP. The transport closes what it opens. It does not close a
worker that somebody else opened.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vector_memory.client.requests import WireRequest, WireResponse
from vector_memory.client.transports import HTTPTransport

if TYPE_CHECKING:  # heavy, so they are imported where they are used
    from gateway.serving.worker import Worker


class LocalTransport:
    """Carries requests to the application over a worker. `is_owner` says that it loads and closes that worker."""

    def __init__(self, worker: "Worker", *, is_owner: bool, timeout_s: float) -> None:
        self._worker = worker
        self._is_owner = is_owner
        self._timeout_s = timeout_s
        self._http: HTTPTransport | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def over(cls, folder: "Path | str | Worker", settings: Mapping[str, Any], *, timeout_s: float) -> "LocalTransport":
        """Return a transport over a data folder or over a worker.

        The first request loads the memories of the folder. A worker is closed by its owner.

        Raises:
            StartupError: the folder cannot be used, or a setting is wrong.
        """
        from gateway.serving.worker import Worker
        from gateway.settings import load

        if isinstance(folder, Worker):
            return cls(folder, is_owner=False, timeout_s=timeout_s)
        worker = Worker(load({**settings, "MEMORY_DATA_DIR": folder}))
        worker.check()
        return cls(worker, is_owner=True, timeout_s=timeout_s)

    async def send(self, request: WireRequest) -> WireResponse:
        """Pass a request to the application and wait for the response.

        Raises:
            StartupError: the memories cannot be loaded.
        """
        return await (await self._door()).send(request)

    async def stream(self, request: WireRequest) -> WireResponse:
        """Pass a request to the application and wait until its events begin.

        Raises:
            StartupError: the memories cannot be loaded.
        """
        return await (await self._door()).stream(request)

    async def _door(self) -> HTTPTransport:
        # Several requests may arrive before the first has loaded the memories.
        async with self._opening:
            if self._http is None:
                self._http = await self._opened()
        return self._http

    async def _opened(self) -> HTTPTransport:
        from gateway.serving.app import create_app
        from gateway.serving.in_process import InProcessTransport

        if self._is_owner:
            await asyncio.to_thread(self._worker.load)
        if self._worker.failure is not None:
            raise self._worker.failure
        application = InProcessTransport(create_app(self._worker))
        return HTTPTransport("http://local", timeout_s=self._timeout_s, transport=application)

    async def close(self) -> None:
        """Close what this transport opened."""
        if self._http is not None:
            await self._http.close()
        if self._is_owner:
            await self._worker.close()
