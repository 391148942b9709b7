"""Files of a data folder cut, flipped and removed, at small size. `python -m tests.faults damage` does each byte."""

from pathlib import Path

import pytest

from tests.faults import damage
from tests.faults.damage import Variant


@pytest.mark.parametrize("variant", Variant)
def test_damage_is_recovered_from_or_named_and_nothing_is_skipped_in_silence(tmp_path: Path, variant: Variant) -> None:
    [row] = damage.run(tmp_path, [variant], 13)
    assert damage.Outcome.TORN in row.seen


def test_what_is_expected_is_worked_out_from_the_journals_alone(tmp_path: Path) -> None:
    """The reference holds records of three writers, some beyond the snapshots, some that a compaction took away."""
    (tmp_path / "scratch").mkdir()
    states = []
    for variant in Variant:
        reference = damage.Reference(tmp_path / variant.name, variant, tmp_path / "scratch")
        states.append(reference.whole)
        assert len(reference.journals) == (2 if variant is Variant.COMPACTED else 3)
        assert any(0 < journal.frames_covered < len(journal.ends) for journal in reference.journals) == (
            variant is not Variant.JOURNALS
        )
    assert states[0] == states[1] == states[2]
    assert len(states[0]) == 17
