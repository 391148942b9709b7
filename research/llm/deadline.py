"""One deadline for everything that a request waits for: a place in the queue, a start, and every attempt."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the running event loop's clock.

    Attributes:
        timeout_s: seconds from the start to the deadline, for messages.
        ends_at: the moment, by `loop.time()`.
    """

    timeout_s: float
    ends_at: float

    @classmethod
    def after(cls, timeout_s: float) -> "Deadline":
        """Return the deadline that is `timeout_s` seconds away."""
        return cls(timeout_s, asyncio.get_running_loop().time() + timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 after the deadline."""
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())
