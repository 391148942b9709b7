"""Requests and responses as every transport carries them. Their bodies are JSON values."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vector_memory.errors import InvalidInput
from vector_memory.server_sent import ServerSentEvent


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request to the service.

    Attributes:
        method: the HTTP method.
        path: the path, percent-encoded and without a query.
        query: the names and values of the query, not encoded.
        body: any JSON value, or None for no body.
        idempotency_key: the caller's name for this write, or None for a request that writes no memory.
        is_repeatable: whether sending the request again does no harm, even if it was carried out before. This is true
            of a read, and of a write under an idempotency key.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    idempotency_key: str | None = None
    is_repeatable: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the service reads."""
        return {} if self.idempotency_key is None else {"Idempotency-Key": self.idempotency_key}


@dataclass(frozen=True, slots=True)
class WireResponse:
    """A response of the service.

    Attributes:
        status: the HTTP status.
        body: the parsed JSON, or None if the body is not JSON.
        retry_after_s: seconds to wait before the next attempt, if the response names them.
        request_id: the id of the request in the service's log.
        events: the events of an answer that streams, or None. The caller closes this generator. It raises
            `Unanswered` if the stream is cut off.
    """

    status: int
    body: Any
    retry_after_s: float | None = None
    request_id: str | None = None
    events: AsyncGenerator[ServerSentEvent] | None = None


class Unanswered(Exception):
    """No response came.

    Attributes:
        reason: one sentence that says what went wrong.
        was_sent: whether the service may have carried the request out.
        is_final: whether another attempt is useless, as after the whole timeout has passed.
    """

    def __init__(self, reason: str, *, was_sent: bool, is_final: bool = False) -> None:
        self.reason = reason
        self.was_sent = was_sent
        self.is_final = is_final
        super().__init__(reason)


def json_bytes(body: object) -> bytes:
    """Serialize a body as JSON in UTF-8.

    Raises:
        InvalidInput: JSON cannot express the body.
    """
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(
            "The request holds what JSON cannot express, such as NaN, a set or a date; send numbers, texts, lists "
            "and objects."
        ) from error
