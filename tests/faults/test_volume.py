"""A volume that fails under a running worker, once for each fault. `python -m tests.faults volume` repeats it."""

from pathlib import Path

import pytest

from tests.faults import volume


@pytest.mark.parametrize("fault", volume.FAULTS)
def test_a_worker_goes_on_reading_refuses_writes_and_recovers_by_itself(tmp_path: Path, fault: str) -> None:
    [row] = volume.run(tmp_path, [fault], 1)
    assert not row.seen.startswith("0 writes answered 503 or 507"), "the fault was never met"
