"""Store, retrieve, delete, get and list, over a real model, real SQLite, real FAISS and real files."""

import os
import threading
import time

import numpy as np
import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from vector_memory.errors import Conflict, InvalidInput, NotFound, StartupError
from vector_memory.memories import NewMemory, Refused, StoreStatus
from vector_memory.retrieval import Mode, Retrieval

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."
PARKING = "Visitors park behind hall 4 and ring at the blue door."


def store(service, content, key=None, namespace="default", **rest):
    return service.store(NewMemory(content=content, key=key, namespace=namespace, **rest))


def keys(hits):
    return [hit.memory.key for hit in hits]


def test_what_is_stored_is_retrieved_by_meaning(service):
    for content in (COFFEE, BUDGET, PARKING):
        store(service, content)
    hits = service.retrieve(Retrieval(query="what does Dana like to drink?", k=2)).hits
    assert hits[0].memory.content == COFFEE
    assert len(hits) == 2
    assert hits[0].score >= hits[1].score
    assert all(-1 <= hit.dense <= 1 and hit.lexical >= 0 for hit in hits)


def test_storing_again_under_a_key_updates_and_keeps_the_time_of_creation(service):
    first = store(service, "The budget is 48,000.", "budget", metadata={"v": 1})
    second = store(service, "The budget is 62,000.", "budget", metadata={"v": 2})
    assert (first.status, second.status) == (StoreStatus.STORED, StoreStatus.UPDATED)
    assert second.created_at_ms == first.created_at_ms
    assert second.updated_at_ms > first.updated_at_ms
    assert [hit.memory.content for hit in service.retrieve(Retrieval(query="budget", k=10)).hits] == [
        "The budget is 62,000."
    ]


def test_storing_the_same_thing_again_changes_nothing(service, tmp_path):
    first = store(service, COFFEE, metadata={"b": 1, "a": [1, 2]})
    size = sum(path.stat().st_size for path in (tmp_path / "memory" / "journal").iterdir())
    again = store(service, COFFEE, metadata={"a": [1, 2], "b": 1})
    assert again.status == StoreStatus.UNCHANGED
    assert (again.key, again.updated_at_ms) == (first.key, first.updated_at_ms)
    assert sum(path.stat().st_size for path in (tmp_path / "memory" / "journal").iterdir()) == size


def test_new_metadata_for_the_same_text_need_no_new_embedding_and_are_found(service):
    store(service, COFFEE, "coffee", metadata={"v": 1})
    assert store(service, COFFEE, "coffee", metadata={"v": 2}).status == StoreStatus.UPDATED
    assert keys(service.retrieve(Retrieval(query="drink", filter={"v": 2})).hits) == ["coffee"]
    assert service.retrieve(Retrieval(query="drink", filter={"v": 1})).hits == ()


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "a/b",
        ".",
        "..",
        "a\x00b",
        " ",
        "\n",
        "ключ",
        "🔑" * 100,
        "x" * 512,
        "'; DROP TABLE memory; --",
        "%2F",
    ],
)
def test_any_text_can_be_a_key(service, tmp_path, key):
    store(service, COFFEE, key)
    assert service.get(key).content == COFFEE
    assert service.list(filter={"key": key}).memories[0].key == key
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "memory")]
    assert outside == [], "a key never becomes a file name"
    service.delete(key)
    with pytest.raises(NotFound):
        service.get(key)


def test_a_deleted_memory_is_gone_from_every_path_at_once(service):
    for at in range(20):
        store(service, f"{COFFEE} Cup number {at}.", f"cup-{at}", metadata={"cup": at})
    service.delete("cup-7")
    assert "cup-7" not in keys(service.retrieve(Retrieval(query="coffee cup number 7", k=20)).hits)
    assert service.retrieve(Retrieval(query="coffee", filter={"cup": 7})).hits == ()
    assert "cup-7" not in [memory.key for memory in service.list().memories]
    with pytest.raises(NotFound):
        service.get("cup-7")
    with pytest.raises(NotFound):
        service.delete("cup-7")


