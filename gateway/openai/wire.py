"""OpenAI's bodies and errors, and the fields in them that are meant for the memories.

All other fields of a chat's body are passed to the LLM unchanged, so only the fields that are read here are checked.
"""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.http.errors import status_of
from memory_service.embedding.embedder import Vectors
from research.chat import ChatRequest
from research.llm.errors import LLMRefused
from vector_memory.errors import InvalidInput, LimitExceeded, NotFound, ServiceError
from vector_memory.fields import BoundedText, Items, Request, invalid_input
from vector_memory.memories import CONTENT, DEFAULT_NAMESPACE, Filter
from vector_memory.research import DEFAULT_K

_Body = TypeVar("_Body", bound=BaseModel)

NAMESPACE_HEADER: Final = "X-Memory-Namespace"
MODEL_PREFIX: Final = "research:"
"""A model name with this prefix names a namespace, and means the default model."""

INPUTS_MAX: Final = 2_048
"""Upper bound on the texts of one embeddings request. It is OpenAI's own."""

INPUT_TOKENS_MAX: Final = 300_000
"""Upper bound on the tokens of one embeddings request. It is OpenAI's own."""

STARTED_S: Final = int(time.time())
"""The value of `created` for every model. Clients expect a number, and the real time is not known."""


class MemoryOptions(Request):
    """The fields of `memory` in a chat's body."""

    k: int = Field(default=DEFAULT_K, description="Memories to add at most.")
    filter: Filter | None = None
    min_relevance: float | None = Field(default=None, description="Leave out less relevant memories; 0 to 1.")
    enabled: bool = Field(default=True, description="false: add nothing.")


class ChatBody(BaseModel):
    """OpenAI's body of a chat. Fields that are not named here are passed to the LLM too."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: str | None = Field(
        default=None,
        description="A name of GET /v1/models, or `research:NAMESPACE` for the default one with that namespace.",
    )
    messages: list[dict[str, Any]] = Field(description="The conversation.")
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    metadata: dict[str, Any] | None = Field(default=None, description="`namespace` names whose memories are added.")
    memory: dict[str, Any] | None = Field(
        default=None,
        description="Which memories are added.",
        json_schema_extra={"properties": MemoryOptions.model_json_schema()["properties"]},
    )


class EmbeddingsBody(BaseModel):
    """OpenAI's body of an embeddings request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    input: Any = Field(description="A text, or a list of up to 2,048 of them.")
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Only the model's own number.")
    user: Annotated[str | None, Field(description="Ignored.")] = None


def chat_request(raw: Mapping[str, Any], header: str | None) -> ChatRequest:
    """Translate a chat's body into the domain's request.

    Args:
        raw: the body as the caller sent it.
        header: the value of the header X-Memory-Namespace, or None.

    Raises:
        InvalidInput: a field that is read here is wrong, or two fields name different namespaces.
    """
    _check_sendable(raw)
    body = _validated(ChatBody, raw)
    # A caller may name the namespace in three places. Collect all of them, since they must agree.
    model, named = body.model, [] if header is None else [header]
    metadata = dict(body.metadata or {})
    if "namespace" in metadata:
        named.append(metadata.pop("namespace"))
    if model is not None and model.startswith(MODEL_PREFIX):
        named.append(model.removeprefix(MODEL_PREFIX))
        model = None
    if any(namespace != named[0] for namespace in named):
        raise InvalidInput(
            f"metadata.namespace, the header {NAMESPACE_HEADER} and model name different namespaces; name one.",
            field="metadata.namespace",
        )
    # The LLM gets the body without the fields that are meant for this service.
    question = {name: value for name, value in raw.items() if name not in ("model", "memory", "metadata")}
    if metadata:
        question["metadata"] = metadata
    try:
        options = _validated(MemoryOptions, body.memory or {})
        return ChatRequest(
            question=question, model=model, namespace=named[0] if named else DEFAULT_NAMESPACE, **dict(options)
        )
    except InvalidInput as error:
        # Name the field as the caller wrote it, inside its object.
        at = "metadata" if error.field == "namespace" else "memory"
        raise InvalidInput(error.message, field=f"{at}.{error.field}") from error


