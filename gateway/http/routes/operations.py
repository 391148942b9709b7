"""The routes of the operations. They are derived from the table in `vector_memory.operations`."""

import json
import re
from functools import cache
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Match
from starlette.types import Scope

from gateway.calls import Caller, call, description, stream
from gateway.http.bodies import json_object, read_document
from gateway.http.errors import documented
from gateway.http.event_stream import RESEARCH, stream_response
from gateway.http.paths import WITH_SLASHES, path_pattern
from gateway.serving.services import Services
from vector_memory import operations
from vector_memory.errors import InvalidInput
from vector_memory.fields import Value, invalid_input
from vector_memory.operations import OPERATIONS, Operation
from vector_memory.research import ResearchRequest

_OWN_ROUTES = frozenset({operations.HEALTH.name, operations.LIST_TOOLS.name, operations.CALL_TOOL.name})
"""Operations with routes elsewhere. Health answers while the service loads, and tools answer in an envelope."""


def routes(services: Services) -> APIRouter:
    """Return a route for each operation."""
    router = APIRouter()
    for operation in OPERATIONS.values():
        if operation.name not in _OWN_ROUTES:
            _add(router, services, operation)
    return router


def _add(router: APIRouter, services: Services, operation: Operation[Any, Any]) -> None:
    async def endpoint(http: HTTPRequest) -> Response:
        request = operation.request.read(await _fields(operation, http))
        caller = caller_of(http)
        if operation.streams and request.stream:
            return await _events(services, http, request, caller)
        content = await call(services, operation, request, caller, json_bytes)
        return Response(content, media_type="application/json")

    path = re.sub(rf"{{({'|'.join(WITH_SLASHES)})}}", r"{\1:path}", operation.path)
    router.add_api_route(
        path,
        endpoint,
        methods=[operation.method],
        name=operation.name,
        operation_id=operation.name,
        summary=operation.summary,
        description=description(operation),
        tags=[_tag(operation)],
        responses=documented(operation),
        route_class_override=OperationRoute,
    )


def caller_of(http: HTTPRequest) -> Caller:
    """Return the caller of an HTTP request, as its headers describe it."""
    return Caller(
        door="http",
        idempotency_key=http.headers.get("idempotency-key"),
        skips_cache="no-cache" in http.headers.get("cache-control", "").lower(),
    )


def json_bytes(answer: Value) -> bytes:
    """Serialize an answer as JSON in UTF-8."""
    return answer.model_dump_json().encode()


async def _events(services: Services, http: HTTPRequest, request: ResearchRequest, caller: Caller) -> Response:
    return await stream_response(http, stream(services, request, caller), RESEARCH)


def _tag(operation: Operation[Any, Any]) -> str:
    subject = operation.path.split("/")[2]
    return {"libraries": "documents", "receipts": "memories"}.get(subject, subject)


class OperationRoute(APIRoute):
    """A route that matches the path as it was sent, before it is decoded.

    A caller encodes the slash of a key that ends in `/history` as `%2F`. The decoded path no longer tells that key from
    the route of its history. It also hides that a key is not UTF-8, and such a key must be refused.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether the path belongs to this route, and whether the method does too."""
        found = path_pattern(self.path_format).fullmatch(_sent_path(scope))
        if scope["type"] != "http" or found is None:
            return Match.NONE, {}
        child = {"endpoint": self.endpoint, "path_params": found.groupdict(), "route": self}
        return (Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL), child


def _sent_path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


async def _fields(operation: Operation[Any, Any], http: HTTPRequest) -> dict[str, Any]:
    """Return the fields of a request by name, from its path, its query and its body.

    Raises:
        InvalidInput: the path, the query or the body cannot be read.
    """
    path = {name: _decoded(name, value) for name, value in http.path_params.items()}
    query = _query(operation, http)
    if not operation.has_body:
        return {**query, **path}
    body = await read_document(http) if operation is operations.STORE_DOCUMENT else await json_object(http)
    for name in (*operation.in_path, *operation.in_query):
        if name in body:
            raise InvalidInput(f"{name} does not belong into the body; see /docs.", field=name)
    return {**body, **query, **path}


def _decoded(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not valid UTF-8; percent-encode its UTF-8 bytes.", field=name) from error


def _query(operation: Operation[Any, Any], http: HTTPRequest) -> dict[str, Any]:
    names = operation.query_fields
    if operation.has_body:
        # Other parameters of a request with a body come from a proxy, such as RunPod's load balancer. Pass over them.
        return {name: _parsed(operation, name, http.query_params[name]) for name in names if name in http.query_params}
    return {name: _parsed(operation, name, value) for name, value in http.query_params.items()}


def _parsed(operation: Operation[Any, Any], name: str, text: str) -> Any:
    """Parse a query parameter as the type of its field. A filter is JSON; a number or a boolean is its text."""
    field = operation.request.model_fields.get(name)
    if field is None or name in operation.in_path:
        raise InvalidInput(f"{name} is not a field of this request; check its spelling.", field=name)
    if name == "filter":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput('filter is not valid JSON; send it such as {"lead": "acme"}.', field="filter") from error
    try:
        return _adapter(operation.name, name).validate_strings(text)
    except ValidationError as error:
        raise invalid_input(error, name) from error


@cache
def _adapter(operation: str, name: str) -> TypeAdapter[Any]:
    annotation: Any = OPERATIONS[operation].request.model_fields[name].annotation
    return TypeAdapter(annotation)
