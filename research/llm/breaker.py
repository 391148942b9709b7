"""A circuit breaker: after some failures in a row an endpoint is left alone for a while, then one request probes it.

After Nygard, "Release It!" (2007). A state machine without input and output; the clock is injected. Not thread-safe:
it belongs to one event loop.

    closed ── failures_max failures in a row ──> open ── open_s seconds, then the next request ──> probing
      ^                                           ^                                                   |
      └────────────── it succeeded ───────────────┼───────────────────────────────────────────────────┤
                                                  └────────────────── it failed ──────────────────────┘
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How an admitted request ended. ABANDONED says nothing of the endpoint's health: cancelled, or it was busy."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"


class State(Enum):
    """Closed lets every request through, open none, probing none but the one that is under way."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to send one request; must be reported once."""

    generation: int


class Breaker:
    """Says whether a request may be sent, and learns from how it ended."""

    def __init__(self, *, failures_max: int, open_s: float, now: Callable[[], float]) -> None:
        """Args:
        failures_max: failures in a row that open it, from 1.
        open_s: seconds to leave the endpoint alone.
        now: a clock in seconds that never goes back.
        """
        self._failures_max = failures_max
        self._open_s = open_s
        self._now = now
        self._state = State.CLOSED
        self._failures = 0
        self._probe_at = 0.0
        # Every change of state begins a generation. What an older one reports comes too late to count: requests that
        # were sent while all was well must not end the probe, nor close what has opened since.
        self._generation = 0

    @property
    def state(self) -> State:
        """The present state; open also when the next request would be a probe."""
        return self._state

    @property
    def would_admit(self) -> bool:
        """Whether `admit` would let a request through now."""
        return self._state is State.CLOSED or (self._state is State.OPEN and self._now() >= self._probe_at)

    @property
    def wait_s(self) -> float:
        """Seconds until a probe may be sent; 0 when one may or is under way, or nothing is wrong."""
        return max(0.0, self._probe_at - self._now()) if self._state is State.OPEN else 0.0

    def admit(self) -> Pass | None:
        """Leave to send a request, or None."""
        if not self.would_admit:
            return None
        if self._state is State.OPEN:
            self._enter(State.PROBING)
        return Pass(self._generation)

    def report(self, admitted: Pass, outcome: Outcome) -> None:
        """Tell how an admitted request ended."""
        if admitted.generation != self._generation:
            return
        match self._state, outcome:
            case State.CLOSED, Outcome.SUCCEEDED:
                self._failures = 0
            case State.CLOSED, Outcome.FAILED:
                self._failures += 1
                if self._failures >= self._failures_max:
                    self._open(self._open_s)
            case State.PROBING, Outcome.SUCCEEDED:
                self._enter(State.CLOSED)
            case State.PROBING, Outcome.FAILED:
                self._open(self._open_s)
            case State.PROBING, Outcome.ABANDONED:
                self._open(0)  # the next request probes instead

    def _open(self, seconds: float) -> None:
        self._enter(State.OPEN)
        self._probe_at = self._now() + seconds

    def _enter(self, state: State) -> None:
        self._state = state
        self._failures = 0
        self._generation += 1
