"""HTTP routes for the operator."""

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gateway.http.errors import documented
from gateway.serving.worker import Worker


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/admin."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])

    @router.get("/stats", summary="Count the memories", responses=documented(503))
    def stats() -> JSONResponse:
        """How many memories each namespace has, and whose vectors they have."""
        counts = worker.memories.counts()
        return JSONResponse(
            {
                "memories": sum(counts.values()),
                "namespaces": [{"namespace": name, "memories": count} for name, count in sorted(counts.items())],
                "embedder": worker.memories.fingerprint.as_dict(),
            }
        )

    @router.post("/snapshot", summary="Take a snapshot", responses=documented(503, 507))
    def snapshot() -> JSONResponse:
        """Write the present state beside the journals, so that the next start is quick. Requests go on meanwhile."""
        started = time.perf_counter()
        name = worker.memories.snapshot()
        return JSONResponse({"snapshot": name, "latency_ms": round((time.perf_counter() - started) * 1000, 2)})

    @router.post("/compact", summary="Compact the data folder", responses=documented(503, 507))
    def compact() -> JSONResponse:
        """Remove journals that snapshots cover: what was deleted is in no file afterwards, unless `kept` names one."""
        compacted = worker.memories.compact()
        return JSONResponse(
            {
                "removed": list(compacted.removed),
                "removed_bytes": compacted.removed_bytes,
                "kept": [{"journal": journal, "reason": reason} for journal, reason in compacted.kept],
            }
        )

    return router
