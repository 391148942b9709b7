"""The hybrid logical clock that orders records across processes.

After Kulkarni et al., "Logical Physical Clocks" (2014). A stamp follows the wall clock and never goes back. The clock
is advanced past every stamp that is read, so a process with a slow clock still writes after what it has seen.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Stamp(NamedTuple):
    """When a record was made. Stamps are totally ordered, and the later one wins.

    Attributes:
        ms: milliseconds since the Unix epoch.
        counter: orders records of the same millisecond.
        writer: name of the journal; it breaks ties between processes.
    """

    ms: int
    counter: int
    writer: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks: the monotonic one may stop while a process is frozen, and the wall clock may jump."""

    monotonic_s: float
    wall_s: float

    @classmethod
    def now(cls) -> "Moment":
        """Return the current moment."""
        return cls(time.monotonic(), time.time())

    def is_older_than(self, seconds: float) -> bool:
        """Return whether this many seconds have passed since, by either clock."""
        return time.monotonic() - self.monotonic_s >= seconds or abs(time.time() - self.wall_s) >= seconds


def wall_ms() -> int:
    """Return the wall clock in whole milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


class HybridClock:
    """Makes stamps. It is thread-safe."""

    def __init__(self, now_ms: Callable[[], int] = wall_ms) -> None:
        self._now_ms = now_ms
        self._last = (0, 0)
        self._lock = threading.Lock()

    def tick(self, writer: str) -> Stamp:
        """Return a stamp later than every stamp made or seen here."""
        with self._lock:
            ms, counter = self._last
            now = self._now_ms()
            # While the wall clock is behind the last stamp, only the counter advances.
            self._last = (now, 0) if now > ms else (ms, counter + 1)
            return Stamp(*self._last, writer)

    def next_ms(self) -> int:
        """Return a millisecond after every stamp made or seen here. No later stamp is before it."""
        with self._lock:
            self._last = (max(self._now_ms(), self._last[0] + 1), 0)
            return self._last[0]

    def now_ms(self) -> int:
        """Return the wall clock, for expiry. It may go back."""
        return self._now_ms()

    def observe(self, stamp: Stamp) -> None:
        """Advance the clock past a stamp that was read."""
        with self._lock:
            self._last = max(self._last, (stamp.ms, stamp.counter))
