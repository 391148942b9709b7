"""Describes the operations for `/openapi.json` from their request and answer types.

The description is made when somebody asks for it, because building the schemas of all types would delay the start.
"""

from collections.abc import Collection
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.http.uploads import FILE_FIELD
from memory_service.checks import IDEMPOTENCY_KEY
from vector_memory import operations
from vector_memory.operations import OPERATIONS, Operation

_COMPONENT = "#/components/schemas/{model}"

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


def _describe(item: dict[str, Any], operation: Operation[Any, Any], schema: dict[str, Any], answer: Any) -> None:
    """Add the parameters, the body and the answer of an operation to what FastAPI says of its route.

    Args:
        item: the route's entry under `paths`.
        operation: the one that the route carries out.
        schema: JSON Schema of its request type.
        answer: reference to the schema of its answer type.
    """
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    places = [(name, "path") for name in operation.in_path] + [(name, "query") for name in operation.query_fields]
    parameters = [_parameter(name, place, properties[name], is_required=name in required) for name, place in places]
    if operation.is_keyed:
        parameters.append(_header("Idempotency-Key"))
    if operation.name in _CACHED:
        parameters.append(_header("Cache-Control"))
    if parameters:
        item["parameters"] = parameters
    if operation.has_body:
        item["requestBody"] = {"required": True, "content": _content(operation, properties, required)}
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    item["responses"]["200"] = {"description": "The answer.", "content": content}


def _parameter(name: str, place: str, schema: dict[str, Any], *, is_required: bool) -> dict[str, Any]:
    if name == "filter":
        schema = {"type": "string", "contentMediaType": "application/json"}
        return {"name": name, "in": place, "schema": schema, "description": 'JSON text, such as {"lead": "acme"}.'}
    shown = {key: value for key, value in schema.items() if key not in ("title", "description")}
    parameter = {"name": name, "in": place, "required": is_required, "schema": shown}
    return parameter if "description" not in schema else {**parameter, "description": schema["description"]}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, **_HEADERS[name]}


def _content(operation: Operation[Any, Any], properties: dict[str, Any], required: Collection[str]) -> dict[str, Any]:
    if operation.whole_body is not None:
        schema: dict[str, Any] = properties[operation.whole_body]
    elif operation.in_path or operation.in_query:
        # Some fields of the type travel elsewhere, so the body is described by the others.
        names = operation.body_fields
        schema = {"type": "object", "properties": {name: properties[name] for name in names}}
        schema |= {"additionalProperties": False, "required": [name for name in names if name in required]}
        if not schema["required"]:
            del schema["required"]
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
    """Make the application describe its operations."""
    by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            types: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = []
            for operation in OPERATIONS.values():
                types += [(operation.request, "validation"), (operation.answer, "serialization")]
            references, described = models_json_schema(types, ref_template=_COMPONENT)
            document = by_fastapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= described["$defs"]
            for operation in OPERATIONS.values():
                item = document["paths"][operation.path][operation.method.lower()]
                name = references[operation.request, "validation"]["$ref"].rpartition("/")[2]
                _describe(item, operation, schemas[name], references[operation.answer, "serialization"])
        return by_fastapi()

    app.openapi = openapi  # type: ignore[method-assign]
