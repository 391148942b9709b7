"""The circuit breaker against a naive reading of its rules, for any history of requests and any clock."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from research.llm.breaker import AttemptOutcome, Breaker, BreakerState, Permit

FAILURES_MAX = 3
OPEN_S = 10.0

# What may happen: time passes (in halves, which floats add up exactly), a request comes, or one that is under way (the
# first or the last) ends somehow.
EVENTS = st.lists(
    st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 9.5, 10.0, 100.0]))
    | st.tuples(st.just("admit"), st.none())
    | st.tuples(st.sampled_from(["first", "last"]), st.sampled_from(list(AttemptOutcome))),
    max_size=60,
)


def made(now: Callable[[], float] = lambda: 0.0) -> Breaker:
    return Breaker(failures_max=FAILURES_MAX, open_s=OPEN_S, now=now)


def admitted(breaker: Breaker) -> Permit:
    leave = breaker.admit()
    assert leave is not None
    return leave


@given(EVENTS)
def test_any_history_keeps_the_rules(events: list[tuple[str, object]]) -> None:
    clock = 0.0
    breaker = made(lambda: clock)
    under_way: list[Permit] = []
    opened_at, probe = -OPEN_S, None
    for kind, value in events:
        match kind, value:
            case "wait", float(seconds):
                clock += seconds
            case "admit", _:
                before = breaker.state
                could = breaker.would_admit
                leave = breaker.admit()
                assert (leave is not None) == could
                match before:
                    case BreakerState.CLOSED:
                        assert leave is not None
                    case BreakerState.OPEN:
                        assert (leave is not None) == (clock >= opened_at + OPEN_S)
                        if leave is not None:
                            probe = leave
                    case BreakerState.PROBING:
                        assert leave is None, "one probe at a time"
                if leave is not None:
                    under_way.append(leave)
            case end, AttemptOutcome() as outcome if under_way:
                leave = under_way.pop(0 if end == "first" else -1)
                before, wait_before = breaker.state, breaker.wait_s
                breaker.report(leave, outcome)
                if before is BreakerState.PROBING and leave == probe:
                    assert breaker.state is (
                        BreakerState.CLOSED if outcome is AttemptOutcome.SUCCEEDED else BreakerState.OPEN
                    )
                    opened_at = clock if outcome is AttemptOutcome.FAILED else clock - OPEN_S
                    probe = None
                elif before is not BreakerState.CLOSED:
                    assert (breaker.state, breaker.wait_s) == (before, wait_before), "a late report changes nothing"
        if breaker.state is BreakerState.OPEN:
            assert 0 <= breaker.wait_s <= OPEN_S
            if breaker.wait_s:
                opened_at = clock + breaker.wait_s - OPEN_S
        else:
            assert breaker.wait_s == 0


@given(EVENTS)
def test_it_is_never_stuck(events: list[tuple[str, object]]) -> None:
    """Once every request has ended and time has passed, the next is let through, and its success closes it."""
    clock = 0.0
    breaker = made(lambda: clock)
    under_way: list[Permit] = []
    for kind, value in events:
        match kind, value:
            case "wait", float(seconds):
                clock += seconds
            case "admit", _:
                leave = breaker.admit()
                under_way += [] if leave is None else [leave]
            case _, AttemptOutcome() as outcome if under_way:
                breaker.report(under_way.pop(0 if kind == "first" else -1), outcome)
    for leave in under_way:
        breaker.report(leave, AttemptOutcome.ABANDONED)
    clock += OPEN_S
    breaker.report(admitted(breaker), AttemptOutcome.SUCCEEDED)
    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.sampled_from(list(AttemptOutcome)), max_size=40))
def test_requests_one_after_the_other_open_it_exactly_at_so_many_failures_in_a_row(
    outcomes: list[AttemptOutcome],
) -> None:
    breaker = made()
    in_a_row = 0
    for outcome in outcomes:
        leave = breaker.admit()
        assert (leave is None) == (in_a_row >= FAILURES_MAX)
        if leave is None:
            return
        breaker.report(leave, outcome)
        match outcome:
            case AttemptOutcome.SUCCEEDED:
                in_a_row = 0
            case AttemptOutcome.FAILED:
                in_a_row += 1


def test_an_abandoned_probe_lets_the_next_request_probe_at_once() -> None:
    clock = 0.0
    breaker = made(lambda: clock)
    for _ in range(FAILURES_MAX):
        breaker.report(admitted(breaker), AttemptOutcome.FAILED)
    assert breaker.admit() is None
    clock = OPEN_S

    breaker.report(admitted(breaker), AttemptOutcome.ABANDONED)

    assert breaker.admit() is not None


def test_a_success_that_was_sent_before_it_opened_does_not_close_it() -> None:
    breaker = made()
    early = admitted(breaker)
    for _ in range(FAILURES_MAX):
        breaker.report(admitted(breaker), AttemptOutcome.FAILED)

    breaker.report(early, AttemptOutcome.SUCCEEDED)

    assert breaker.state is BreakerState.OPEN
