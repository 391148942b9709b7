"""Describes the operations for `/openapi.json` from their request types. FastAPI adds the answer types."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from gateway.http.uploads import FILE_FIELD
from memory_service.checks import IDEMPOTENCY_KEY
from vector_memory import operations
from vector_memory.operations import OPERATIONS, Operation

_COMPONENT = "#/components/schemas/{model}"

EVENTS: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
"""The second form of an answer that may stream: server-sent events."""

_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "Your name for this write: repeating it within a day gives the first answer again.",
        "schema": {"type": "string", **IDEMPOTENCY_KEY.shown()},
    },
    "Cache-Control": {
        "description": "`no-cache`: do not answer from the response cache.",
        "schema": {"type": "string"},
        "example": "no-cache",
    },
}
_CACHED = (operations.RETRIEVE.name, operations.RESEARCH.name)


def openapi_extra(operation: Operation[Any, Any]) -> dict[str, Any]:
    """Return the parameters and the request body of an operation in the form of OpenAPI."""
    properties = operation.request.model_json_schema(ref_template=_COMPONENT)["properties"]
    parameters = [_parameter(name, "path", properties[name], is_required=True) for name in operation.in_path]
    for name in operation.query_fields:
        is_required = operation.request.model_fields[name].is_required()
        parameters.append(_parameter(name, "query", properties[name], is_required=is_required))
    if operation.is_keyed:
        parameters.append(_header("Idempotency-Key"))
    if operation.name in _CACHED:
        parameters.append(_header("Cache-Control"))
    extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if operation.has_body:
        extra["requestBody"] = {"required": True, "content": _content(operation, properties)}
    return extra


def _parameter(name: str, place: str, schema: dict[str, Any], *, is_required: bool) -> dict[str, Any]:
    if name == "filter":
        schema = {"type": "string", "contentMediaType": "application/json"}
        return {"name": name, "in": place, "schema": schema, "description": 'JSON text, such as {"lead": "acme"}.'}
    shown = {key: value for key, value in schema.items() if key not in ("title", "description")}
    parameter = {"name": name, "in": place, "required": is_required, "schema": shown}
    return parameter if "description" not in schema else {**parameter, "description": schema["description"]}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, **_HEADERS[name]}


def _content(operation: Operation[Any, Any], properties: dict[str, Any]) -> dict[str, Any]:
    if operation.in_path or operation.in_query:
        # Some fields of the type are in the path or the query, so the body has a schema of its own with the others.
        names = operation.body_fields
        required = [name for name in names if operation.request.model_fields[name].is_required()]
        schema: dict[str, Any] = {"type": "object", "properties": {name: properties[name] for name in names}}
        schema |= {"additionalProperties": False, **({"required": required} if required else {})}
    else:
        schema = {"$ref": _COMPONENT.format(model=operation.request.__name__)}
    content = {"application/json": {"schema": schema}}
    # A document may also be an upload: the file, and every other field as text.
    if operation is operations.STORE_DOCUMENT:
        texts = {name: {"type": "string"} for name in properties if not name.startswith("content")}
        file = {FILE_FIELD: {"type": "string", "format": "binary"}}
        upload = {"type": "object", "required": [FILE_FIELD], "properties": file | texts}
        content["multipart/form-data"] = {"schema": upload}
    return content


def install(app: FastAPI) -> None:
    """Add the request types to the application's schema. The descriptions of the operations refer to them."""
    without = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            types = [(operation.request, "validation") for operation in OPERATIONS.values()]
            _, described = models_json_schema(types, ref_template=_COMPONENT)  # type: ignore[arg-type]
            schemas = without().setdefault("components", {}).setdefault("schemas", {})
            for name, schema in described.get("$defs", {}).items():
                schemas.setdefault(name, schema)
        return without()

    app.openapi = openapi  # type: ignore[method-assign]
