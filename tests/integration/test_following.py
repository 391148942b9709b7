"""Several services over one folder, as when RunPod overlaps an old and a new worker: no locks, one truth."""

import itertools

import pytest

from memory_service.data_folder import DataFolder
from memory_service.errors import NotFound, Unavailable
from memory_service.model import Consistency, NewMemory, StoreStatus
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings

STRONG = Consistency.STRONG
NEVER_MS = 60_000
COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."


@pytest.fixture
def open_worker(minilm, tmp_path):
    """Opens services over the same folder; they follow one another on every call, or on demand alone."""
    opened = []

    def open_(follow_interval_ms=0):
        settings = MemorySettings(follow_interval_ms=follow_interval_ms)
        opened.append(MemoryService(DataFolder(tmp_path / "memory"), minilm, settings))
        return opened[-1]

    yield open_
    for service in opened:
        service.close()


def contents(service, **rest):
    return {memory.key: memory.content for memory in service.list(**rest).memories}


def test_each_worker_sees_what_the_others_store_update_and_delete(open_worker):
    one, two = open_worker(), open_worker()
    one.store(NewMemory(COFFEE, "k"))
    assert two.get("k").content == COFFEE
    assert two.store(NewMemory(BUDGET, "k")).status == StoreStatus.UPDATED
    assert one.retrieve("budget")[0].memory.content == BUDGET
    one.delete("k")
    with pytest.raises(NotFound):
        two.get("k")
    assert two.retrieve("budget") == []


def test_strong_consistency_sees_what_a_relaxed_read_may_not_see_yet(open_worker):
    writer, reader = open_worker(), open_worker(NEVER_MS)
    writer.store(NewMemory(COFFEE, "k"))
    assert contents(reader) == {}
    assert contents(reader, consistency=STRONG) == {"k": COFFEE}
    assert reader.get("k", consistency=STRONG).content == COFFEE
    writer.delete("k")
    assert reader.retrieve("coffee", consistency=STRONG) == []


def test_the_last_write_of_a_key_wins_whoever_reads_it_first(open_worker):
    one, two = open_worker(NEVER_MS), open_worker(NEVER_MS)
    one.store(NewMemory(COFFEE, "k"))
    two.store(NewMemory(BUDGET, "k"))
    assert contents(one, consistency=STRONG) == contents(two, consistency=STRONG) == {"k": BUDGET}
    assert contents(open_worker()) == {"k": BUDGET}


def test_many_interleaved_writes_leave_every_worker_in_the_same_state(open_worker):
    workers = [open_worker(0), open_worker(NEVER_MS), open_worker(1)]
    for at, (worker, key) in enumerate(itertools.product(workers * 3, "abc")):
        if at % 5 == 4:
            worker.delete_keys([key])
        else:
            worker.store(NewMemory(f"Fact {at} about {key}.", key))
    states = [contents(worker, consistency=STRONG) for worker in [*workers, open_worker()]]
    assert all(state == states[0] for state in states)
    hits = [[(hit.memory.key, hit.score) for hit in worker.retrieve("fact", k=5)] for worker in workers]
    assert hits[0] == hits[1] == hits[2]


def test_a_worker_with_a_fast_clock_cannot_freeze_a_key_for_the_others(open_worker):
    fast, slow = open_worker(), open_worker()
    fast._clock._now_ms = lambda wall=fast._clock._now_ms: wall() + 3_600_000
    fast.store(NewMemory(COFFEE, "k"))
    slow.store(NewMemory(BUDGET, "k"))
    assert fast.get("k", consistency=STRONG).content == slow.get("k").content == BUDGET


def test_a_replayed_request_is_recognised_by_another_worker(open_worker):
    """Delivery is at least once, and the second delivery may go to another worker."""
    one, two = open_worker(), open_worker(NEVER_MS)
    first = one.store(NewMemory(COFFEE, "k"), idempotency_key="job-1")
    one.store(NewMemory(BUDGET, "k"))
    assert two.store(NewMemory(COFFEE, "k"), idempotency_key="job-1") == first
    assert two.get("k").content == BUDGET
    deleted = one.delete("k", idempotency_key="job-2")
    one.store(NewMemory(COFFEE, "k"))
    assert two.delete("k", idempotency_key="job-2") == deleted
    assert two.get("k").content == COFFEE


def test_half_written_records_of_another_worker_are_read_when_they_are_whole(open_worker, tmp_path):
    writer, reader = open_worker(), open_worker()
    writer.store(NewMemory(COFFEE, "a"))
    assert set(contents(reader)) == {"a"}
    writer.store(NewMemory(BUDGET, "b"))
    [path] = (tmp_path / "memory" / "journal").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert set(contents(reader, consistency=STRONG)) == {"a"}
    path.write_bytes(whole[:-20] + bytes(20))
    assert set(contents(reader, consistency=STRONG)) == {"a"}
    path.write_bytes(whole)
    assert set(contents(reader, consistency=STRONG)) == {"a", "b"}


def test_a_journal_that_is_damaged_while_followed_is_reported_and_the_rest_is_served(open_worker, tmp_path):
    writer, reader = open_worker(), open_worker()
    writer.store(NewMemory(COFFEE, "a"))
    assert set(contents(reader)) == {"a"}
    [path] = (tmp_path / "memory" / "journal").iterdir()
    start = path.stat().st_size
    writer.store(NewMemory(BUDGET, "b"))
    writer.store(NewMemory(f"{BUDGET} Again.", "c"))
    data = bytearray(path.read_bytes())
    data[start + 40] ^= 0xFF
    path.write_bytes(data)
    assert set(contents(reader)) == {"a"}
    assert path.name in reader.problems()[0]
    with pytest.raises(Unavailable, match="damaged"):
        reader.list(consistency=STRONG)
    data[start + 40] ^= 0xFF
    path.write_bytes(data)
    assert set(contents(reader)) == {"a", "b", "c"}
    assert reader.problems() == []


def test_a_volume_that_is_gone_for_a_while_stops_strong_reads_only(open_worker, tmp_path):
    writer, reader = open_worker(), open_worker()
    writer.store(NewMemory(COFFEE, "a"))
    assert set(contents(reader)) == {"a"}
    journal = tmp_path / "memory" / "journal"
    journal.rename(tmp_path / "unmounted")
    assert set(contents(reader)) == {"a"}
    with pytest.raises(Unavailable, match="cannot be read"):
        reader.get("a", consistency=STRONG)
    (tmp_path / "unmounted").rename(journal)
    writer.store(NewMemory(BUDGET, "b"))
    assert set(contents(reader)) == {"a", "b"}
    assert reader.problems() == []
