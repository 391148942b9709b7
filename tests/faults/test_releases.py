"""`releases` at a small size."""

from pathlib import Path

from tests.faults import releases


def test_a_release_loses_nothing_and_the_new_worker_knows_what_the_old_one_acknowledged(tmp_path: Path) -> None:
    seen = releases.run(tmp_path, releases=1, seed=7)
    assert seen.releases == 1
    assert seen.strong_reads > 0
    assert seen.memories > 0
