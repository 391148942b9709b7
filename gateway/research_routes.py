"""The HTTP route of research."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway import wire
from gateway.http_errors import documented
from gateway.worker import Worker


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/research."""
    router = APIRouter(prefix="/v1/research", tags=["research"])

    @router.post("", summary="Research a question", responses=documented(400, 413, 422, 500, 502, 503, 504))
    async def research(body: wire.ResearchBody) -> JSONResponse:
        """Answer a question from the memories, with citations. `context` holds the numbered passages."""
        return JSONResponse(wire.answer_body(await worker.researcher.research(body.request())))

    return router
