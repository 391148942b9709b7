"""`kills` at a small size."""

from pathlib import Path

from tests.faults import kills


def test_whatever_the_moment_of_a_kill_what_was_acknowledged_is_kept_and_the_rest_is_whole_or_absent(
    tmp_path: Path,
) -> None:
    seen = kills.run(tmp_path, kills=8, seed=7)
    assert seen.kills == 8
    assert seen.acknowledged > 100
    assert seen.removed, "no compaction removed a journal, so nothing is proven about them"
