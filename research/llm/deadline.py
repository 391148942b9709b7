"""One end for everything that a request waits for: a place in the queue, a start, and every attempt."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the running event loop's clock.

    Attributes:
        timeout_s: seconds that were given in all, for messages.
        ends_at: the moment, by `loop.time()`.
    """

    timeout_s: float
    ends_at: float

    @classmethod
    def after(cls, timeout_s: float) -> "Deadline":
        """The deadline that many seconds from now."""
        return cls(timeout_s, asyncio.get_running_loop().time() + timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds until then; 0 when it is over."""
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())
