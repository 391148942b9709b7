"""Serves the application with uvicorn. The port opens at once, and the worker loads in the background."""

import asyncio
import gc
import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from vector_memory.errors import StartupError

log = logging.getLogger(__name__)

SHUTDOWN_S_MAX = 30
"""Seconds that running requests may still take after a stop signal."""

KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open. Common proxies and clients use 60 s, so they close first."""

SWITCH_S = 0.0005
"""Seconds that a thread may hold the interpreter while others wait: a tenth of Python's default. Background work, such
as importing MCP's SDK or packing a snapshot, then delays a request by less each time. Throughput stays the same."""


def serve(worker: Worker, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        worker: the worker, which is loaded and closed here.
        listener: an open port. By default the port of the settings is opened.

    Raises:
        StartupError: the data folder or the port cannot be used, or the worker could not load.
    """
    sys.setswitchinterval(SWITCH_S)
    worker.check()
    with listener or open_listener(worker.settings.gateway.host, worker.settings.gateway.port) as opened:
        app = create_app(worker)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:  # uvloop where it is installed
            runner.run(_serve(worker, opened, uvicorn.Server(config), app))
    if worker.failure is not None:
        raise worker.failure


def open_listener(host: str, port: int) -> socket.socket:
    """Open a port to listen on.

    Raises:
        StartupError: the port is in use, or not allowed.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit this option. Without it, an answer waits 40 ms until the client acknowledges the first
        # part (Nagle's algorithm). uvloop always sets it. asyncio sets it only for sockets that it opened itself.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise StartupError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    return listener


async def _serve(worker: Worker, listener: socket.socket, server: uvicorn.Server, app: FastAPI) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn handles them, and raises them again after a clean stop
    loading = asyncio.create_task(_load(worker, server, app))
    host, port = listener.getsockname()[:2]
    log.info("http.listening", extra={"host": host, "port": port})
    await server.serve(sockets=[listener])
    await loading
    await worker.close()  # once more, since the worker may still have been loading at the first close


async def _load(worker: Worker, server: uvicorn.Server, app: FastAPI) -> None:
    await asyncio.to_thread(worker.load)
    if worker.failure is not None:
        server.should_exit = True
    elif not server.should_exit:
        gc.freeze()  # the loaded objects stay, and collecting garbage among them would delay all requests
        await app.state.mcp.open()  # so that the first MCP client does not wait for the imports
        gc.freeze()
