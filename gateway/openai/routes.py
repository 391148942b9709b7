"""OpenAI's routes: chat with memories, embeddings and models. An OpenAI client uses them by setting its base URL."""

import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gateway.calls import Caller, admitted, admitted_stream
from gateway.http.errors import RETRY_AFTER_S
from gateway.http.event_stream import Dialect, stream_response
from gateway.openai import wire
from gateway.serving.worker import Worker
from research.llm.streaming import Chunk
from vector_memory import operations
from vector_memory.errors import InvalidInput, LimitExceeded, LLMNotConfigured, NotFound, ServiceError, Unavailable

EVENTS: Dialect[Chunk] = Dialect(
    wire.event, lambda error: wire.event({"error": wire.openai_error(error)}), b"data: [DONE]\n\n"
)
"""How chat events are written. No [DONE] follows an error, so that a client which ignores errors misses the end."""

_NamespaceHeader = Annotated[
    str | None, Header(alias=wire.NAMESPACE_HEADER, description="Another way to name the namespace.")
]
_ERRORS = {
    "description": "An error in OpenAI's shape.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
log = logging.getLogger(__name__)

CALLER = Caller(door="openai")

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class OpenAIRoute(APIRoute):
    """A route that answers every failure in OpenAI's shape."""

    def get_route_handler(self) -> _Handler:
        """Return the route's handler, with its errors translated."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                return _failed(error)
            except RequestValidationError as error:
                # The routes take the body as any JSON object, so only two things can be wrong with it.
                is_json = error.errors()[0]["type"] != "json_invalid"
                return _failed(InvalidInput(f"The body is not {'a JSON object' if is_json else 'valid JSON'}."))
            except HTTPException as error:
                if error.status_code == 413:  # the body is larger than the service accepts
                    return _failed(LimitExceeded(str(error.detail)))
                return _failed(InvalidInput("The body is not JSON in UTF-8, or is nested too deeply."))
            except Exception:
                # The LLM may already have been paid, so `_failed` tells the client not to retry by itself.
                log.exception("request.crashed")
                return _failed(ServiceError("Something went wrong inside the service; its log has the details."))

        return handled


def routes(worker: Worker) -> APIRouter:
    """Return the routes under /v1 that OpenAI's clients call."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

    @router.post(
        "/chat/completions",
        summary="Chat with memory",
        responses=_documented(400, 404, 413, 500, 502, 503, 504),
        openapi_extra=_schema(wire.ChatBody),
    )
    async def chat(
        http: Request, body: Annotated[dict[str, Any], Body()], namespace: _NamespaceHeader = None
    ) -> Response:
        """Continue a conversation. Memories that are relevant to its last user message are added.

        Messages that cite memories have `annotations`. All other parameters are passed to the LLM unchanged.
        """
        request = wire.chat_request(body, namespace)
        if body.get("stream"):
            chunks = admitted_stream(worker, operations.CHAT, CALLER, lambda: worker.chat.stream(request))
            return await stream_response(http, chunks, EVENTS)
        with admitted(worker, operations.CHAT, CALLER):
            return Response(wire.written(await worker.chat.complete(request)), media_type="application/json")

    @router.post(
        "/embeddings",
        summary="Embed texts",
        responses=_documented(400, 404, 413, 503),
        openapi_extra=_schema(wire.EmbeddingsBody),
    )
    def embeddings(body: Annotated[dict[str, Any], Body()]) -> JSONResponse:
        """Embed texts with the model that is used to search the memories."""
        with admitted(worker, operations.EMBED, CALLER):
            memories = worker.memories
            name = memories.fingerprint.model
            # Clients may name the model with or without the part before the last slash.
            asked, texts = wire.embeddings_request(body, (name, name.rpartition("/")[2]), memories.fingerprint.dim)
            tokens = memories.tokens(texts)
            wire.check_input_tokens(tokens)
            return JSONResponse(wire.embeddings_body(asked, name, memories.embed(texts), tokens))

    @router.get("/models", summary="List models", responses=_documented(503))
    def models() -> JSONResponse:
        """List the models of the LLM's endpoints, the default one first, and then the embedding model."""
        return JSONResponse({"object": "list", "data": _models(worker)})

    @router.get("/models/{id:path}", summary="Get a model", responses=_documented(404, 503))
    def model(id: str) -> JSONResponse:
        """Return one of the models."""
        for found in _models(worker):
            if found["id"] == id:
                return JSONResponse(found)
        raise NotFound(f"There is no model {id!r:.200}; GET /v1/models lists them.", field="model")

    return router


def _models(worker: Worker) -> list[dict[str, Any]]:
    with admitted(worker, operations.LIST_MODELS, CALLER):
        chat = [wire.model_body(name, "llm") for name in worker.chat.models]
        return [*chat, wire.model_body(worker.memories.fingerprint.model, "vector-memory")]


def _failed(error: ServiceError) -> JSONResponse:
    status = wire.openai_status(error)
    headers = {}
    if status == wire.openai_status(Unavailable()):
        headers["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    elif status >= wire.openai_status(LLMNotConfigured()):
        # OpenAI's clients retry such a status twice by default. Each retry would be another paid request, or one that
        # cannot succeed.
        headers["x-should-retry"] = "false"
    return JSONResponse({"error": wire.openai_error(error)}, status, headers)


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return dict.fromkeys(statuses, _ERRORS)


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    # FastAPI cannot derive this schema: the routes take the raw body, so that unknown fields reach the LLM unchanged.
    return {"requestBody": {"content": {"application/json": {"schema": body.model_json_schema()}}, "required": True}}
