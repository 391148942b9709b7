"""What can go wrong, in a closed set of words.

    ServiceError
    ├── InvalidInput          invalid          the request itself is wrong
    │   └── UnsupportedForm                    a document of a form that is not read here
    ├── Unauthorized          unauthorized     the platform in front of the service wants another key
    ├── LimitExceeded         limit_exceeded   the request is larger than a stated bound
    ├── NotFound              not_found
    ├── Conflict              conflict         it contradicts what was stored or asked before
    ├── RateLimited           rate_limited     too many requests, as the platform in front of the service finds
    ├── Unavailable           unavailable      not now: loading, stopping, overloaded, out of reach
    │   └── StorageUnavailable                 the data folder takes no writes; reads go on
    ├── LLMNotConfigured      llm_not_configured
    ├── LLMUnreachable        upstream         no answer from the LLM endpoint
    │   ├── LLMNotConnected                    nothing was sent, so asking again costs nothing
    │   ├── LLMBusy                            it is alive, and has no room for this request
    │   └── LLMStarting                        no worker of it is up yet
    ├── LLMReplyInvalid       upstream         an answer that is no completion
    │   └── LLMRefused                         the request itself gets no answer, from whichever endpoint
    └── LLMTimeout            upstream_timeout

The tree knows nothing of HTTP, jobs or the command line: each of those edges owns one table from these
classes to its own words. A class's docstring is its message when none is given.

`StartupError` stands apart: it ends the process with its one line before anything is served.
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
    """Status of the response that carried the error. Only a client sets it, as it sets `request_id`."""

    request_id: str | None = None

    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {name: {"type": "string"} for name in ("code", "message", "field", "request_id")},
    }
    """JSON Schema of `body`."""

    def __init__(
        self, message: str | None = None, *, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Args:
        message: one sentence for the caller: what is wrong, the bound, the remedy.
        field: path of the offending part of the request, such as `metadata.price` or `filter.$and[1]`.
        retry_after_s: whole seconds after which the same request is worth another try, where that can be told.
        """
        self.retry_after_s = retry_after_s
        self.message = _encodable(message or type(self).__doc__ or type(self).__name__)
        self.field = None if field is None else _encodable(field)
        super().__init__(self.message)

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """Return the error as it travels: `code`, `message`, and `field` and `request_id` where there are any."""
        parts = {"code": self.code, "message": self.message, "field": self.field, "request_id": request_id}
        return {name: part for name, part in parts.items() if part is not None}


def _encodable(text: str) -> str:
    """A text that every edge can send: what it quotes of a request may hold halves of surrogate pairs."""
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


class LLMNotConnected(LLMUnreachable):
    """No connection to the LLM endpoint could be made."""


class LLMBusy(LLMUnreachable):
    """The LLM endpoint is too busy to answer; try again later."""


class LLMStarting(LLMUnreachable):
    """The LLM endpoint is starting; try again later."""


class LLMReplyInvalid(ServiceError):
    """The LLM endpoint answered with something that is not a completion."""

    code = "upstream"


class LLMRefused(LLMReplyInvalid):
    """The LLM endpoint refused the request."""


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
        body: what a service sent; unknown codes make a plain ServiceError.
        status: HTTP status of the response, which tells some classes of one code apart.
    """
    code = body.get("code")
    kind = _BY_CODE_AND_STATUS.get((str(code), status)) or _BY_CODE.get(str(code), ServiceError)
    return kind(_text(body.get("message")), field=_text(body.get("field")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def look_up(table: Mapping[type[ServiceError], T], error: ServiceError) -> T:
    """Return the entry of the error's class, or of its nearest base class that has one.

    An edge's table thereby covers subclasses that it does not know, such as those of installed tools.
    """
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


class StartupError(Exception):
    """The worker cannot start; the message is the one line that the operator sees."""