def test_k_is_always_filled_with_memories_that_match(service):
    """Peers filter after the search and return too few."""
    for at in range(120):
        store(
            service,
            f"Note {at}: the pallet in row {at} is {'cold' if at % 3 else 'warm'}.",
            f"note-{at}",
            metadata={"at": at},
        )
    for wanted, count in (({"at": {"$gte": 117}}, 3), ({"at": {"$in": [5, 50, 99]}}, 3), ({"at": {"$lt": 60}}, 10)):
        hits = service.retrieve(Retrieval(query="an unrelated question about music", k=10, filter=wanted)).hits
        assert len(hits) == count
        assert len(set(keys(hits))) == count


def test_retrieval_equals_brute_force_over_the_same_vectors(service):
    texts = [
        f"{subject} {verb} {thing}."
        for subject in ("Dana", "The CFO", "A truck")
        for verb in ("likes", "rejects", "needs")
        for thing in ("the sensors", "oat milk", "a discount", "gate 4")
    ]
    for text in texts:
        store(service, text, text)
    query = "who wants milk?"
    scores = service.embed(texts) @ service.embed([query])[0]
    expected = [texts[at] for at in np.argsort(-scores)[:10]]
    assert keys(service.retrieve(Retrieval(query=query, k=10, mode=Mode.DENSE)).hits) == expected


def test_namespaces_are_walls(service):
    store(service, COFFEE, "shared", "a")
    store(service, BUDGET, "shared", "b")
    store(service, PARKING, "only-b", "ab")
    assert keys(service.retrieve(Retrieval(query="coffee", namespace="a", k=10)).hits) == ["shared"]
    assert service.get("shared", namespace="b").content == BUDGET
    assert [memory.key for memory in service.list(namespace="ab").memories] == ["only-b"]
    service.delete("shared", namespace="a")
    assert service.get("shared", namespace="b").content == BUDGET
    assert service.delete_matching({"key": {"$exists": True}}, namespace="a").keys == ()
    assert service.counts() == {"ab": 1, "b": 1}
    assert service.retrieve(Retrieval(query="coffee", namespace="nobody")).hits == ()


def test_a_fact_at_the_end_of_a_long_memory_is_found(service):
    """Peers cut at 256 word pieces and lose it."""
    long = "The weekly call was about many small things and nothing was decided. " * 60
    store(service, long + "The spare key to the cabinet is carried by Ines Falk.", "long")
    for at in range(30):
        store(service, f"{COFFEE} Day {at}.", f"filler-{at}")
    hits = service.retrieve(Retrieval(query="who carries the spare key to the cabinet?", k=5)).hits
    assert keys(hits)[0] == "long"
    assert keys(hits).count("long") == 1, "windows belong to one memory"
    assert hits[0].memory.content.endswith("Ines Falk.")


def test_a_long_query_is_read_to_its_end(service):
    store(service, COFFEE, "coffee")
    store(service, PARKING, "parking")
    assert keys(
        service.retrieve(Retrieval(query="Where do visitors park their cars at the hall? " * 100, k=1)).hits
    ) == ["parking"]


def test_min_score_leaves_out_what_is_far(service):
    store(service, COFFEE, "coffee")
    store(service, PARKING, "parking")
    hits = service.retrieve(Retrieval(query="what does Dana drink?", min_score=0.4)).hits
    assert keys(hits) == ["coffee"]


def test_a_memory_ends_with_its_lifetime(service, monkeypatch):
    store(service, COFFEE, "brief", ttl_seconds=60)
    store(service, PARKING, "lasting")
    assert service.get("brief").expires_at_ms is not None
    later = time.time_ns() + 61 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert keys(service.retrieve(Retrieval(query="coffee", k=5)).hits) == ["lasting"]
    with pytest.raises(NotFound):
        service.get("brief")
    assert store(service, COFFEE, "brief").status == StoreStatus.STORED


