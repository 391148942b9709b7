"""History and `as_of`: what was known when; and that what was deleted or has expired never comes back that way."""

import json

import pytest

from memory_service.clock import HybridClock
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from vector_memory.errors import InvalidInput, NotFound
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Retrieval
from vector_memory.times import iso_time

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
START_MS = 1_790_000_000_000


class Time:
    """A wall clock that a test moves."""

    def __init__(self):
        self.ms = START_MS

    def __call__(self):
        return self.ms

    def pass_(self, ms):
        """The time before, which `as_of` then means."""
        before = iso_time(self.ms)
        self.ms += ms
        return before


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def open_service(tmp_path, time):
    opened = []

    def open_(**settings):
        settings = MemorySettings(**({"follow_interval_ms": 0} | settings))
        opened.append(MemoryService(DataFolder(tmp_path / "memory"), HashEmbedder(), settings, HybridClock(time)))
        return opened[-1]

    yield open_
    for service in opened:
        if not service.is_closed:
            service.close()


def contents(service, **rest):
    return {memory.key: memory.content for memory in service.list(limit=1_000, **rest).memories}


def events(service, key="k"):
    return [(event.kind.value, event.memory and event.memory.content) for event in service.history(key)]


def test_get_list_and_retrieve_answer_as_of_a_time(open_service, time):
    service = open_service()
    service.store(NewMemory(content="the price is 10", key="price", metadata={"by": "ann"}))
    service.store(NewMemory(content="the office is in Oslo", key="office", metadata={"by": "ann"}))
    first = time.pass_(MINUTE_MS)
    service.store(NewMemory(content="the price is 12", key="price", metadata={"by": "bob"}))
    second = time.pass_(MINUTE_MS)
    service.store(NewMemory(content="the roof leaks", key="roof"))
    third = time.pass_(MINUTE_MS)
    assert contents(service, as_of=first) == {"price": "the price is 10", "office": "the office is in Oslo"}
    assert contents(service, as_of=second) == {"price": "the price is 12", "office": "the office is in Oslo"}
    assert contents(service, as_of=third) == contents(service)
    assert service.get("price", as_of=first).metadata == {"by": "ann"}
    assert service.get("price", as_of=second).metadata == {"by": "bob"}
    with pytest.raises(NotFound):
        service.get("roof", as_of=second)
    (hit,) = service.retrieve(Retrieval(query="the price is 10", k=1, as_of=first)).hits
    assert (hit.memory.content, round(hit.score, 3)) == ("the price is 10", 1.0)
    assert len(service.retrieve(Retrieval(query="the price is 10", k=10, as_of=first)).hits) == 2
    assert [
        hit.memory.content for hit in service.retrieve(Retrieval(query="x", as_of=first, filter={"by": "bob"})).hits
    ] == []
    assert [
        hit.memory.key for hit in service.retrieve(Retrieval(query="x", as_of=second, filter={"by": "bob"})).hits
    ] == ["price"]
    assert contents(service, as_of=first, filter={"$not": {"by": "bob"}}) == contents(service, as_of=first)
    assert all(round(hit.score, 3) < 1 for hit in service.retrieve(Retrieval(query="the price is 10")).hits)


def test_before_a_memory_was_stored_there_is_none(open_service, time):
    service = open_service()
    before = time.pass_(MINUTE_MS)
    service.store(NewMemory(content="the price is 10", key="price"))
    assert contents(service, as_of=before) == {}
    assert service.retrieve(Retrieval(query="price", as_of=before)).hits == ()


def test_history_names_what_happened_newest_first(open_service, time):
    service = open_service()
    service.store(NewMemory(content="gone", key="k"))
    time.pass_(MINUTE_MS)
    service.delete("k")
    time.pass_(MINUTE_MS)
    service.store(NewMemory(content="first", key="k"))
    time.pass_(MINUTE_MS)
    service.store(NewMemory(content="second", key="k", metadata={"a": 1}))
    assert events(service) == [("updated", "second"), ("stored", "first"), ("deleted", None)]
    assert [event.at_ms - START_MS for event in service.history("k")] == [3 * MINUTE_MS, 2 * MINUTE_MS, MINUTE_MS]
    with pytest.raises(NotFound):
        service.history("nothing")


def test_what_was_deleted_comes_back_by_no_way(open_service, time):
    service = open_service()
    service.store(NewMemory(content="secret 1", key="k", metadata={"a": 1}))
    time.pass_(MINUTE_MS)
    service.store(NewMemory(content="secret 2", key="k", metadata={"a": 2}))
    then = time.pass_(MINUTE_MS)
    service.delete("k")
    time.pass_(MINUTE_MS)
    for look in (
        lambda: contents(service, as_of=then),
        lambda: contents(service, as_of=then, filter={"a": 2}),
        lambda: service.retrieve(Retrieval(query="secret 2", as_of=then)).hits,
    ):
        assert not look()
    with pytest.raises(NotFound):
        service.get("k", as_of=then)
    assert events(service) == [("deleted", None)]


def test_when_a_versions_time_is_over_it_takes_the_versions_before_it_along(open_service, time):
    service = open_service()
    service.store(NewMemory(content="one", key="k"))
    time.pass_(MINUTE_MS)
    service.store(NewMemory(content="two", key="k", ttl_seconds=3600))
    then = time.pass_(MINUTE_MS)
    service.store(NewMemory(content="three", key="k"))
    assert service.get("k", as_of=then).content == "two"
    time.pass_(60 * MINUTE_MS)
    with pytest.raises(NotFound):
        service.get("k", as_of=then)
    assert events(service) == [("updated", "three")]


