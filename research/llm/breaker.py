"""A circuit breaker: after several failures in a row an endpoint gets no request for a while, then one that probes it.

The pattern is from Nygard, "Release It!" (2007). The breaker is a state machine without input and output, and takes its
clock as an argument. It is not thread-safe: it belongs to one event loop.

    closed ── failures_max failures in a row ──> open ── open_s seconds, then the next request ──> probing
      ^                                           ^                                                   |
      └────────────── it succeeded ───────────────┼───────────────────────────────────────────────────┤
                                                  └────────────────── it failed ──────────────────────┘
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class AttemptOutcome(Enum):
    """How an admitted request ended.

    ABANDONED says nothing about the endpoint's health: the request was cancelled, or the endpoint was busy.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"


class BreakerState(Enum):
    """Which requests a breaker lets through: CLOSED all, OPEN none, PROBING only the one that is under way."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class Permit:
    """The permission to send one request, whose outcome must be reported once."""

    generation: int


class Breaker:
    """Decides whether a request may be sent, and learns from its outcome.

    Example:
        permit = breaker.admit()
        if permit is not None:
            breaker.report(permit, AttemptOutcome.SUCCEEDED if send() else AttemptOutcome.FAILED)
    """

    def __init__(self, *, failures_max: int, open_s: float, now: Callable[[], float]) -> None:
        """Make a closed breaker.

        Args:
            failures_max: number of failures in a row that open the breaker, at least 1.
            open_s: seconds until the first probe.
            now: a clock in seconds that never goes back.
        """
        self._failures_max = failures_max
        self._open_s = open_s
        self._now = now
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._probe_at = 0.0
        # Every change of state begins a generation, and only outcomes of the present one count. A request from before
        # the breaker opened must neither end the probe nor close the breaker.
        self._generation = 0

    @property
    def state(self) -> BreakerState:
        """The present state. It is OPEN until a probe is sent, even if one may be sent now."""
        return self._state

    @property
    def would_admit(self) -> bool:
        """Whether `admit` would let a request through now."""
        return self._state is BreakerState.CLOSED or (
            self._state is BreakerState.OPEN and self._now() >= self._probe_at
        )

    @property
    def wait_s(self) -> float:
        """Seconds until a probe may be sent; 0 if the breaker is closed, or a probe is due or under way."""
        return max(0.0, self._probe_at - self._now()) if self._state is BreakerState.OPEN else 0.0

    def admit(self) -> Permit | None:
        """Return the permission to send a request, or None."""
        if not self.would_admit:
            return None
        if self._state is BreakerState.OPEN:
            self._enter(BreakerState.PROBING)
        return Permit(self._generation)

    def report(self, permit: Permit, outcome: AttemptOutcome) -> None:
        """Report the outcome of an admitted request."""
        if permit.generation != self._generation:
            return
        match self._state, outcome:
            case BreakerState.CLOSED, AttemptOutcome.SUCCEEDED:
                self._failures = 0
            case BreakerState.CLOSED, AttemptOutcome.FAILED:
                self._failures += 1
                if self._failures >= self._failures_max:
                    self._open(self._open_s)
            case BreakerState.PROBING, AttemptOutcome.SUCCEEDED:
                self._enter(BreakerState.CLOSED)
            case BreakerState.PROBING, AttemptOutcome.FAILED:
                self._open(self._open_s)
            case BreakerState.PROBING, AttemptOutcome.ABANDONED:
                self._open(0)  # the next request becomes the probe

    def _open(self, seconds: float) -> None:
        self._enter(BreakerState.OPEN)
        self._probe_at = self._now() + seconds

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._failures = 0
        self._generation += 1
