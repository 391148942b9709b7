"""HTTP routes of the memories. Each translates one request into one call of `MemoryService`."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from gateway import wire
from gateway.http.caching import CacheControl, answer_cached
from gateway.http.errors import documented
from gateway.serving.worker import Worker
from memory_service import checks
from memory_service.model import Consistency, Deleted, NewMemory, Refused
from vector_memory.errors import InvalidInput, StorageUnavailable

if TYPE_CHECKING:
    from memory_service.service import MemoryService

PREFIX = "/v1/memories"
HISTORY = "/history"

IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Your name for this write: repeating it within a day gives the first answer again.",
        json_schema_extra={"minLength": 1, "maxLength": checks.IDEMPOTENCY_KEY_CHARS_MAX},
    ),
]


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/memories."""
    router = APIRouter(prefix=PREFIX, tags=["memories"])

    @router.post("", summary="Store a memory", responses=documented(400, 409, 413, 422, 503, 507))
    def store(body: wire.StoreBody, idempotency_key: IdempotencyKey = None) -> JSONResponse:
        """Keep a text under a key, durably. Storing under a key that is there updates it."""
        stored = worker.memories.store(body.memory(), idempotency_key=idempotency_key)
        return JSONResponse(wire.stored_body(stored))

    @router.post("/batch", summary="Store many memories", responses=documented(400, 409, 413, 422, 503, 507))
    def store_batch(body: wire.BatchBody, idempotency_key: IdempotencyKey = None) -> JSONResponse:
        """Keep up to 1,000 memories. Each is judged on its own: `results` are in the order of the request."""
        results = _store_batch(worker.memories, body, idempotency_key)
        counts = {status: sum(item["status"] == status for item in results) for status in _STATUSES}
        return JSONResponse({"results": results, **counts})

    @router.post("/retrieve", summary="Retrieve memories", responses=documented(400, 404, 413, 422, 503))
    def retrieve(body: wire.RetrieveBody, cache_control: CacheControl = None) -> JSONResponse:
        """The k memories that answer the query best, best first, among those that match the filter."""
        started = time.perf_counter()
        asked = body.retrieval()

        def answer() -> dict[str, Any]:
            return wire.retrieved_body(worker.memories.retrieve(asked), asked)

        found = answer_cached(worker, "retrieve", body.model_dump(), cache_control, answer)
        return JSONResponse({**found, "latency_ms": _since(started)})

    @router.post("/retrieve/batch", summary="Retrieve by many queries", responses=documented(400, 404, 413, 422, 503))
    def retrieve_batch(body: wire.RetrieveBatchBody) -> JSONResponse:
        """Up to 100 retrieves in one: `results` are in the order of `queries`."""
        started = time.perf_counter()
        asked = body.retrievals()
        found = worker.memories.retrieve_batch(asked)
        results = [wire.retrieved_body(*pair) for pair in zip(found, asked, strict=True)]
        return JSONResponse({"results": results, "latency_ms": _since(started)})

    @router.post("/duplicates", summary="Report near-duplicates", responses=documented(400, 413, 422, 503))
    def near_duplicates(body: wire.DuplicatesBody) -> JSONResponse:
        """Memories that say almost the same as an earlier one, newest first, page by page. Nothing is merged."""
        return JSONResponse(wire.duplicates_body(worker.memories.near_duplicates(**dict(body))))

    @router.post("/delete", summary="Delete many memories", responses=documented(400, 409, 413, 422, 503, 507))
    def delete_many(body: wire.DeleteBody, idempotency_key: IdempotencyKey = None) -> JSONResponse:
        """Delete by `keys`, or everything in the namespace that matches `filter`."""
        deleted = _delete_many(worker.memories, body, idempotency_key)
        return JSONResponse(wire.deleted_body(deleted) | _receipt(worker.memories, deleted, wanted=body.receipt))

    @router.get("", summary="List memories", responses=documented(422, 503))
    def list_memories(query: Annotated[wire.ListQuery, Query()]) -> JSONResponse:
        """Memories that match, newest first, page by page."""
        page = worker.memories.list(
            namespace=query.namespace,
            filter=_filter_of(query.filter),
            limit=query.limit,
            cursor=query.cursor,
            as_of=query.as_of,
            consistency=Consistency(query.consistency),
            embeddings=query.embeddings,
        )
        return JSONResponse(wire.page_body(page))

    def history(key: Annotated[str, Depends(_key_of)], query: Annotated[wire.HistoryQuery, Query()]) -> JSONResponse:
        """What happened to a memory since it was last deleted, newest first."""
        consistency = Consistency(query.consistency)
        events = worker.memories.history(key, namespace=query.namespace, consistency=consistency)
        return JSONResponse(wire.history_body(key, query.namespace, events))

    router.add_api_route(
        f"/{{key:path}}{HISTORY}",
        history,
        summary="A memory's history",
        responses=documented(400, 404, 422, 503),
        route_class_override=_HistoryRoute,
    )

    @router.get("/{key:path}", summary="Get a memory", responses=documented(400, 404, 422, 503))
    def get(key: Annotated[str, Depends(_key_of)], query: Annotated[wire.GetQuery, Query()]) -> JSONResponse:
        """One memory by its key (percent-encoded where needed)."""
        consistency = Consistency(query.consistency)
        memory = worker.memories.get(key, namespace=query.namespace, as_of=query.as_of, consistency=consistency)
        return JSONResponse(wire.memory_body(memory))

    @router.patch("/{key:path}", summary="Update a memory", responses=documented(400, 404, 409, 413, 422, 503, 507))
    def update(
        key: Annotated[str, Depends(_key_of)],
        query: Annotated[wire.OneQuery, Query()],
        body: wire.UpdateBody,
        idempotency_key: IdempotencyKey = None,
    ) -> JSONResponse:
        """Change the text, the metadata or the lifetime of a memory that is there."""
        updated = worker.memories.update(key, namespace=query.namespace, idempotency_key=idempotency_key, **dict(body))
        return JSONResponse(wire.stored_body(updated))

    @router.delete("/{key:path}", summary="Delete a memory", responses=documented(400, 404, 409, 422, 503, 507))
    def delete(
        key: Annotated[str, Depends(_key_of)],
        query: Annotated[wire.DeleteQuery, Query()],
        idempotency_key: IdempotencyKey = None,
    ) -> JSONResponse:
        """Delete one memory: no call returns it, or an earlier version of it, from now on."""
        deleted = worker.memories.delete(key, namespace=query.namespace, idempotency_key=idempotency_key)
        body = {"key": key, "namespace": query.namespace, "status": "deleted"}
        return JSONResponse(body | _receipt(worker.memories, deleted, wanted=query.receipt))

    return router


