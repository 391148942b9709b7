"""The HTTP routes of the tools: the list, a call by name, and both in one envelope."""

import logging
import time
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from gateway.calls import call, description
from gateway.http.bodies import json_object
from gateway.http.errors import documented, status_of
from gateway.http.routes.operations import caller_of, json_bytes
from gateway.observability.logs import request_id
from gateway.serving.services import Services
from vector_memory import fields, operations
from vector_memory.administration import Nothing, ToolCall
from vector_memory.errors import InvalidInput, ServiceError
from vector_memory.operations import Operation

log = logging.getLogger(__name__)


class ToolChoice(fields.Request):
    """The tool to call and its parameters; both are left out to list the tools."""

    tool_name: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Envelope(fields.Request):
    """A request that lists the tools or calls one."""

    action: Literal["list_tools", "invoke_tool"]
    data: dict[str, Any] = Field(
        default_factory=dict, examples=[{"tool_name": "memory_status", "parameters": {}}], description="The tool."
    )


def routes(services: Services) -> APIRouter:
    """Return the routes under /v1/tools."""
    router = APIRouter(prefix="/v1/tools", tags=["tools"])

    async def list_tools(http: Request) -> Response:
        return await _answer(services, operations.LIST_TOOLS, Nothing(), http)

    async def call_tool(http: Request, name: str) -> Response:
        started = time.perf_counter()
        try:
            request = ToolCall(name=name, parameters=await json_object(http))
        except ServiceError as error:
            return _failed(error, started)
        return await _answer(services, operations.CALL_TOOL, request, http)

    for operation, endpoint in ((operations.LIST_TOOLS, list_tools), (operations.CALL_TOOL, call_tool)):
        router.add_api_route(
            operation.path.removeprefix(router.prefix),
            endpoint,
            methods=[operation.method],
            operation_id=operation.name,
            summary=operation.summary,
            description=description(operation),
            responses=documented(operation),
        )

    @router.post("", summary="List or call tools", responses=documented(operations.CALL_TOOL))
    async def envelope(http: Request) -> Response:
        """Carry out the action of an envelope: `list_tools` or `invoke_tool`."""
        started = time.perf_counter()
        body = Envelope.read(await json_object(http))
        choice = ToolChoice.read(body.data)
        if body.action == "list_tools":
            return await list_tools(http)
        if choice.tool_name is None:
            return _failed(InvalidInput("data.tool_name is required.", field="data.tool_name"), started)
        request = ToolCall(name=choice.tool_name, parameters=choice.parameters)
        return await _answer(services, operations.CALL_TOOL, request, http)

    return router


async def _answer(services: Services, operation: Operation[Any, Any], request: Any, http: Request) -> Response:
    started = time.perf_counter()
    try:
        content = await call(services, operation, request, caller_of(http), json_bytes)
    except ServiceError as error:
        if status_of(error) >= status_of(ServiceError()):
            log.warning("tool.failed", extra={"code": error.code, "reason": error.message})
        return _failed(error, started)
    return Response(content, media_type="application/json")


def _failed(error: ServiceError, started: float) -> JSONResponse:
    latency_ms = round((time.perf_counter() - started) * 1000, 2)
    body = {"success": False, "error": error.body(request_id.get()), "latency_ms": latency_ms}
    return JSONResponse(body, status_of(error))
