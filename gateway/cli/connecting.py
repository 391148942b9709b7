"""The command mcp."""

import sys
from typing import Annotated

import typer

from vector_memory.errors import StartupError


def mcp(
    context: typer.Context,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (MEMORY_LOG_LEVEL).")] = None,
) -> None:
    """Serve MCP over stdio, for a client that starts this process.

    With --url it passes everything on to a running service. Otherwise it works on the folder, which others may share.
    """
    from gateway.cli.target import where
    from gateway.mcp.greeting import front
    from gateway.observability import logs
    from gateway.settings import load

    if front().is_terminal:
        print("vector-memory: an MCP client starts this and speaks to it in JSON lines; Ctrl+C stops", file=sys.stderr)
    try:
        place = where(context)
        settings = load({"MEMORY_DATA_DIR": place.data_dir, "MEMORY_LOG_LEVEL": log_level})
        logs.configure(settings.gateway.log_level)
        if place.url is not None:
            from gateway.mcp import proxy as mcp_proxy

            mcp_proxy.serve(place.url, front())
            return
        from gateway.mcp import stdio as mcp_stdio
        from gateway.serving.worker import Worker

        mcp_stdio.serve(Worker(settings), front())
    except StartupError as error:
        print(f"vector-memory: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
