"""A network file system's stale attributes, at small size. `python -m tests.faults delayed` tells more lives."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.faults import delayed
from tests.faults.delayed import DELAY_MS, Network


def test_two_workers_see_each_others_writes_within_the_delay_and_lose_nothing(tmp_path: Path) -> None:
    assert delayed.run(tmp_path, seeds=3, steps=80)


def test_the_layer_tells_old_sizes_and_listings_for_a_second_and_reads_what_is_there(tmp_path: Path) -> None:
    """What the scenario relies on."""
    network, file = Network(tmp_path), tmp_path / "file"
    file.write_bytes(b"1234")
    with network.mounted():
        assert (file.stat().st_size, os.listdir(tmp_path)) == (4, ["file"])
        file.write_bytes(b"12345678")
        (tmp_path / "new").touch()
        assert (file.stat().st_size, os.listdir(tmp_path), len(file.read_bytes())) == (4, ["file"], 8)
        network.client = "another"
        assert (file.stat().st_size, len(os.listdir(tmp_path))) == (8, 2)
        network.client = ""
        network.now_ms += DELAY_MS
        assert (file.stat().st_size, len(os.listdir(tmp_path))) == (8, 2)
    assert network.late == 2


def test_the_layer_has_no_locks(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, Network(tmp_path).mounted(), pytest.raises(OSError, match="locks"):
        fcntl.flock(file, fcntl.LOCK_EX)
