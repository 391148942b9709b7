"""HTTP route of the receipts that deletes return."""

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from gateway import wire
from gateway.http.errors import documented
from gateway.serving.worker import Worker


def routes(worker: Worker) -> APIRouter:
    """The route under /v1/receipts."""
    router = APIRouter(prefix="/v1/receipts", tags=["memories"])

    @router.get("/{receipt}", summary="Redeem a receipt", responses=documented(404, 422, 507))
    def redeem(receipt: Annotated[str, Path(description="The `id` of a delete's receipt.")]) -> JSONResponse:
        """In which files the bytes of what was deleted still are, if in any."""
        return JSONResponse(wire.receipt_body(worker.memories.receipt(receipt)))

    return router
