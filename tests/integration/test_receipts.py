"""Receipts: a delete's answer that tells where the bytes still are, and later that they are gone."""

import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from vector_memory.errors import InvalidInput, NotFound
from vector_memory.memories import NewMemory

SECRET = "seventeen blue herons"


@pytest.fixture
def open_service(tmp_path):
    opened = []

    def open_(name="memory"):
        opened.append(MemoryService(DataFolder(tmp_path / name), HashEmbedder(), MemorySettings(follow_interval_ms=0)))
        return opened[-1]

    yield open_
    for service in opened:
        if not service.is_closed:
            service.close()


def holding(folder):
    return {
        str(path.relative_to(folder)).removesuffix("/catalog.sqlite")
        for path in folder.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    }


def test_it_names_every_file_that_holds_the_bytes_until_none_does(open_service, tmp_path):
    folder = tmp_path / "memory"
    service = open_service()
    service.store(NewMemory(content=SECRET, key="k"))
    service.snapshot()
    receipt = service.receipt(service.delete("k").receipt)
    assert holding(folder)
    assert holding(folder) <= set(receipt.files)
    assert len(holding(folder)) == 2
    service.snapshot()
    assert holding(folder) <= set(service.receipt(receipt.id).files)
    service.compact()
    assert holding(folder) == set()
    assert service.receipt(receipt.id).files == ()
    service.close()
    assert open_service().receipt(receipt.id).files == ()


def test_as_long_as_another_workers_journal_holds_the_bytes_it_says_so(open_service, tmp_path):
    one, two = open_service(), open_service()
    one.store(NewMemory(content=SECRET, key="k"))
    receipt = two.delete_matching({"key": "k"}).receipt
    two.compact()
    assert holding(tmp_path / "memory") == set(two.receipt(receipt).files) != set()
    one.compact()
    two.compact()
    assert holding(tmp_path / "memory") == set()
    assert two.receipt(receipt).files == one.receipt(receipt).files == ()


def test_what_is_written_later_does_not_make_it_pending_again(open_service):
    service = open_service()
    service.store(NewMemory(content=SECRET, key="k"))
    receipt = service.delete("k").receipt
    service.compact()
    for at in range(3):
        service.store(NewMemory(content=f"other {at}", key=f"k{at}"))
        service.snapshot()
    assert service.receipt(receipt).files == ()


def test_a_replayed_delete_has_the_same_receipt(open_service):
    service = open_service()
    service.store(NewMemory(content=SECRET, key="k"))
    first = service.delete("k", idempotency_key="once")
    assert service.delete("k", idempotency_key="once") == first
    assert first.receipt is not None


def test_where_nothing_was_deleted_there_is_none(open_service):
    service = open_service()
    assert service.delete_keys(["k"]).receipt is None
    assert service.delete_keys(["k"], dry_run=True).receipt is None


def test_what_is_no_receipt_and_one_of_another_folder_are_refused(open_service):
    service, other = open_service(), open_service("other")
    other.store(NewMemory(content=SECRET, key="k"))
    foreign = other.delete("k").receipt
    with pytest.raises(NotFound):
        service.receipt(foreign)
    for nonsense in ("", "x", "../../etc", foreign + "0", "1.1.1"):
        with pytest.raises(InvalidInput):
            service.receipt(nonsense)