def _since(started: float) -> float:
    """Milliseconds since a reading of the performance counter."""
    return round((time.perf_counter() - started) * 1000, 2)


class _HistoryRoute(APIRoute):
    """Looks at the path as it was sent: a key that ends in `/history` itself comes with its slash as `%2F`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the route is meant."""
        if not _sent_path(scope).endswith(HISTORY.encode()):
            return Match.NONE, {}
        return super().matches(scope)


def _sent_path(scope: Scope) -> bytes:
    """The path as it was sent, percent-encoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


_STATUSES = ("stored", "updated", "unchanged", "refused")


def _key_of(request: Request, key: Annotated[str, Path(description="Percent-encoded where needed.")]) -> str:
    """The key from the path as it was sent; `key`, decoded leniently, only documents it.

    Raises:
        InvalidInput: it is not UTF-8 (a decoded path would show replacement characters instead).
    """
    _, _, encoded = _sent_path(request.scope).partition(f"{PREFIX}/".encode())
    if isinstance(request.scope.get("route"), _HistoryRoute):
        encoded = encoded.removesuffix(HISTORY.encode())
    try:
        return unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("key is not valid UTF-8; percent-encode its UTF-8 bytes.", field="key") from error


def _filter_of(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput('filter is not valid JSON; send it such as {"lead": "acme"}.', field="filter") from error


def _store_batch(memories: "MemoryService", body: wire.BatchBody, idempotency_key: str | None) -> list[dict[str, Any]]:
    """The results in the order of the request: malformed items are refused here, the others judged by the service.

    Raises:
        StorageUnavailable: not one could be written, and that for want of a disk.
    """
    if not isinstance(body.memories, list):
        raise InvalidInput("memories must be a list.", field="memories")
    checks.count(len(body.memories), "memories", checks.BATCH_ITEMS_MAX)
    items = [wire.batch_item(raw, body.namespace) for raw in body.memories]
    sound = [item for item in items if isinstance(item, NewMemory)]
    stored = iter(memories.store_batch(sound, idempotency_key=idempotency_key) if sound else [])
    results = [item if isinstance(item, Refused) else next(stored) for item in items]
    failures = [item.error for item in results if isinstance(item, Refused)]
    if len(failures) == len(results) and all(isinstance(error, StorageUnavailable) for error in failures):
        raise failures[0]
    return [wire.stored_body(result) for result in results]


def _receipt(memories: "MemoryService", deleted: Deleted, *, wanted: bool) -> dict[str, Any]:
    """The `receipt` of an answer, null when nothing was deleted; nothing when none was wanted."""
    if not wanted:
        return {}
    return {"receipt": None if deleted.receipt is None else wire.receipt_body(memories.receipt(deleted.receipt))}


def _delete_many(memories: "MemoryService", body: wire.DeleteBody, idempotency_key: str | None) -> Deleted:
    match body.keys, body.filter:
        case list() as keys, None:
            return memories.delete_keys(
                keys, namespace=body.namespace, dry_run=body.dry_run, idempotency_key=idempotency_key
            )
        case None, dict() as filter:
            return memories.delete_matching(
                filter, namespace=body.namespace, dry_run=body.dry_run, idempotency_key=idempotency_key
            )
    raise InvalidInput("Send either keys or filter, and not both.", field="keys")
