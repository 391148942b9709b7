"""The one table from errors to HTTP statuses, and the handlers that use it."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.http.paths import path_pattern
from gateway.observability.logs import request_id
from vector_memory import errors
from vector_memory.errors import InvalidInput, NotFound, ServiceError, look_up
from vector_memory.fields import first_as_ours
from vector_memory.operations import Operation

log = logging.getLogger(__name__)


class MalformedBody(InvalidInput):
    """The body is not JSON in UTF-8."""


STATUS: dict[type[ServiceError], int] = {
    errors.ServiceError: 500,
    errors.InvalidInput: 422,
    MalformedBody: 400,
    errors.UnsupportedForm: 415,
    errors.Unauthorized: 401,
    errors.LimitExceeded: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
    errors.StorageUnavailable: 507,
    errors.LLMNotConfigured: 500,
    errors.LLMUnreachable: 503,
    errors.LLMReplyInvalid: 502,
    errors.LLMTimeout: 504,
}
"""HTTP status of each error class. A class that is not listed has the status of its nearest base class."""

RETRY_AFTER_S = 1
"""Seconds in the Retry-After header if the error itself names none."""


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return look_up(STATUS, error)


_MEANINGS = {
    400: "The body is not JSON in UTF-8.",
    404: "There is no such memory, document, trace or tool.",
    409: "The Idempotency-Key was used for another request.",
    413: "The body is too large.",
    415: "The document is of a format that is not read here.",
    422: "A field is wrong; the error names it.",
    500: "No LLM is configured (llm_not_configured).",
    502: "The LLM endpoint's answer is not a completion.",
    503: "Not now: loading, overloaded, or the LLM endpoint is starting or cannot be reached; see Retry-After.",
    504: "The LLM endpoint did not answer in time.",
    507: "The data folder takes no writes at the moment.",
}
_ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": ServiceError.SCHEMA}}


def documented(operation: Operation[Any, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of an operation, for its part of `/openapi.json`."""
    of_body = (400, 413) if operation.has_body else ()
    return documented_statuses(*sorted({422, 503, *of_body, *operation.statuses}))


def documented_statuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses by status, for `/openapi.json`."""
    content = {"application/json": {"schema": _ERROR_SCHEMA}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def error_response(error: ServiceError, status: int | None = None) -> JSONResponse:
    """Build the response for an error. `status` overrides the status of its class."""
    status = status or status_of(error)
    is_passing = status == STATUS[errors.Unavailable]
    # Only 503 passes by itself, so only it invites the caller to try again.
    headers = {"Retry-After": str(error.retry_after_s or RETRY_AFTER_S)} if is_passing else None
    return JSONResponse({"error": error.body(request_id.get())}, status, headers)


def install(app: FastAPI) -> None:
    """Register the handlers that answer every failure of the application in the shape of `ServiceError.body`."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _client_left)


async def _service_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError), "registered for this class"
    if status_of(error) >= STATUS[errors.ServiceError]:
        log.warning("request.failed", extra={"code": error.code, "reason": error.message})
    return error_response(error)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), "registered for this class"
    first = error.errors()[0]  # one error at a time, as the operations report them
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return error_response(MalformedBody(f"The body is not valid JSON: {reason}."))
    return error_response(first_as_ours({**first, "loc": first["loc"][1:]}))  # without `body` or `query`


async def _client_left(_request: Request, _error: Exception) -> JSONResponse:
    # Nobody reads this answer. Without it, every client that leaves amid its body would be logged as a crash.
    return error_response(MalformedBody("The body ended before it was complete."))


def _methods(request: Request) -> set[str]:
    """Return every method that the path supports, on any route. Starlette names only those of the first route."""
    app: FastAPI = request.app
    found: set[str] = set()
    for path, methods in app.openapi()["paths"].items():
        if path_pattern(path).fullmatch(request.url.path):
            found |= {method.upper() for method in methods}
    return found


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answer for the errors that Starlette and FastAPI raise themselves."""
    assert isinstance(error, HTTPException), "registered for this class"
    match error.status_code:
        case 404:
            return error_response(NotFound(f"There is no route {request.url.path}; GET / lists them."))
        case 405:
            response = error_response(
                InvalidInput(f"{request.url.path} does not take {request.method}; see /docs."), 405
            )
            response.headers["Allow"] = ", ".join(sorted(_methods(request)))
            return response
        case 413:
            return error_response(errors.LimitExceeded(str(error.detail)))
    return error_response(InvalidInput("The body is not JSON in UTF-8, or is nested too deeply."), error.status_code)
