"""OpenAI's shapes of bodies and errors, and what of them is for the memories.

Whatever a chat's body holds beyond that goes to the LLM as it is, so only the fields that are read here are checked.
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
from vector_memory.errors import InvalidInput, LimitExceeded, LLMRefused, NotFound, ServiceError
from vector_memory.fields import Items, Request, Text, invalid_input
from vector_memory.memories import CONTENT, DEFAULT_NAMESPACE, Filter
from vector_memory.research import DEFAULT_K

_Body = TypeVar("_Body", bound=BaseModel)

NAMESPACE_HEADER: Final = "X-Memory-Namespace"
MODEL_PREFIX: Final = "research:"

INPUTS_MAX: Final = 2_048
INPUT_TOKENS_MAX: Final = 300_000
"""OpenAI's own bounds on one embeddings request."""

STARTED_S: Final = int(time.time())
"""`created` of every model: nobody knows when a model was made, and clients want a number."""


class MemoryOptions(Request):
    """What `memory` in a chat's body may say."""

    k: int = Field(default=DEFAULT_K, description="Memories to add at most.")
    filter: Filter | None = None
    min_relevance: float | None = Field(default=None, description="Leave out less relevant memories; 0 to 1.")
    enabled: bool = Field(default=True, description="false: add nothing.")


class ChatBody(BaseModel):
    """OpenAI's body of a chat; what is not named here goes to the LLM too."""

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
    """OpenAI's body of embeddings."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    input: Any = Field(description="A text, or a list of up to 2,048 of them.")
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Only the model's own number.")
    user: Annotated[str | None, Field(description="Ignored.")] = None


def chat_request(raw: Mapping[str, Any], header: str | None) -> ChatRequest:
    """A chat's body, and the value of X-Memory-Namespace, as the domain's value.

    Raises:
        InvalidInput: a field that is read here is wrong, or two fields name different namespaces.
    """
    _check_sendable(raw)
    body = _validated(ChatBody, raw)
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
    question = {name: value for name, value in raw.items() if name not in ("model", "memory", "metadata")}
    if metadata:
        question["metadata"] = metadata
    try:
        options = _validated(MemoryOptions, body.memory or {})
        return ChatRequest(question, model, named[0] if named else DEFAULT_NAMESPACE, **dict(options))
    except InvalidInput as error:
        at = "metadata" if error.field == "namespace" else "memory"
        raise InvalidInput(error.message, field=f"{at}.{error.field}") from error


def embeddings_request(raw: Mapping[str, Any], models: Sequence[str], dim: int) -> tuple[EmbeddingsBody, list[str]]:
    """An embeddings' body and its texts, for an embedder with these names and so many dimensions.

    Raises:
        InvalidInput: a field is wrong.
        NotFound: there is no such model.
    """
    body = _validated(EmbeddingsBody, raw)
    if body.model not in models:
        raise NotFound(f"There is no embedding model {body.model!r:.200}; there is {models[0]}.", field="model")
    if body.dimensions not in (None, dim):
        raise InvalidInput(f"dimensions must be {dim}, which the model makes; leave it out.", field="dimensions")
    return body, _inputs(body.input)


def embeddings_body(body: EmbeddingsBody, model: str, vectors: Vectors, tokens: int) -> dict[str, Any]:
    """Embeddings in OpenAI's shape; base64 is of little-endian 32-bit floats."""
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
    """A model in OpenAI's shape."""
    return {"id": id, "object": "model", "created": STARTED_S, "owned_by": owner}


def openai_status(error: ServiceError) -> int:
    """The HTTP status of an error on these routes: OpenAI knows no 422, and what an LLM refuses the caller has sent."""
    if isinstance(error, LLMRefused) or type(error) is InvalidInput:
        return HTTPStatus.BAD_REQUEST
    return status_of(error)


def openai_error(error: ServiceError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    is_callers = openai_status(error) < HTTPStatus.INTERNAL_SERVER_ERROR
    return {
        "message": error.message,
        "type": "invalid_request_error" if is_callers else "server_error",
        "param": error.field,
        "code": "model_not_found" if isinstance(error, NotFound) else error.code,
    }


def written(data: object) -> bytes:
    """As JSON; half surrogate pairs, which an LLM's server may send and UTF-8 has no form for, as question marks."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % written(data)


def check_input_tokens(tokens: int) -> None:
    """Refuse more than one request may hold.

    Raises:
        LimitExceeded: it is more.
    """
    if tokens > INPUT_TOKENS_MAX:
        raise LimitExceeded(f"input has {tokens:,} tokens; at most {INPUT_TOKENS_MAX:,} fit, split it.", field="input")


def _inputs(value: object) -> list[str]:
    texts: list[Any] = value if isinstance(value, list) else [value]
    Items(INPUTS_MAX).check(texts, "input")
    for at, text in enumerate(texts):
        field = f"input[{at}]" if isinstance(value, list) else "input"
        if isinstance(text, int | list):
            raise InvalidInput(f"{field} holds tokens of another model's tokenizer; send the text itself.", field=field)
        Text(CONTENT.chars_max, "split it").check(text, field)
    return texts


def _validated(model: type[_Body], raw: Mapping[str, Any]) -> _Body:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise invalid_input(error) from error


def _check_sendable(raw: object) -> None:
    """Refuse what has no form as JSON in UTF-8: it could not be sent on."""
    try:
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "The body holds NaN, Infinity or half of a surrogate pair, or is nested too deeply."
        ) from error
