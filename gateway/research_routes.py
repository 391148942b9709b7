"""The HTTP route of research."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from gateway import wire
from gateway.event_stream import streamed
from gateway.http_errors import documented
from gateway.worker import Worker

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, its events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/research."""
    router = APIRouter(prefix="/v1/research", tags=["research"])

    @router.post("", summary="Research a question", responses=_ANSWERS | documented(400, 413, 422, 500, 502, 503, 504))
    async def research(body: wire.ResearchBody) -> Response:
        """Answer a question from the memories, with citations. `context` holds the numbered passages."""
        if body.stream:
            return await streamed(worker.researcher.research_stream(body.request()))
        return JSONResponse(wire.answer_body(await worker.researcher.research(body.request())))

    return router
