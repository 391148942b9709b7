"""Several services over one folder, as when RunPod overlaps an old and a new worker: no locks, one truth."""

import itertools
import threading
import time

import pytest

from memory_service.clock import HybridClock, wall_ms
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from memory_service.writing import planning
from vector_memory.errors import NotFound, StorageUnavailable, Unavailable
from vector_memory.memories import Consistency, NewMemory, StoreStatus
from vector_memory.retrieval import Retrieval

STRONG = Consistency.STRONG
NEVER_MS = 60_000
COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."


@pytest.fixture
def open_worker(minilm, tmp_path):
    """Opens services over the same folder; they follow one another on every call, or on demand alone."""
    opened = []

    def open_(follow_interval_ms=0, now_ms=wall_ms):
        settings = MemorySettings(follow_interval_ms=follow_interval_ms)
        opened.append(MemoryService(DataFolder(tmp_path / "memory"), minilm, settings, HybridClock(now_ms)))
        return opened[-1]

    yield open_
    for service in opened:
        service.close()


def contents(service, **rest):
    return {memory.key: memory.content for memory in service.list(**rest).memories}


def test_each_worker_sees_what_the_others_store_update_and_delete(open_worker):
    one, two = open_worker(), open_worker()
    one.store(NewMemory(content=COFFEE, key="k"))
    assert two.get("k").content == COFFEE
    assert two.store(NewMemory(content=BUDGET, key="k")).status == StoreStatus.UPDATED
    assert one.retrieve(Retrieval(query="budget")).hits[0].memory.content == BUDGET
    one.delete("k")
    with pytest.raises(NotFound):
        two.get("k")
    assert two.retrieve(Retrieval(query="budget")).hits == ()


def test_strong_consistency_sees_what_a_relaxed_read_may_not_see_yet(open_worker):
    writer, reader = open_worker(), open_worker(NEVER_MS)
    writer.store(NewMemory(content=COFFEE, key="k"))
    assert contents(reader) == {}
    assert contents(reader, consistency=STRONG) == {"k": COFFEE}
    assert reader.get("k", consistency=STRONG).content == COFFEE
    writer.delete("k")
    assert reader.retrieve(Retrieval(query="coffee", consistency=STRONG)).hits == ()


def test_a_strong_retrieve_is_understood_by_what_others_wrote(open_worker):
    """What it is to be like, and who speaks, was once looked up before the others' writes were read."""
    writer, reader = open_worker(), open_worker(NEVER_MS)
    writer.store_batch(
        [NewMemory(content=COFFEE, key="k", metadata={"speaker": "Dana"}), NewMemory(content=BUDGET, key="other")]
    )
    asked = Retrieval(query="What did Dana say?", consistency=STRONG, explain=True)
    assert reader.retrieve(asked).explanation.speakers == ("Dana",)
    writer.store(NewMemory(content="Another text.", key="k"))
    writer.store(NewMemory(content=COFFEE, key="new"))
    like = [reader.retrieve(Retrieval(like=key, consistency=STRONG)) for key in ("k", "new")]
    assert [{hit.memory.key for hit in found.hits} for found in like] == [{"new", "other"}, {"k", "other"}]
    writer.delete("k")
    with pytest.raises(NotFound):
        reader.retrieve(Retrieval(like="k", consistency=STRONG))


def test_the_last_write_of_a_key_wins_whoever_reads_it_first(open_worker):
    one, two = open_worker(NEVER_MS), open_worker(NEVER_MS)
    one.store(NewMemory(content=COFFEE, key="k"))
    two.store(NewMemory(content=BUDGET, key="k"))
    assert contents(one, consistency=STRONG) == contents(two, consistency=STRONG) == {"k": BUDGET}
    assert contents(open_worker()) == {"k": BUDGET}


def test_many_interleaved_writes_leave_every_worker_in_the_same_state(open_worker):
    workers = [open_worker(0), open_worker(NEVER_MS), open_worker(1)]
    for at, (worker, key) in enumerate(itertools.product(workers * 3, "abc")):
        if at % 5 == 4:
            worker.delete_keys([key])
        else:
            worker.store(NewMemory(content=f"Fact {at} about {key}.", key=key))
    states = [contents(worker, consistency=STRONG) for worker in [*workers, open_worker()]]
    assert all(state == states[0] for state in states)
    hits = [
        [(hit.memory.key, hit.score) for hit in worker.retrieve(Retrieval(query="fact", k=5)).hits]
        for worker in workers
    ]
    assert hits[0] == hits[1] == hits[2]


def test_a_worker_with_a_fast_clock_cannot_freeze_a_key_for_the_others(open_worker):
    fast, slow = open_worker(now_ms=lambda: wall_ms() + 3_600_000), open_worker()
    fast.store(NewMemory(content=COFFEE, key="k"))
    slow.store(NewMemory(content=BUDGET, key="k"))
    assert fast.get("k", consistency=STRONG).content == slow.get("k").content == BUDGET


