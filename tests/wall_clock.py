"""The wall clock, for tests in which time has to pass."""

from memory_service.clock import wall_ms


class WallClock:
    """Tells the time, and can be put forward."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def __call__(self) -> int:
        return wall_ms() + self._ahead_ms

    def pass_s(self, seconds: int) -> None:
        self._ahead_ms += seconds * 1_000