def test_the_end_of_a_memorys_time_is_an_event(open_service, time):
    service = open_service()
    service.store(NewMemory(content="one", key="k"))
    service.delete("k")
    service.store(NewMemory(content="two", key="k", ttl_seconds=60))
    time.pass_(2 * MINUTE_MS)
    assert events(service) == [("expired", None), ("deleted", None)]


def test_versions_survive_a_restart_from_journals_from_a_snapshot_and_after_compaction(open_service, time):
    service = open_service()
    service.store_batch([NewMemory(content=f"old {at}", key=f"k{at}", metadata={"at": at}) for at in range(20)])
    then = time.pass_(MINUTE_MS)
    service.store_batch([NewMemory(content=f"new {at}", key=f"k{at}", metadata={"at": -at}) for at in range(20)])
    expected, found = contents(service, as_of=then), service.retrieve(Retrieval(query="old 7", k=3, as_of=then)).hits
    assert found[0].memory.content == "old 7"
    for step in (lambda _: None, MemoryService.snapshot, MemoryService.compact):
        step(service)
        service.close()
        service = open_service()
        assert contents(service, as_of=then) == expected
        assert service.retrieve(Retrieval(query="old 7", k=3, as_of=then)).hits == found
        assert contents(service, as_of=then, filter={"at": {"$gte": 18}}) == {"k18": "old 18", "k19": "old 19"}
        assert events(service, "k3") == [("updated", "new 3"), ("stored", "old 3")]


def test_another_worker_sees_the_same_history(open_service, time):
    one, two = open_service(), open_service()
    for at in range(6):
        (one if at % 2 else two).store(NewMemory(content=f"version {at}", key="k"))
        time.pass_(MINUTE_MS)
    assert events(one) == events(two)
    assert len(events(one)) == 6


def test_versions_are_kept_as_long_as_the_setting_says(open_service, time):
    service = open_service(versions_kept_days=2)
    service.store(NewMemory(content="one", key="k"))
    first = time.pass_(DAY_MS)
    service.store(NewMemory(content="two", key="k"))
    second = time.pass_(DAY_MS)
    assert service.get("k", as_of=first).content == "one"
    time.pass_(DAY_MS + 2 * 60 * MINUTE_MS)
    with pytest.raises(InvalidInput, match=r"MEMORY_VERSIONS_KEPT_DAYS") as caught:
        service.get("k", as_of=first)
    assert caught.value.field == "as_of"
    assert events(service) == [("updated", "two")]
    with pytest.raises(InvalidInput):
        service.get("k", as_of=second)


def test_no_version_is_kept_when_none_is_wanted(open_service, time):
    service = open_service(versions_kept_days=0)
    service.store(NewMemory(content="one", key="k"))
    time.pass_(MINUTE_MS)
    service.store(NewMemory(content="two", key="k"))
    assert events(service) == [("updated", "two")]


@pytest.mark.parametrize("as_of", ["yesterday", "2026-09-14T08:00:00", "", 5, "3026-01-01"])
def test_a_time_that_is_none_is_refused(open_service, as_of):
    service = open_service()
    for look in (lambda: service.get("k", as_of=as_of), lambda: service.list(as_of=as_of)):
        with pytest.raises(InvalidInput) as caught:
            look()
        assert caught.value.field == "as_of"


def test_a_cursor_belongs_to_its_time(open_service, time):
    service = open_service()
    service.store_batch([NewMemory(content=f"old {at}", key=f"k{at}") for at in range(9)])
    then = time.pass_(MINUTE_MS)
    service.store_batch([NewMemory(content=f"new {at}", key=f"k{at}") for at in range(9)])
    time.pass_(MINUTE_MS)
    found, cursor = [], None
    while True:
        page = service.list(limit=4, cursor=cursor, as_of=then)
        found += page.memories
        if (cursor := page.cursor) is None:
            break
    assert sorted(memory.content for memory in found) == sorted(f"old {at}" for at in range(9))
    cursor = service.list(limit=4, as_of=then).cursor
    with pytest.raises(InvalidInput):
        service.list(limit=4, cursor=cursor)


def test_a_snapshot_of_the_schema_before_versions_is_read(open_service, time, tmp_path):
    """Made as that version made it: without the tables of superseded versions."""
    import hashlib
    import sqlite3

    service = open_service()
    service.store(NewMemory(content="one", key="k"))
    service.store(NewMemory(content="other", key="gone"))
    service.delete("gone")
    service.compact()
    service.close()
    for snapshot in (tmp_path / "memory" / "snapshots").iterdir():
        catalog, manifest = snapshot / "catalog.sqlite", snapshot / "MANIFEST.json"
        connection = sqlite3.connect(catalog, isolation_level=None)
        for statement in (
            "DROP TABLE superseded",
            "DROP TABLE superseded_attribute",
            "ALTER TABLE tombstone DROP COLUMN expired_at_ms",
            "ALTER TABLE tombstone DROP COLUMN deleted_at_ms",
            "PRAGMA user_version = 0",
            "VACUUM",
        ):
            connection.execute(statement)
        connection.close()
        fields = json.loads(manifest.read_text())
        fields["schema"] = 1
        del fields["checksum"]
        fields["sha256"]["catalog.sqlite"] = hashlib.sha256(catalog.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(fields))
    service = open_service()
    then = time.pass_(MINUTE_MS)
    service.store(NewMemory(content="two", key="k"))
    assert contents(service) == {"k": "two"}
    assert service.get("k", as_of=then).content == "one"
    assert events(service, "gone") == [("deleted", None)]
