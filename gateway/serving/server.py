"""Serves the application by uvicorn: the port opens at once, the worker loads behind it."""

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
"""How long requests in flight may take after a signal to stop."""

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than usual proxies and clients do (60 s), so that they close first."""

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while others wait: a tenth of Python's default, so that what goes on
behind a request (importing MCP's SDK, packing a snapshot) delays it by less each time. Throughput stays the same."""


def serve(worker: Worker, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        worker: what to serve; it is loaded here.
        listener: an open port; default: the one of the settings is opened.

    Raises:
        StartupError: the data folder cannot be used, the port cannot be had, or the worker could not load.
    """
    sys.setswitchinterval(SWITCH_S)
    worker.check()
    with listener or bound(worker.settings.gateway.host, worker.settings.gateway.port) as opened:
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


def bound(host: str, port: int) -> socket.socket:
    """Open a port to listen on.

    Raises:
        StartupError: it is taken, or not allowed.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # asyncio sets this on connections of sockets that it opened itself, uvloop always. Without it an answer waits
        # 40 ms for the client to acknowledge its first part (Nagle's algorithm). Connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise StartupError(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    return listener


async def _serve(worker: Worker, listener: socket.socket, server: uvicorn.Server, app: FastAPI) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn takes them over, and raises them again after its clean stop
    loading = asyncio.create_task(_load(worker, server, app))
    host, port = listener.getsockname()[:2]
    log.info("http.listening", extra={"host": host, "port": port})
    await server.serve(sockets=[listener])
    await loading
    await worker.close()  # again, for a worker that was still loading when it was told to stop


async def _load(worker: Worker, server: uvicorn.Server, app: FastAPI) -> None:
    await asyncio.to_thread(worker.load)
    if worker.failure is not None:
        server.should_exit = True
    elif not server.should_exit:
        gc.freeze()  # what is loaded stays: to look through it for garbage would hold all requests up
        await app.state.mcp.open()  # so that the first MCP client need not wait for its imports
        gc.freeze()  # these stay, too
