"""`frozen` at a small size."""

from pathlib import Path

from tests.faults import frozen


def test_a_revived_workers_first_call_knows_what_others_wrote_and_compacted_while_it_was_frozen(tmp_path: Path) -> None:
    assert frozen.run(tmp_path, rounds=(False, True)) == 2 * len(frozen.FIRST_CALLS)
