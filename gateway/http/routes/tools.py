"""HTTP routes of the tools: the list, a call by name, and both in one envelope."""

import logging
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path
from fastapi.responses import JSONResponse
from pydantic import Field

from gateway import wire
from gateway.http.errors import STATUS, documented
from gateway.http.routes.memories import IdempotencyKey
from gateway.observability.logs import request_id
from gateway.serving.worker import Worker
from gateway.tools import toolbox as tools
from vector_memory.errors import InvalidInput, ServiceError

log = logging.getLogger(__name__)


class ToolCall(wire.Body):
    """Which tool to call with what; nothing to list the tools."""

    tool_name: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Envelope(wire.Body):
    """List the tools, or call one."""

    action: Literal["list_tools", "invoke_tool"]
    data: ToolCall = Field(default_factory=ToolCall, examples=[{"tool_name": "memory_status", "parameters": {}}])


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/tools."""
    router = APIRouter(prefix="/v1/tools", tags=["tools"])

    @router.get("", summary="List the tools")
    def list_tools() -> JSONResponse:
        """Every tool with the JSON Schema of its parameters, as MCP lists them."""
        return _listed(worker, time.perf_counter())

    @router.post("", summary="List or call tools", responses=documented(400, 404, 413, 422, 500, 502, 503, 504, 507))
    async def envelope(body: Envelope, idempotency_key: IdempotencyKey = None) -> JSONResponse:
        """The actions `list_tools` and `invoke_tool` of one envelope."""
        started = time.perf_counter()
        if body.action == "list_tools":
            return _listed(worker, started)
        if body.data.tool_name is None:
            return _failed(InvalidInput("data.tool_name is required.", field="data.tool_name"), started)
        return await _called(worker, body.data.tool_name, body.data.parameters, idempotency_key)

    @router.post("/{name}", summary="Call a tool", responses=documented(400, 404, 413, 422, 500, 502, 503, 504, 507))
    async def call(
        name: Annotated[str, Path(description="Such as retrieve_memory.")],
        parameters: Annotated[dict[str, Any], Body(description="As the tool's input_schema says.")],
        idempotency_key: IdempotencyKey = None,
    ) -> JSONResponse:
        """Call a tool with its parameters."""
        return await _called(worker, name, parameters, idempotency_key)

    return router


async def _called(worker: Worker, name: str, parameters: object, idempotency_key: str | None) -> JSONResponse:
    started = time.perf_counter()
    tools.idempotency_key.set(idempotency_key)
    try:
        result = await worker.toolbox.invoke(name, parameters)
    except ServiceError as error:
        if STATUS[type(error)] >= STATUS[ServiceError]:
            log.warning("tool.failed", extra={"tool": name, "code": error.code, "reason": error.message})
        return _failed(error, started)
    return JSONResponse({"success": True, "result": result, "latency_ms": _since(started)})


def _listed(worker: Worker, started: float) -> JSONResponse:
    result = {"tools": worker.toolbox.described()}
    return JSONResponse({"success": True, "result": result, "latency_ms": _since(started)})


def _failed(error: ServiceError, started: float) -> JSONResponse:
    body = {"success": False, "error": wire.error_body(error, request_id.get()), "latency_ms": _since(started)}
    return JSONResponse(body, STATUS[type(error)])


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
