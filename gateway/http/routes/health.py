"""Routes that report the state of the worker. None waits for the services, so probes are answered while they load."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from gateway.calls import Caller, call
from gateway.http.routes.operations import json_bytes
from gateway.serving.worker import Worker
from memory_service.clock import wall_ms
from vector_memory import operations
from vector_memory.administration import Nothing
from vector_memory.times import iso_time

SERVICE = "vector-memory"


def service_version() -> str:
    """Return the installed version."""
    return version(SERVICE)


def routes(worker: Worker, app: FastAPI) -> APIRouter:
    """Return the route `/` and the health routes."""
    router = APIRouter(tags=["health"])

    @router.get("/", summary="Name, version and routes")
    async def root() -> dict[str, Any]:
        """Return what this service is and where its routes are."""
        paths = app.openapi()["paths"]
        endpoints = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
        return {"service": SERVICE, "version": service_version(), "docs": "/docs", "endpoints": endpoints}

    @router.get("/ping", summary="Readiness as RunPod's load balancer asks for it", responses={204: {}})
    async def ping() -> Response:
        """Answer 204 while the service loads, then 200."""
        if not worker.is_ready:
            return Response(status_code=204)
        return JSONResponse(
            {
                "status": "healthy",
                "service": SERVICE,
                "timestamp": iso_time(wall_ms()),
                "vllm_configured": bool(worker.settings.llm.endpoints),
            }
        )

    @router.get("/health", summary=operations.HEALTH.summary)
    async def health() -> Response:
        """Report whether requests are served and how many memories there are. Answer 503 while the service loads."""
        if not worker.is_ready:
            return JSONResponse({"status": "loading", "service": SERVICE, "version": service_version()}, 503)
        return Response(
            await call(worker, operations.HEALTH, Nothing(), Caller(door="http"), json_bytes),
            media_type="application/json",
        )

    @router.get("/health/live", summary="Is the process alive?")
    async def live() -> dict[str, str]:
        """Answer 200 whenever the process can answer at all."""
        return {"status": "alive"}

    @router.get("/health/ready", summary="Are requests served?", responses={503: {}})
    async def ready() -> JSONResponse:
        """Answer 200 while requests are served, else 503. `degraded` means that writes fail or not all can be read."""
        if not worker.is_ready:
            return JSONResponse({"status": "loading", "reads": False, "writes": False, "problems": []}, 503)
        return JSONResponse(await run_in_threadpool(_ready, worker))

    return router


def _ready(worker: Worker) -> dict[str, Any]:
    write_problem, problems = worker.memories.write_problem(), list(worker.memories.problems())
    if write_problem is not None and write_problem not in problems:
        problems.append(write_problem)
    return {
        "status": "degraded" if problems else "ready",
        "reads": True,
        "writes": write_problem is None,
        "problems": problems,
    }
