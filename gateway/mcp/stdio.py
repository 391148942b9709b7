"""MCP over stdio. A client starts this process, which may share its data folder with other processes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

from gateway.mcp.greeting import Front
from gateway.serving.worker import Worker


def serve(worker: Worker, front: Front) -> None:
    """Serve until the client closes its end. A thread loads the model and the memories, and calls wait for it.

    Raises:
        StartupError: the data folder or the tools cannot be used.
    """
    worker.check()
    loading = threading.Thread(target=worker.load, name="loading", daemon=True)
    loading.start()
    asyncio.run(_serve(worker, front, loading))


async def _serve(worker: Worker, front: Front, loading: threading.Thread) -> None:
    from mcp.server.stdio import stdio_server

    from gateway.mcp.server import build

    server = build(worker)
    lines = cast(Any, _Lines(front))  # the SDK wants a text file and uses these methods of it
    try:
        async with stdio_server(lines, lines) as (received, sent):
            await server.run(received, sent, server.create_initialization_options())
    finally:
        front.close()
        # Wait for the loading thread. A process that exits while a thread is inside ONNX Runtime is aborted, and what
        # the thread opens after `close` would stay open.
        await asyncio.to_thread(loading.join)
        await worker.close()


class _Lines:
    """An adapter that gives the front the methods of a text file. The SDK reads and writes it."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await asyncio.to_thread(self._front.line)) is not None:
            yield line

    async def write(self, text: str) -> None:
        await asyncio.to_thread(self._front.write, text.rstrip("\n"))

    async def flush(self) -> None:
        """Do nothing, because `write` sends each line at once."""
