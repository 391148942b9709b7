"""The hybrid logical clock."""

from memory_service.clock import HybridClock, Stamp
from vector_memory.times import iso_time


def test_stamps_always_grow_even_when_the_wall_clock_goes_back():
    times = iter([1_000, 1_000, 900, 2_000, 1_500])
    clock = HybridClock(lambda: next(times))
    stamps = [clock.tick("w") for _ in range(5)]
    assert stamps == sorted(set(stamps))
    assert stamps[3].ms == 2_000


def test_a_stamp_is_later_than_every_stamp_seen_from_a_faster_clock():
    clock = HybridClock(lambda: 1_000)
    clock.observe(Stamp(9_000, 7, "fast"))
    assert clock.tick("slow") > Stamp(9_000, 7, "fast")


def test_an_older_stamp_seen_changes_nothing():
    clock = HybridClock(lambda: 5_000)
    first = clock.tick("w")
    clock.observe(Stamp(1, 0, "old"))
    assert clock.tick("w") > first


def test_times_are_written_in_utc_with_milliseconds():
    assert iso_time(1_789_372_800_123) == "2026-09-14T08:00:00.123Z"
