"""MCP over stdio: a process that a client starts, over a data folder that it shares with whichever others there are."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

from gateway.mcp.greeting import Front
from gateway.serving.worker import Worker


def serve(worker: Worker, front: Front) -> None:
    """Serve until the client goes. The model and the memories are loaded meanwhile; calls wait for them.

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
        # A process that ends under a thread inside ONNX Runtime is aborted; and what loads last would stay open.
        await asyncio.to_thread(loading.join)
        await worker.close()


class _Lines:
    """The front as the text file that the SDK reads and writes."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def __aiter__(self) -> AsyncIterator[str]:
        """Lines until the client goes."""
        while (line := await asyncio.to_thread(self._front.line)) is not None:
            yield line

    async def write(self, text: str) -> None:
        """Send one line."""
        await asyncio.to_thread(self._front.write, text.rstrip("\n"))

    async def flush(self) -> None:
        """Nothing is kept back."""