def test_everything_is_there_after_a_restart(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    for at in range(10):
        store(service, f"{COFFEE} Day {at}.", f"day-{at}", metadata={"at": at})
    store(service, "updated text", "day-3")
    service.delete("day-4")
    before = service.list(limit=100).memories
    query = "what was drunk on day 8?"
    hits = service.retrieve(Retrieval(query=query, k=20)).hits
    service.close()

    reopened = open_service(tmp_path / "memory")

    assert reopened.list(limit=100).memories == before
    assert reopened.retrieve(Retrieval(query=query, k=20)).hits == hits


def test_a_batch_judges_each_memory_on_its_own(service):
    results = service.store_batch(
        [
            NewMemory(content=COFFEE, key="a"),
            NewMemory(content="x", key="b", expires_at="2001-01-01"),
            NewMemory(content=PARKING, key="c", metadata={"x": float("nan")}),
            NewMemory(content=BUDGET, key="a"),
        ]
    )
    assert [type(result) is Refused for result in results] == [False, True, True, False]
    assert [results[0].status, results[3].status] == [StoreStatus.STORED, StoreStatus.UPDATED]
    assert results[1].error.field == "expires_at"
    assert results[2].error.field == "metadata.x"
    assert service.get("a").content == BUDGET
    assert service.counts() == {"default": 1}


def test_a_content_that_comes_back_within_a_batch_keeps_its_own_vector(service):
    """The held content, another one, then the held one again: each must get the vector of its own text."""
    store(service, COFFEE, "k")
    service.store_batch(
        [NewMemory(content=COFFEE, key="k"), NewMemory(content=PARKING, key="k"), NewMemory(content=COFFEE, key="k")]
    )
    hit = service.retrieve(Retrieval(query=COFFEE, k=1)).hits[0]
    assert (hit.memory.content, round(hit.dense, 3)) == (COFFEE, 1.0)


def test_an_idempotency_key_answers_a_repeated_store_as_the_first_time(open_service, tmp_path):
    """Delivery is at least once: a late repetition must not undo what came after it, not even after a restart."""
    service = open_service(tmp_path / "memory")
    first = service.store(NewMemory(content=COFFEE, key="k"), idempotency_key="job-1")
    service.store(NewMemory(content=BUDGET, key="k"))
    service.close()
    service = open_service(tmp_path / "memory")
    assert service.store(NewMemory(content=COFFEE, key="k"), idempotency_key="job-1") == first
    assert service.get("k").content == BUDGET
    with pytest.raises(Conflict):
        service.store(NewMemory(content=PARKING, key="k"), idempotency_key="job-1")


def test_an_idempotency_key_answers_a_repeated_delete_as_the_first_time(service):
    store(service, COFFEE, "k")
    first = service.delete("k", idempotency_key="job-2")
    store(service, BUDGET, "k")
    assert service.delete("k", idempotency_key="job-2") == first
    assert service.get("k").content == BUDGET


def test_pages_show_every_memory_once_whatever_happens_in_between(service):
    for at in range(25):
        store(service, f"{COFFEE} {at}", f"k{at:02}")
    seen, cursor = [], None
    while True:
        page = service.list(limit=7, cursor=cursor)
        seen += [memory.key for memory in page.memories]
        store(service, f"new after {len(seen)}", f"new-{len(seen)}")
        store(service, f"changed after {len(seen)}", "k05")
        if page.cursor is None:
            break
        cursor = page.cursor
    assert sorted(key for key in seen if not key.startswith("new")) == [f"k{at:02}" for at in range(25)]


def test_a_cursor_of_another_listing_is_refused(service):
    for at in range(3):
        store(service, f"text {at}")
    cursor = service.list(limit=1).cursor
    for wrong in ({"namespace": "other"}, {"filter": {"a": 1}}):
        with pytest.raises(InvalidInput) as caught:
            service.list(limit=1, cursor=cursor, **wrong)
        assert caught.value.field == "cursor"
    for broken in ("", "?", "AAAA", cursor + "x", "W10"):
        with pytest.raises(InvalidInput):
            service.list(limit=1, cursor=broken)


def test_deleting_by_filter_takes_all_that_match_and_a_dry_run_takes_none(service):
    """Peers leave what is beyond the first page."""
    service.store_batch(
        [NewMemory(content=f"Cup {at}", key=f"k{at:04}", metadata={"old": at < 600}) for at in range(700)]
    )
    dry = service.delete_matching({"old": True}, dry_run=True)
    assert (len(dry.keys), dry.dry_run, service.counts()) == (600, True, {"default": 700})
    assert service.delete_matching({"old": True}).keys == dry.keys
    assert service.counts() == {"default": 100}
    with pytest.raises(InvalidInput, match="empty filter"):
        service.delete_matching({})


def test_a_key_may_hold_a_nul_character(service):
    """SQLite's JSON functions end a text there; a dry run and an export look the key up by another way."""
    store(service, COFFEE, "a\0b")
    assert service.delete_keys(["a\0b", "a"], dry_run=True).keys == ("a\0b",)
    assert service.list(embeddings=True).memories[0].embedding is not None
    assert service.delete("a\0b").keys == ("a\0b",)


def test_deleting_by_keys_reports_what_was_missing(service):
    store(service, COFFEE, "a")
    deleted = service.delete_keys(["a", "nope", "a"])
    assert (deleted.keys, deleted.missing) == (("a",), ("nope",))


def test_readers_beside_writers_always_get_full_and_true_answers(service):
    """k stays filled, and no text is ever paired with another's vector, while memories are updated all the time."""
    texts = {f"k{at}": f"Pallet {at} stands in row {at * 7 % 50}." for at in range(40)}
    service.store_batch([NewMemory(content=text, key=key, metadata={"v": 0}) for key, text in texts.items()])
    stop, failures = threading.Event(), []

    def write():
        for version in range(1, 40):
            service.store_batch(
                [NewMemory(content=text, key=key, metadata={"v": version}) for key, text in texts.items()]
            )
            service.delete_keys([f"extra-{version}"])
        stop.set()

    def read():
        while not stop.is_set():
            hits = service.retrieve(Retrieval(query="Pallet 12 stands in row 34.", k=40)).hits
            if len(hits) != 40 or len(set(keys(hits))) != 40 or hits[0].memory.content != texts["k12"]:
                failures.append(keys(hits))

    threads = [threading.Thread(target=target) for target in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_concurrent_stores_of_one_key_leave_one_of_them_whole(service):
    texts = [f"{COFFEE} Version {at}." for at in range(16)]
    threads = [threading.Thread(target=store, args=(service, text, "k")) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    hits = service.retrieve(Retrieval(query=COFFEE, k=5)).hits
    assert len(hits) == 1
    expected = float(service.embed([hits[0].memory.content])[0] @ service.embed([COFFEE])[0])
    assert hits[0].dense == pytest.approx(expected, abs=5e-4)  # vectors are kept in half precision


def test_concurrent_stores_share_one_sync(service, monkeypatch):
    """On a slow volume the sync is what a store waits for; those that wait together pay for it once."""
    syncs, first_may_end, sync = [], threading.Event(), os.fdatasync

    def slow(descriptor):
        syncs.append(descriptor)
        if len(syncs) == 1:
            assert first_may_end.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=store, args=(service, f"{COFFEE} {at}", f"k{at}")) for at in range(20)]
    threads[0].start()
    until(lambda: syncs)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(service._committer._batcher._patient) == 19)
    first_may_end.set()
    for thread in threads:
        thread.join(60)
    assert (len(syncs), service.counts()) == (2, {"default": 20})


