"""OpenAI's routes: chat that remembers, embeddings, models. Any client of OpenAI's takes them by its base URL."""

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
"""After an error no [DONE] follows: a client that passes over errors still misses the end."""

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
    """A route whose every failure has OpenAI's shape."""

    def get_route_handler(self) -> _Handler:
        """The handler of the route's function, with its errors translated."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                return _failed(error)
            except RequestValidationError as error:
                is_json = error.errors()[0]["type"] != "json_invalid"
                return _failed(InvalidInput(f"The body is not {'a JSON object' if is_json else 'valid JSON'}."))
            except HTTPException as error:
                if error.status_code == 413:
                    return _failed(LimitExceeded(str(error.detail)))
                return _failed(InvalidInput("The body is not JSON in UTF-8, or is nested too deeply."))
            except Exception:  # the LLM may have been paid, so its client must not come again by itself
                log.exception("request.crashed")
                return _failed(ServiceError("Something went wrong inside the service; its log has the details."))

        return handled


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1 that OpenAI's clients call."""
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
        """Go on with a conversation, with the memories added that bear on its last user message.

        Messages that cite memories have `annotations`. All other parameters go to the LLM as they are.
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
        """Embed texts with the model that the memories are searched by."""
        with admitted(worker, operations.EMBED, CALLER):
            memories = worker.memories
            name = memories.fingerprint.model
            asked, texts = wire.embeddings_request(body, (name, name.rpartition("/")[2]), memories.fingerprint.dim)
            tokens = memories.tokens(texts)
            wire.check_input_tokens(tokens)
            return JSONResponse(wire.embeddings_body(asked, name, memories.embed(texts), tokens))

    @router.get("/models", summary="List models", responses=_documented(503))
    def models() -> JSONResponse:
        """The models of the LLM's endpoints, the default one first, and the embedding model."""
        return JSONResponse({"object": "list", "data": _models(worker)})

    @router.get("/models/{id:path}", summary="Get a model", responses=_documented(404, 503))
    def model(id: str) -> JSONResponse:
        """One of the models."""
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
        # OpenAI's clients would send it twice more: another paid request each, or one that nobody could answer.
        headers["x-should-retry"] = "false"
    return JSONResponse({"error": wire.openai_error(error)}, status, headers)


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return dict.fromkeys(statuses, _ERRORS)


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    """The body's schema; the routes take it raw, since what they do not know goes on as it came."""
    return {"requestBody": {"content": {"application/json": {"schema": body.model_json_schema()}}, "required": True}}
