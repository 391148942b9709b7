"""Idempotency keys across releases: a retried write is answered as before, however the retry spells it."""

import pytest

from memory_service.clock import HybridClock
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.records import Record, RememberedReply
from memory_service.journal.writer import JournalWriter
from memory_service.model import DeleteOutcome
from memory_service.service import MemoryService
from tests.faults.embedder import HashEmbedder
from vector_memory.errors import Conflict
from vector_memory.memories import NewMemory, Stored, StoreStatus

COFFEE = "Dana drinks an oat flat white."
OLD_DIGEST = "ab" * 32
"""Earlier releases digested the `repr` of a request and put no version before it."""


@pytest.fixture
def open_service(tmp_path):
    opened = []

    def open_():
        opened.append(MemoryService(DataFolder(tmp_path / "memory"), HashEmbedder()))
        return opened[-1]

    yield open_
    for service in opened:
        if not service.is_closed:
            service.close()


@pytest.fixture
def service_with_old_reply(open_service, tmp_path):
    """Opens a service over a journal that an earlier release wrote, with one reply under the key `job-1`."""

    def open_(result):
        folder, clock = DataFolder(tmp_path / "memory"), HybridClock()
        open_service().close()  # makes the folder this embedder's
        writer = JournalWriter(folder.journal, HashEmbedder().fingerprint, clock.next_ms)
        stamp = clock.tick(writer.begin())
        assert writer.append([Record(stamp, RememberedReply("default", "job-1", OLD_DIGEST, result))]).error is None
        writer.close()
        return open_service()

    return open_


def test_a_retry_with_metadata_in_another_order_is_the_same_request(open_service):
    service = open_service()
    first = service.store(
        NewMemory(content=COFFEE, key="k", metadata={"a": 1, "b": {"c": 2, "d": 3}}), idempotency_key="job-1"
    )
    service.store(NewMemory(content="Dana drinks tea.", key="k"))
    retried = service.store(
        NewMemory(content=COFFEE, key="k", metadata={"b": {"d": 3, "c": 2}, "a": 1}), idempotency_key="job-1"
    )
    assert retried == first
    assert service.get("k").content == "Dana drinks tea."


def test_a_refused_memory_of_a_batch_is_refused_again_and_the_others_are_answered_as_before(open_service):
    service = open_service()
    late = NewMemory(content=COFFEE, key="b", created_at="2999-01-01")
    batch = [NewMemory(content=COFFEE, key="a"), late, NewMemory(content="Tea.", key="c")]
    first = service.store_batch(batch, idempotency_key="job-1")
    again = service.store_batch(batch, idempotency_key="job-1")
    assert [first[0], first[2]] == [again[0], again[2]]
    assert (again[1].key, again[1].error.field) == ("b", "created_at")


def test_a_write_that_an_earlier_release_answered_is_answered_the_same_when_it_is_retried(service_with_old_reply):
    service = service_with_old_reply(["stored", [["default", "k", "stored", 5, 5]]])
    retried = service.store(NewMemory(content=COFFEE, key="k"), idempotency_key="job-1")
    assert retried == Stored(namespace="default", key="k", status=StoreStatus.STORED, created_at_ms=5, updated_at_ms=5)
    assert service.counts() == {}


def test_a_delete_that_an_earlier_release_answered_is_answered_the_same_when_it_is_retried(service_with_old_reply):
    service = service_with_old_reply(["deleted", "default", ["k"], [], None])
    service.store(NewMemory(content=COFFEE, key="k"))
    deleted = DeleteOutcome(namespace="default", keys=("k",), missing=(), dry_run=False)
    assert service.delete("k", idempotency_key="job-1") == deleted
    assert service.delete_matching({"a": 1}, idempotency_key="job-1") == deleted
    assert service.get("k").content == COFFEE


@pytest.mark.parametrize(
    "other",
    [
        lambda service: service.store(NewMemory(content=COFFEE, key="other"), idempotency_key="job-1"),
        lambda service: service.store_batch([NewMemory(content=COFFEE, key="k")] * 2, idempotency_key="job-1"),
        lambda service: service.update("other", content=COFFEE, idempotency_key="job-1"),
        lambda service: service.delete("k", idempotency_key="job-1"),
    ],
    ids=["store", "batch", "update", "delete"],
)
def test_a_reply_of_an_earlier_release_answers_no_request_for_other_keys(service_with_old_reply, other):
    service = service_with_old_reply(["stored", [["default", "k", "stored", 5, 5]]])
    with pytest.raises(Conflict):
        other(service)