def until(condition):
    """Wait for what another thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_texts_and_metadata_come_back_exactly(service):
    odd = {"n": [1, 1.5, -0.0, 2**53], "t": "é\u0301\u2028\x00", "o": {"": {}}, "l": [], "b": [True, None]}
    content = "  leading, trailing \t and \x00 odd 🔑 characters  "
    store(service, content, "odd", metadata=odd)
    memory = service.get("odd")
    assert (memory.content, memory.metadata) == (content, odd)


@pytest.mark.parametrize(
    ("memory", "field"),
    [
        ({"content": ""}, "content"),
        ({"content": "   \n"}, "content"),
        ({"content": "x" * 100_001}, "content"),
        ({"content": "bad \ud800 surrogate"}, "content"),
        ({"content": "x", "key": ""}, "key"),
        ({"content": "x", "key": "k" * 513}, "key"),
        ({"content": "x", "key": "\ud800"}, "key"),
        ({"content": "x", "namespace": ""}, "namespace"),
        ({"content": "x", "namespace": "n" * 129}, "namespace"),
        ({"content": "x", "ttl_seconds": 0}, "ttl_seconds"),
        ({"content": "x", "ttl_seconds": True}, "ttl_seconds"),
        ({"content": "x", "ttl_seconds": 10**12}, "ttl_seconds"),
        ({"content": "x", "metadata": []}, "metadata"),
        ({"content": "x", "metadata": {"a": float("inf")}}, "metadata.a"),
        ({"content": "x", "metadata": {"a": [{"b": 2**64}]}}, "metadata.a[0].b"),
        ({"content": "x", "metadata": {"a": "\udfff"}}, "metadata.a"),
        ({"content": "x", "metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"content": "x", "metadata": {"a": object()}}, "metadata.a"),
    ],
)
def test_what_is_wrong_with_a_memory_is_named_and_nothing_is_stored(service, memory, field):
    with pytest.raises(InvalidInput) as caught:
        service.store(NewMemory(**memory))
    assert caught.value.field == field
    assert service.counts() == {}


@pytest.mark.parametrize(
    "arguments", [{"k": 0}, {"k": 1_001}, {"k": True}, {"k": 2.0}, {"min_score": 2}, {"min_score": float("nan")}]
)
def test_what_is_wrong_with_a_retrieve_is_named(arguments):
    with pytest.raises(InvalidInput) as caught:
        Retrieval(query="query", **arguments)
    assert caught.value.field in arguments


class Other:
    """An embedder of the same shape and another name."""

    def __init__(self, real):
        self._real = real
        self.fingerprint = type(real.fingerprint)("another-model", "cd" * 32, 384, "mean")


def test_a_folder_of_another_embedder_is_refused_even_without_its_store_file(open_service, minilm, tmp_path):
    """Vectors of two models have the same shape and mean nothing to each other."""
    service = open_service(tmp_path / "memory")
    store(service, COFFEE)
    service.close()
    with pytest.raises(StartupError, match=r"another-model.*MEMORY_DATA_DIR"):
        MemoryService(DataFolder(tmp_path / "memory"), Other(minilm))
    (tmp_path / "memory" / "store.json").unlink()
    with pytest.raises(StartupError, match="cannot be compared"):
        MemoryService(DataFolder(tmp_path / "memory"), Other(minilm))
    assert not (tmp_path / "memory" / "store.json").exists(), "a refused start leaves nothing behind"
    assert open_service(tmp_path / "memory").counts() == {"default": 1}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": 99, "embedder": {}}', '{"format":1,"embedder":{"x":1}}', "\x00"],
)
def test_a_corrupt_store_file_is_refused_with_a_remedy(open_service, tmp_path, text):
    open_service(tmp_path / "memory").close()
    (tmp_path / "memory" / "store.json").write_text(text)
    with pytest.raises(StartupError, match=r"store\.json"):
        open_service(tmp_path / "memory")


def test_a_torn_journal_is_read_up_to_its_tear(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    store(service, COFFEE, "whole")
    store(service, PARKING, "torn")
    service.close()
    [path] = (tmp_path / "memory" / "journal").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    reopened = open_service(tmp_path / "memory")
    assert [memory.key for memory in reopened.list().memories] == ["whole"]
    store(reopened, PARKING, "again")
    reopened.close()
    assert len(open_service(tmp_path / "memory").list().memories) == 2
