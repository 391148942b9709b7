"""`sharing` at a small size."""

from pathlib import Path

from tests.faults import sharing


def test_processes_that_write_the_same_keys_and_are_killed_end_with_the_same_last_writes(tmp_path: Path) -> None:
    seen = sharing.run(tmp_path, processes=4, kills=3, seed=7)
    assert seen.kills == 3
    assert seen.acknowledged > 100
    assert seen.kept > 0
