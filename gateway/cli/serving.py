"""The command serve."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vector_memory.errors import StartupError

if TYPE_CHECKING:
    from gateway.settings import Settings


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on (MEMORY_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (MEMORY_PORT).")] = None,
    ephemeral: Annotated[
        bool | None, typer.Option("--ephemeral", help="Keep memories only while serving (MEMORY_EPHEMERAL).")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (MEMORY_LOG_LEVEL).")] = None,
) -> None:
    """Serve the HTTP API until interrupted. Flags go before variables, variables before .env; see .env.example."""
    flags = {
        "MEMORY_DATA_DIR": context.find_root().params["data_dir"],
        "MEMORY_HOST": host,
        "MEMORY_PORT": port,
        "MEMORY_EPHEMERAL": ephemeral,
        "MEMORY_LOG_LEVEL": log_level,
    }
    from gateway.observability import logs
    from gateway.settings import load

    try:
        settings = load(flags)
        logs.configure(settings.gateway.log_level)
        _announce(settings)
        from gateway.serving.server import serve as serve_http
        from gateway.serving.worker import Worker

        serve_http(Worker(settings))
    except StartupError as error:
        print(f"vector-memory: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _announce(settings: "Settings") -> None:
    """Tell a person where the memories and the docs are, before the log begins."""
    gateway, memory = settings.gateway, settings.memory
    where = "a temporary folder" if memory.ephemeral else memory.data_dir
    print(f"vector-memory: memories in {where}, loading the embedding model ...", file=sys.stderr)
    if gateway.port:
        print(f"vector-memory: docs at http://{gateway.host}:{gateway.port}/docs, Ctrl+C stops", file=sys.stderr)
