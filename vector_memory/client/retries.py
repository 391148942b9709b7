"""Retries of requests that are safe to send again.

A request that never left can always be sent again. A request that may have been carried out is sent again only if it is
repeatable: a read, or a write under an idempotency key. The bound of the pauses doubles. Each pause is drawn at random
below its bound, so that many clients do not return at the same moment ("full jitter", Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vector_memory.client.requests import Unanswered, WireRequest, WireResponse
from vector_memory.errors import InvalidInput, Unavailable

RETRIED_STATUSES = frozenset({429, 503})
"""Statuses that pass: too many requests, and a service that is loading or overloaded."""

Send = Callable[[WireRequest], Awaitable[WireResponse]]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a client sends a request again, and how long it pauses before.

        Client("http://127.0.0.1:8000", retries=Retries(attempts_max=6, pause_s_max=20))

    Attributes:
        attempts_max: attempts in total, the first one included. 1 means no retry.
        first_pause_s: bound of the first pause, in seconds. Each later bound is twice as long.
        pause_s_max: bound of every pause, in seconds. A response that asks for a longer pause is not retried.
    """

    attempts_max: int = 4
    first_pause_s: float = 0.25
    pause_s_max: float = 8.0

    def __post_init__(self) -> None:
        """Check the number of attempts.

        Raises:
            InvalidInput: `attempts_max` is below 1.
        """
        if self.attempts_max < 1:
            raise InvalidInput("attempts_max must be at least 1, which never asks again.", field="attempts_max")

    async def send(self, request: WireRequest, send: Send) -> WireResponse:
        """Send a request until it is answered or may not be sent again, and return the last response.

        Raises:
            Unavailable: no response came.
        """
        for attempt in range(1, self.attempts_max + 1):
            is_last = attempt == self.attempts_max
            try:
                response = await send(request)
            except Unanswered as unanswered:
                # A write without a key that may have been carried out would be carried out twice.
                is_safe = request.is_repeatable or not unanswered.was_sent
                if is_last or unanswered.is_final or not is_safe:
                    raise Unavailable(unanswered.reason) from unanswered
                wanted_s = None
            else:
                # Other statuses are the answer: sending the same request again would return them again.
                is_retried = response.status in RETRIED_STATUSES and request.is_repeatable
                wanted_s = response.retry_after_s
                if is_last or not is_retried or (wanted_s or 0) > self.pause_s_max:
                    return response
            await asyncio.sleep(self._pause_s(attempt, wanted_s))
        raise AssertionError("the last attempt returns or raises")

    def _pause_s(self, attempt: int, wanted_s: float | None) -> float:
        bound_s = min(self.pause_s_max, self.first_pause_s * 2 ** (attempt - 1))
        # The wait that the service asked for is a lower bound, to which the random part is added.
        return (wanted_s or 0) + random.uniform(0, bound_s)  # noqa: S311 - no secret
