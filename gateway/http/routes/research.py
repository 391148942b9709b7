"""The HTTP routes of research."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway import wire
from gateway.http.caching import CacheControl, answer_cached_async
from gateway.http.errors import documented
from gateway.http.event_stream import RESEARCH, stream_response
from gateway.observability.trace_shapes import replay_body, trace_body, unpack_request, unpack_seen
from gateway.serving.worker import Worker
from research.replay import replay
from research.trace import fates

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, its events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}

_NO_TRACE: dict[int | str, dict[str, Any]] = {
    404: documented(404)[404] | {"description": "There is no such trace in this namespace, or its hour is over."}
}

TraceId = Annotated[str, Path(description="`trace_id` of an answer to a question with `trace`.")]


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/research."""
    router = APIRouter(prefix="/v1/research", tags=["research"])

    @router.post("", summary="Research a question", responses=_ANSWERS | documented(400, 413, 422, 500, 502, 503, 504))
    async def research(http: Request, body: wire.ResearchBody, cache_control: CacheControl = None) -> Response:
        """Answer a question from the memories, with citations. `context` holds the numbered passages."""
        started = time.perf_counter()
        request = body.request()

        async def answer() -> dict[str, Any]:
            return wire.answer_body(await worker.researcher.research(request))

        if body.stream:
            return await stream_response(http, worker.researcher.research_stream(request), RESEARCH)
        if request.remember or request.trace:
            return JSONResponse(await answer())
        found = await answer_cached_async(
            worker, "research", body.model_dump(), cache_control, answer, is_kept=lambda made: not made["degraded"]
        )
        return JSONResponse({**found, "latency_ms": round((time.perf_counter() - started) * 1000)})

    @router.get("/{trace_id}", summary="A trace of research", responses=documented(422, 503) | _NO_TRACE)
    def trace(trace_id: TraceId, query: Annotated[wire.OneQuery, Query()]) -> JSONResponse:
        """How an answer came about, for an hour. Texts of memories that are gone or changed since are withheld."""
        memories = worker.memories
        kept = worker.traces.find(trace_id, query.namespace)
        return JSONResponse(trace_body(trace_id, kept, fates(memories, query.namespace, unpack_seen(kept))))

    @router.post("/{trace_id}/replay", summary="Retrieve again", responses=documented(400, 413, 422, 503) | _NO_TRACE)
    def replayed(trace_id: TraceId, body: wire.ReplayBody) -> JSONResponse:
        """Retrieve for the question of a trace again: what comes as then, what vanished and why, and what is new."""
        memories = worker.memories
        kept = worker.traces.find(trace_id, body.namespace)
        found = replay(unpack_request(kept), unpack_seen(kept), kept["asked_at_ms"], memories)
        return JSONResponse(replay_body(trace_id, found))

    return router
