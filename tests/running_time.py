"""How the time of a function grows with its input, for tests which say that no input can hold it up."""

import time
from collections.abc import Callable

SMALL_S_MIN = 0.001
"""Shorter measurements count as this long, since the clock and the caches would decide them."""


def is_linear(act: Callable[[int], object], small: int, times: int = 20) -> bool:
    """Tell whether `act(small * times)` takes at most five times what linear growth allows.

    Quadratic growth takes `times` times what linear growth allows. Both sizes are measured in processor time, which
    other processes do not use up, and up to three times, since a collection of garbage may fall into any of them.
    """
    small_s = max(min(_taken_s(act, small) for _ in range(3)), SMALL_S_MIN)
    return any(_taken_s(act, small * times) < 5 * times * small_s for _ in range(3))


def _taken_s(act: Callable[[int], object], size: int) -> float:
    begun_s = time.thread_time()
    act(size)
    return time.thread_time() - begun_s
