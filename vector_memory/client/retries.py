"""Asking again, where that is safe.

A request that never left may always be sent again; one that may have been carried out only if it is repeatable: a read,
or a write under an idempotency key. The pauses double and are drawn at random below their bound, so that many clients
do not come back at once ("full jitter", Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vector_memory.client.requests import Unanswered, WireRequest, WireResponse
from vector_memory.errors import InvalidInput, Unavailable

RETRIED_STATUSES = frozenset({429, 503})

Send = Callable[[WireRequest], Awaitable[WireResponse]]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long.

    Attributes:
        attempts_max: including the first; 1 never asks again.
        first_pause_s: bound of the first pause; each later one is twice as long.
        pause_s_max: bound of all of them. An answer that wants a longer one is returned as it is.
    """

    attempts_max: int = 4
    first_pause_s: float = 0.25
    pause_s_max: float = 8.0

    def __post_init__(self) -> None:
        """Raises:
        InvalidInput: nothing would ever be sent.
        """
        if self.attempts_max < 1:
            raise InvalidInput("attempts_max must be at least 1, which never asks again.", field="attempts_max")

    async def send(self, request: WireRequest, send: Send) -> WireResponse:
        """Send until there is an answer that another attempt would not better.

        Raises:
            Unavailable: no answer came.
        """
        for attempt in range(1, self.attempts_max + 1):
            is_last = attempt == self.attempts_max
            try:
                response = await send(request)
            except Unanswered as unanswered:
                is_safe = request.is_repeatable or not unanswered.was_sent
                if is_last or unanswered.is_final or not is_safe:
                    raise Unavailable(unanswered.reason) from unanswered
                wanted_s = None
            else:
                is_retried = response.status in RETRIED_STATUSES and request.is_repeatable
                wanted_s = response.retry_after_s
                if is_last or not is_retried or (wanted_s or 0) > self.pause_s_max:
                    return response
            await asyncio.sleep(self._pause_s(attempt, wanted_s))
        raise AssertionError("the last attempt returns or raises")

    def _pause_s(self, attempt: int, wanted_s: float | None) -> float:
        bound_s = min(self.pause_s_max, self.first_pause_s * 2 ** (attempt - 1))
        return (wanted_s or 0) + random.uniform(0, bound_s)  # noqa: S311 - no secret
