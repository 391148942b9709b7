"""System calls that fail one after the other, at small size. `python -m tests.faults calls` does every one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults import calls
from tests.faults.embedder import HashEmbedder
from tests.faults.failing_calls import KINDS, READ_ONLY, failing
from vector_memory.errors import StartupError


@pytest.mark.parametrize("kind", ["write", "fsync", "rename", "unlink", "mkdir"])
def test_whichever_change_fails_nothing_acknowledged_is_lost_and_writing_comes_back(tmp_path: Path, kind: str) -> None:
    assert calls.run(tmp_path, [kind], {"write": 3, "fsync": 5, "unlink": 5}.get(kind, 1))


@pytest.mark.parametrize("kind", ["read", "open", "listdir", "stat"])
def test_whichever_look_at_the_folder_fails_it_is_said_and_never_taken_for_an_answer(tmp_path: Path, kind: str) -> None:
    assert calls.run(tmp_path, [kind], {"read": 7, "open": 11, "listdir": 15, "stat": 41}[kind])


@pytest.mark.parametrize("kind", ["any call", "any change, read-only", "any change, disk full"])
def test_a_folder_that_fails_altogether_from_some_call_on_is_survived(tmp_path: Path, kind: str) -> None:
    assert calls.run(tmp_path, [kind], 83 if kind == "any call" else 17)


def test_a_first_start_that_can_neither_finish_nor_tidy_up_is_refused_in_one_line(tmp_path: Path) -> None:
    """`store.json` fails to get its name, then its draft to be removed."""
    folder = DataFolder(tmp_path / "memory")
    with failing(folder.path, {"rename", "unlink"}, errno.EIO), pytest.raises(StartupError, match="cannot be used"):
        MemoryService(folder, HashEmbedder(), MemorySettings(cache_dir=tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_nth_call_of_a_kind_fails_alone_or_with_all_later_ones(tmp_path: Path, kind: str) -> None:
    """What the scenarios rely on: each kind is met, and only under the folder."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for lasting, expected in ((False, [True, False, True]), (True, [True, False, False])):
        with failing(inside, {kind}, errno.EIO, 2, lasting=lasting) as fault:
            assert [_works(kind, outside / f"{lasting}{at}") for at in range(3)] == [True] * 3
            assert fault.calls == 0
            assert [_works(kind, inside / f"{lasting}{at}") for at in range(3)] == expected
            assert fault.is_reached


def test_a_read_only_folder_can_be_read_and_not_opened_for_writing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("held")
    with failing(tmp_path, READ_ONLY, errno.EROFS):
        assert (tmp_path / "file").read_text() == "held"
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "file").open("a")
        with pytest.raises(OSError, match="Read-only"):
            os.open(tmp_path / "new", os.O_CREAT | os.O_WRONLY)


def test_a_write_that_fails_leaves_half_of_its_bytes(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    with failing(tmp_path, {"write"}, errno.ENOSPC), pytest.raises(OSError, match="No space left"):
        os.write(descriptor, b"12345678")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"1234"


def test_a_sync_that_fails_has_lost_what_was_written_since_the_last(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    with failing(tmp_path, {"fsync"}, errno.EIO, 2):
        os.write(descriptor, b"1234")
        os.fdatasync(descriptor)
        os.write(descriptor, b"5678")
        with pytest.raises(OSError, match="Input/output"):
            os.fdatasync(descriptor)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"1234"


def _works(kind: str, path: Path) -> bool:
    """Make one call of a kind, having prepared it by calls of others."""
    try:
        _CALLS[kind](path)
    except OSError as error:
        return error.errno != errno.EIO
    return True


def _made(path: Path) -> Path:
    """A file with some bytes, by a child of no interest to the fault."""
    os.system(f"mkdir -p {path.parent} && printf 12345678 > {path}")
    return path


def _in_new_file(act: Callable[[int], object]) -> Callable[[Path], None]:
    def call(path: Path) -> None:
        descriptor = os.open(_made(path), os.O_RDWR)
        try:
            act(descriptor)
        finally:
            os.close(descriptor)

    return call


def _sync(descriptor: int) -> None:
    os.fdatasync(descriptor)


_CALLS: dict[str, Callable[[Path], object]] = {
    "write": _in_new_file(lambda descriptor: os.write(descriptor, b"1")),
    "read": _in_new_file(lambda descriptor: os.read(descriptor, 1)),
    "fsync": _in_new_file(_sync),
    "rename": lambda path: _made(path).rename(path.with_suffix(".new")),
    "open": lambda path: _made(path).open("rb").close(),
    "listdir": lambda path: os.listdir(_made(path).parent),
    "unlink": lambda path: _made(path).unlink(),
    "mkdir": lambda path: _made(path).with_suffix(".d").mkdir(),
    "stat": lambda path: _made(path).stat(),
}