def embeddings_request(raw: Mapping[str, Any], models: Sequence[str], dim: int) -> tuple[EmbeddingsBody, list[str]]:
    """Validate the body of an embeddings request and return it with its texts.

    Args:
        raw: the body as the caller sent it.
        models: the names that the embedding model has; the full name comes first.
        dim: the number of dimensions of the model's vectors.

    Raises:
        InvalidInput: a field is wrong.
        NotFound: the body names another model.
    """
    body = _validated(EmbeddingsBody, raw)
    if body.model not in models:
        raise NotFound(f"There is no embedding model {body.model!r:.200}; there is {models[0]}.", field="model")
    if body.dimensions not in (None, dim):
        raise InvalidInput(f"dimensions must be {dim}, which the model makes; leave it out.", field="dimensions")
    return body, _inputs(body.input)


def embeddings_body(body: EmbeddingsBody, model: str, vectors: Vectors, tokens: int) -> dict[str, Any]:
    """Return embeddings in OpenAI's shape. In base64 a vector is its little-endian 32-bit floats.

    Args:
        body: the request that is answered.
        model: the name of the embedding model.
        vectors: one row for each text, shape (texts, dim).
        tokens: the number of tokens of all texts together.
    """
    # On a big-endian machine this swaps bytes; elsewhere it copies nothing if the vectors are float32.
    rows = np.asarray(vectors, "<f4")
    written = [
        base64.b64encode(row.tobytes()).decode() if body.encoding_format == "base64" else row.tolist() for row in rows
    ]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": embedding} for at, embedding in enumerate(written)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def model_body(id: str, owner: str) -> dict[str, Any]:
    """Return a model in OpenAI's shape."""
    return {"id": id, "object": "model", "created": STARTED_S, "owned_by": owner}


def openai_status(error: ServiceError) -> int:
    """Return the HTTP status of an error on OpenAI's routes."""
    # OpenAI answers invalid input with 400 instead of 422. An LLM refuses only what the caller sent.
    if isinstance(error, LLMRefused) or type(error) is InvalidInput:
        return HTTPStatus.BAD_REQUEST
    return status_of(error)


def openai_error(error: ServiceError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    is_callers = openai_status(error) < HTTPStatus.INTERNAL_SERVER_ERROR
    return {
        "message": error.message,
        "type": "invalid_request_error" if is_callers else "server_error",
        "param": error.field,
        "code": "model_not_found" if isinstance(error, NotFound) else error.code,
    }


def written(data: object) -> bytes:
    """Return a value as JSON in UTF-8. Half of a surrogate pair becomes a question mark."""
    # An LLM's server may send half a pair, and UTF-8 cannot encode it.
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def event(data: object) -> bytes:
    """Return a value as one server-sent event."""
    return b"data: %b\n\n" % written(data)


def check_input_tokens(tokens: int) -> None:
    """Check the number of tokens of one embeddings request.

    Raises:
        LimitExceeded: there are more than `INPUT_TOKENS_MAX`.
    """
    if tokens > INPUT_TOKENS_MAX:
        raise LimitExceeded(f"input has {tokens:,} tokens; at most {INPUT_TOKENS_MAX:,} fit, split it.", field="input")


def _inputs(value: object) -> list[str]:
    texts: list[Any] = value if isinstance(value, list) else [value]
    Items(INPUTS_MAX).check(texts, "input")
    for at, text in enumerate(texts):
        field = f"input[{at}]" if isinstance(value, list) else "input"
        # OpenAI also takes token numbers. They belong to its tokenizer, so they mean nothing to this model.
        if isinstance(text, int | list):
            raise InvalidInput(f"{field} holds tokens of another model's tokenizer; send the text itself.", field=field)
        BoundedText(CONTENT.chars_max, "split it").check(text, field)
    return texts


def _validated(model: type[_Body], raw: Mapping[str, Any]) -> _Body:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise invalid_input(error) from error


def _check_sendable(raw: object) -> None:
    """Refuse a body that cannot be written as JSON in UTF-8, because it could not be sent to the LLM."""
    try:
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "The body holds NaN, Infinity or half of a surrogate pair, or is nested too deeply."
        ) from error
