"""Bounds how many requests run at once, and how many may wait for their turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from research.llm.deadline import Deadline
from vector_memory.errors import Unavailable

# Long enough for most waiting requests to have had their turn, and short enough for a caller to try again.
_RETRY_AFTER_S = 5


class Admission:
    """Lets a number of requests run and a further number wait, and refuses all others at once."""

    def __init__(self, *, at_once: int, waiting_max: int) -> None:
        self._at_once = at_once
        self._waiting_max = waiting_max
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[None]:
        """Hold a place while the block runs.

        Raises:
            Unavailable: too many requests wait already, or the deadline passed before this one had its turn.
        """
        places = self._places_of_this_loop()
        await self._wait(places, deadline)
        try:
            yield
        finally:
            places.release()

    async def _wait(self, places: asyncio.Semaphore, deadline: Deadline) -> None:
        if places.locked() and self._waiting >= self._waiting_max:
            raise Unavailable(
                f"{self._at_once} questions are being answered and {self._waiting} wait (LLM_CONCURRENCY, "
                "LLM_QUEUE_MAX); try again later.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline.ends_at):
                await places.acquire()
        except TimeoutError as error:
            raise Unavailable(
                f"{self._at_once} questions were being answered for the whole {deadline.timeout_s:g} s; "
                "try again later, or raise timeout_s.",
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        finally:
            self._waiting -= 1

    def _places_of_this_loop(self) -> asyncio.Semaphore:
        # A semaphore belongs to one loop. Those who waited in a loop that has ended are gone with it.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._waiting, self._places = loop, 0, asyncio.Semaphore(self._at_once)
        return self._places
