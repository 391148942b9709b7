"""The errors of the service. Their codes are a closed set.

    ServiceError
    ├── InvalidInput          invalid          the request itself is wrong
    │   └── UnsupportedForm                    the service does not read documents of this form
    ├── Unauthorized          unauthorized     the platform in front of the service wants another key
    ├── LimitExceeded         limit_exceeded   the request is larger than a stated bound
    ├── NotFound              not_found
    ├── Conflict              conflict         it contradicts what was stored or asked before
    ├── RateLimited           rate_limited     the platform in front of the service counts too many requests
    ├── Unavailable           unavailable      the service is loading, stopping, overloaded or out of reach
    │   └── StorageUnavailable                 the data folder accepts no writes; reads go on
    ├── LLMNotConfigured      llm_not_configured
    ├── LLMUnreachable        upstream         the LLM endpoint does not answer
    ├── LLMReplyInvalid       upstream         its answer is not a completion
    └── LLMTimeout            upstream_timeout

The tree knows nothing of HTTP, jobs or the command line. Each of those edges has one table from these classes to its
own words. The docstring of a class is its message if the caller gives none.

`StartupError` is not part of the tree. It ends the process with one line before any request is served.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

T = TypeVar("T")

Code = Literal[
    "invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "limit_exceeded",
    "rate_limited",
    "llm_not_configured",
    "upstream",
    "upstream_timeout",
    "unavailable",
    "internal",
]


class ServiceError(Exception):
    """The service failed in a way that it has no better word for."""

    code: ClassVar[Code] = "internal"

    status: int | None = None
    """HTTP status of the response that carried the error. Only a client sets it."""

    request_id: str | None = None
    """Id of the request in the service's log. Only a client sets it."""

    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {name: {"type": "string"} for name in ("code", "message", "field", "request_id")},
    }
    """JSON Schema of what `body` returns."""

    def __init__(
        self, message: str | None = None, *, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Build the error.

        Args:
            message: one sentence for the caller that says what is wrong, the bound and the remedy. By default it is the
                docstring of the class.
            field: path of the offending part of the request, such as `metadata.price` or `filter.$and[1]`.
            retry_after_s: whole seconds after which the same request is worth another try, or None if unknown.
        """
        self.retry_after_s = retry_after_s
        self.message = _encodable(message or type(self).__doc__ or type(self).__name__)
        self.field = None if field is None else _encodable(field)
        super().__init__(self.message)

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """Return the error as a JSON object: `code` and `message`, and `field` and `request_id` if they are known."""
        parts = {"code": self.code, "message": self.message, "field": self.field, "request_id": request_id}
        return {name: part for name, part in parts.items() if part is not None}


def _encodable(text: str) -> str:
    """Replace lone surrogates, which a message may quote from a request. Every edge can then send the text."""
    return text.encode("utf-8", "replace").decode()


class InvalidInput(ServiceError):
    """The request is not valid."""

    code = "invalid"


class UnsupportedForm(InvalidInput):
    """The document is of a form that is not read here; send text, Markdown, HTML or PDF."""


class Unauthorized(ServiceError):
    """The API key is missing, wrong, or not good for this."""

    code = "unauthorized"


class RateLimited(ServiceError):
    """There were too many requests; try again later."""

    code = "rate_limited"


class LimitExceeded(ServiceError):
    """The request is larger than this service accepts."""

    code = "limit_exceeded"


class NotFound(ServiceError):
    """There is no such memory."""

    code = "not_found"


class Conflict(ServiceError):
    """The request contradicts an earlier one."""

    code = "conflict"


class Unavailable(ServiceError):
    """The service cannot answer at the moment; try again."""

    code = "unavailable"


class StorageUnavailable(Unavailable):
    """The data folder takes no writes at the moment, so nothing was acknowledged; reads go on."""


class LLMNotConfigured(ServiceError):
    """No LLM is configured: set LLM_BASE_URL, or RUNPOD_API_KEY and RUNPOD_VLLM_ENDPOINT_ID."""

    code = "llm_not_configured"


class LLMUnreachable(ServiceError):
    """The LLM endpoint cannot be reached."""

    code = "upstream"


class LLMReplyInvalid(ServiceError):
    """The LLM endpoint answered with something that is not a completion."""

    code = "upstream"


class LLMTimeout(ServiceError):
    """The LLM endpoint did not answer in time."""

    code = "upstream_timeout"


_BY_CODE: Mapping[str, type[ServiceError]] = {
    error.code: error
    for error in (
        ServiceError,
        InvalidInput,
        Unauthorized,
        LimitExceeded,
        NotFound,
        Conflict,
        RateLimited,
        Unavailable,
        LLMNotConfigured,
        LLMUnreachable,
        LLMTimeout,
    )
}

_BY_CODE_AND_STATUS: Mapping[tuple[str, int | None], type[ServiceError]] = {
    ("invalid", 415): UnsupportedForm,
    ("unavailable", 507): StorageUnavailable,
    ("upstream", 502): LLMReplyInvalid,
}


def error_of(body: Mapping[str, Any], status: int | None = None) -> ServiceError:
    """Return the error that `ServiceError.body` describes.

    Args:
        body: the object that a service sent. An unknown code makes a plain ServiceError.
        status: HTTP status of the response. It tells classes apart that share a code.
    """
    code = body.get("code")
    kind = _BY_CODE_AND_STATUS.get((str(code), status)) or _BY_CODE.get(str(code), ServiceError)
    return kind(_text(body.get("message")), field=_text(body.get("field")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def look_up(table: Mapping[type[ServiceError], T], error: ServiceError) -> T:
    """Return the entry of the error's class, or of its nearest base class that has one.

    So the table of an edge covers subclasses that it does not know, such as the errors of installed tools.
    """
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


class StartupError(Exception):
    """The worker cannot start; the message is the one line that the operator sees."""