def test_a_replayed_request_is_recognised_by_another_worker(open_worker):
    """Delivery is at least once, and the second delivery may go to another worker."""
    one, two = open_worker(), open_worker(NEVER_MS)
    first = one.store(NewMemory(content=COFFEE, key="k"), idempotency_key="job-1")
    one.store(NewMemory(content=BUDGET, key="k"))
    assert two.store(NewMemory(content=COFFEE, key="k"), idempotency_key="job-1") == first
    assert two.get("k").content == BUDGET
    deleted = one.delete("k", idempotency_key="job-2")
    one.store(NewMemory(content=COFFEE, key="k"))
    assert two.delete("k", idempotency_key="job-2") == deleted
    assert two.get("k").content == COFFEE


def test_half_written_records_of_another_worker_are_read_when_they_are_whole(open_worker, tmp_path):
    writer, reader = open_worker(), open_worker()
    writer.store(NewMemory(content=COFFEE, key="a"))
    assert set(contents(reader)) == {"a"}
    writer.store(NewMemory(content=BUDGET, key="b"))
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
    writer.store(NewMemory(content=COFFEE, key="a"))
    assert set(contents(reader)) == {"a"}
    [path] = (tmp_path / "memory" / "journal").iterdir()
    start = path.stat().st_size
    writer.store(NewMemory(content=BUDGET, key="b"))
    writer.store(NewMemory(content=f"{BUDGET} Again.", key="c"))
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
    writer.store(NewMemory(content=COFFEE, key="a"))
    assert set(contents(reader)) == {"a"}
    journal = tmp_path / "memory" / "journal"
    journal.rename(tmp_path / "unmounted")
    assert set(contents(reader)) == {"a"}
    with pytest.raises(Unavailable, match="cannot be read"):
        reader.get("a", consistency=STRONG)
    (tmp_path / "unmounted").rename(journal)
    writer.store(NewMemory(content=BUDGET, key="b"))
    assert set(contents(reader)) == {"a", "b"}
    assert reader.problems() == []


def test_what_others_write_while_a_store_is_planned_never_lends_it_their_vector(open_worker, monkeypatch):
    """A store of a text that is held takes over its vectors; between that look and the next the key may change."""
    one, two = open_worker(), open_worker(NEVER_MS)
    one.store(NewMemory(content=COFFEE, key="k"))
    two.get("k", consistency=STRONG)
    real, followed = planning._store, []

    def late(item, group):
        monkeypatch.undo()
        one.store(NewMemory(content=BUDGET, key="k"))
        followed.append(threading.Thread(target=two.list, kwargs={"consistency": STRONG}))
        followed[0].start()
        followed[0].join(0.3)  # it must not come through before the plan is made
        return real(item, group)

    monkeypatch.setattr(planning, "_store", late)
    two.store(NewMemory(content=COFFEE, key="k", metadata={"touched": True}))
    followed[0].join(30)
    for worker in (one, two):
        held = worker.get("k", consistency=STRONG).content
        assert round(worker.retrieve(Retrieval(query=held, k=1)).hits[0].dense, 3) == 1.0


def test_a_process_frozen_while_it_follows_looks_again_when_it_wakes(open_worker, monkeypatch):
    frozen, other = open_worker(20), open_worker()
    other.store(NewMemory(content=COFFEE, key="k"))
    time.sleep(0.03)  # the interval
    real = frozen._projection.merge_compacted_snapshots

    def freezing(*arguments):
        monkeypatch.undo()
        other.store(NewMemory(content=BUDGET, key="k"))
        time.sleep(0.03)
        return real(*arguments)

    monkeypatch.setattr(frozen._projection, "merge_compacted_snapshots", freezing)
    frozen.get("k")
    assert frozen.get("k").content == BUDGET


def test_whoever_comes_while_another_call_follows_waits_for_what_it_finds(open_worker, monkeypatch):
    reader, other = open_worker(20), open_worker()
    other.store(NewMemory(content=COFFEE, key="k"))
    time.sleep(0.03)  # the interval
    first_look, following = reader._projection.pull_one, threading.Event()

    def slow(path, **rest):
        following.set()
        time.sleep(0.2)
        return first_look(path, **rest)

    monkeypatch.setattr(reader._projection, "pull_one", slow)
    first = threading.Thread(target=reader.list)
    first.start()
    following.wait(10)
    assert reader.get("k").content == COFFEE
    first.join()


def test_a_file_that_was_removed_under_its_writer_acknowledges_nothing(open_worker, tmp_path):
    """A writer that was frozen for days finds its journal compacted away; what it wrote there nobody would read."""
    worker, other = open_worker(), open_worker()
    worker.store(NewMemory(content=COFFEE, key="k"))
    [path] = (tmp_path / "memory" / "journal").iterdir()
    other.get("k", consistency=STRONG)
    path.unlink()
    with pytest.raises(StorageUnavailable):
        worker.store(NewMemory(content=BUDGET, key="b"))
    worker.store(NewMemory(content=BUDGET, key="b"))
    assert other.get("b").content == BUDGET


def test_a_delete_reaches_what_another_worker_stored_a_moment_ago(open_service, tmp_path):
    """A store that was answered is there: to say of it that there is no such memory would be wrong."""
    settings = MemorySettings(follow_interval_ms=60_000)
    one, two = (open_service(tmp_path / "memory", settings) for _ in range(2))
    two.counts()
    one.store(NewMemory(content="Just stored.", key="fresh"))
    assert two.delete("fresh").keys == ("fresh",)
    with pytest.raises(NotFound):
        two.delete("fresh")
    with pytest.raises(NotFound):
        one.get("fresh", consistency=STRONG)
