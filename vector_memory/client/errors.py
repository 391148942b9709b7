"""Turns responses into the errors of `vector_memory/errors.py`, with status and request id.

A request without a response is not translated here: it raises `Unavailable` without a status.
"""

import json
from typing import Any

from vector_memory import errors
from vector_memory.client.requests import WireResponse
from vector_memory.errors import ServiceError

_BY_STATUS: dict[int, type[ServiceError]] = {
    400: errors.InvalidInput,
    401: errors.Unauthorized,
    403: errors.Unauthorized,
    404: errors.NotFound,
    413: errors.LimitExceeded,
    415: errors.UnsupportedForm,
    429: errors.RateLimited,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
    524: errors.Unavailable,  # a proxy stopped waiting for the service
}
"""Errors by status, for responses of a proxy in front of the service, which does not know our codes."""

SUCCESS = range(200, 300)


def answered(response: WireResponse) -> Any:
    """Return the body of a successful response.

    Raises:
        ServiceError: the response reports a failure, or its body is not a JSON object.
    """
    if response.status not in SUCCESS:
        raise failure(response)
    if not isinstance(response.body, dict):
        raise _with_origin(
            errors.ServiceError("The answer is no JSON object; is this a vector-memory service?"), response
        )
    return response.body


def failure(response: WireResponse) -> ServiceError:
    """Return the error that a response describes."""
    told = response.body.get("error") if isinstance(response.body, dict) else None
    # An object with a code is the service's own error. Everything else comes from `/health` or from a proxy.
    if isinstance(told, dict) and isinstance(told.get("code"), str):
        request_id = told.get("request_id")
        return _with_origin(
            errors.error_of(told, response.status), response, request_id if isinstance(request_id, str) else None
        )
    if isinstance(response.body, dict) and response.body.get("status") == "loading":
        return _with_origin(errors.Unavailable("The service is loading its memories; try again soon."), response)
    # Not an answer of the service: only the status is known.
    kind = _BY_STATUS.get(response.status, ServiceError)
    return _with_origin(kind(f"The answer was status {response.status} and not of a vector-memory service."), response)


def job_failure(error: object) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a failed job. Its `error` is JSON text if the service wrote it."""
    try:
        told = json.loads(error) if isinstance(error, str) else error
    except ValueError:
        told = None
    if isinstance(told, dict) and isinstance(told.get("status"), int):
        return told["status"], {"error": {name: value for name, value in told.items() if name != "status"}}
    # The worker crashed or RunPod failed, so there is no error of the service to pass on.
    return 500, {"error": {"code": "internal", "message": "The job failed; the worker's log on RunPod says why."}}


def _with_origin(error: ServiceError, response: WireResponse, request_id: str | None = None) -> ServiceError:
    error.status = response.status
    error.request_id = request_id or response.request_id
    return error
