"""The HTTP application: all routes over one worker. The caller decides when the worker loads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.convertors import PathConvertor, register_url_convertor

from gateway.http import docs_page, schema
from gateway.http import errors as http_errors
from gateway.http.middleware import BodyLimit, RequestId
from gateway.http.routes import health as health_routes
from gateway.http.routes import operations as operation_routes
from gateway.http.routes import tools as tool_routes
from gateway.mcp.http import McpEndpoint
from gateway.observability import metrics
from gateway.openai import routes as openai_routes
from gateway.serving.worker import Worker

DESCRIPTION = "Long-term memory for AI agents: store, retrieve and delete memories, and research questions over them."


class _AnyText(PathConvertor):
    """Matches any key or id in a path. Starlette's own convertor stops at a line end and so finds another key."""

    regex = "(?s:.*)"


def create_app(worker: Worker) -> FastAPI:
    """Build the application over a worker. The application closes the worker when it ends."""
    register_url_convertor("path", _AnyText())
    mcp = McpEndpoint(worker)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await mcp.close()
            await worker.close()

    app = FastAPI(
        title="vector-memory",
        version=health_routes.service_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a key may end in a slash
    )
    http_errors.install(app)
    schema.install(app)
    docs_page.install(app)
    app.include_router(health_routes.routes(worker, app))
    app.include_router(operation_routes.routes(worker))
    app.include_router(openai_routes.routes(worker))
    app.include_router(tool_routes.routes(worker))
    mcp.install(app)
    # The middleware that is added last runs first. So every response, also a refusal, is counted and has a request id.
    app.add_middleware(BodyLimit, bytes_max=worker.settings.gateway.request_bytes_max)
    metrics.install(app, worker, worker.metrics)
    app.add_middleware(RequestId)
    return app
