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
    ├── LLMReplyInvalid       upstream         an answer that is no completion
    └── LLMTimeout            upstream_timeout

The tree knows nothing of HTTP, jobs or the command line: each of those edges owns one table from these
classes to its own words. A class's docstring is its message when none is given.

`StartupError` stands apart: it ends the process with its one line before anything is served.
"""

from typing import ClassVar, Literal

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
    request_id: str | None = None
    """As a door answered; only a client that met the error at a door sets them."""

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


class LLMReplyInvalid(ServiceError):
    """The LLM endpoint answered with something that is not a completion."""

    code = "upstream"


class LLMTimeout(ServiceError):
    """The LLM endpoint did not answer in time."""

    code = "upstream_timeout"


class StartupError(Exception):
    """The worker cannot start; the message is the one line that the operator sees."""
