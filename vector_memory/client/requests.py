"""A request of an operation and the response to it, as every transport carries them: JSON in, JSON out."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vector_memory.errors import InvalidInput
from vector_memory.server_sent import ServerSentEvent


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What is asked of the service.

    Attributes:
        path: percent-encoded, without a query.
        query: names and values; neither is encoded yet.
        body: any JSON value, or None for no body.
        idempotency_key: the caller's name for this write; None for what writes no memory.
        is_repeatable: sending it again does no harm, even if it was carried out before: a read, or a write under an
            idempotency key.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    idempotency_key: str | None = None
    is_repeatable: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """Those that mean something to the service."""
        return {} if self.idempotency_key is None else {"Idempotency-Key": self.idempotency_key}


@dataclass(frozen=True, slots=True)
class WireResponse:
    """What came back.

    Attributes:
        status: as HTTP has it.
        body: parsed JSON; None where there was none.
        retry_after_s: how long to wait before asking again, if the answerer said so.
        request_id: by which the service's log knows it.
        events: what follows, where the answer streams, until the one who asked closes it; it raises `Unanswered`
            where it is cut off.
    """

    status: int
    body: Any
    retry_after_s: float | None = None
    request_id: str | None = None
    events: AsyncGenerator[ServerSentEvent] | None = None


class Unanswered(Exception):
    """No response came.

    Attributes:
        was_sent: the service may have carried the request out.
        is_final: asking again is of no use, as after the whole time has passed.
    """

    def __init__(self, reason: str, *, was_sent: bool, is_final: bool = False) -> None:
        self.reason = reason
        self.was_sent = was_sent
        self.is_final = is_final
        super().__init__(reason)


def json_bytes(body: object) -> bytes:
    """A body as it travels.

    Raises:
        InvalidInput: JSON cannot express it.
    """
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(
            "The request holds what JSON cannot express, such as NaN, a set or a date; send numbers, texts, lists "
            "and objects."
        ) from error
