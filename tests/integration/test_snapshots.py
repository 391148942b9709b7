"""Snapshots: quick starts that never change what is true."""

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

from memory_service.clock import Moment
from memory_service.journal.data_folder import DataFolder
from memory_service.projection import snapshots
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from vector_memory.errors import NotFound
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Mode, Retrieval

FIRST_FORMAT = Path(__file__).parents[1] / "golden" / "first_format"
"""A data folder without journals, whose snapshot has `groups.i64` and `vectors.f32`, as the first version wrote it."""

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."


def snapshots_in(tmp_path):
    return sorted((tmp_path / "memory" / "snapshots").iterdir())


def seen(service):
    """Everything that a caller can see, vectors included."""
    state = {}
    for namespace in ("default", "other"):
        for memory in service.list(namespace=namespace, limit=1_000).memories:
            state[namespace, memory.key] = memory
        hits = service.retrieve(Retrieval(query="what does Dana drink?", namespace=namespace, k=1_000)).hits
        state[namespace] = [(hit.memory, round(hit.score, 5)) for hit in hits]
    return state


def fill(service, start=0, count=30):
    for at in range(start, start + count):
        namespace = "other" if at % 3 == 0 else "default"
        service.store(
            NewMemory(
                content=f"{COFFEE} Cup {at}.",
                key=f"cup-{at}",
                namespace=namespace,
                metadata={"at": at, "tags": ["cup"]},
            )
        )
    service.store(NewMemory(content=f"{COFFEE} Changed. " * 15, key=f"cup-{start + 1}"))
    service.delete(f"cup-{start + 2}")


def test_a_start_from_a_snapshot_gives_the_same_state_as_one_from_the_journals(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    fill(service)
    service.store(NewMemory(content="An idempotent fact.", key="idem"), idempotency_key="job-1")
    service.snapshot()
    before = seen(service)
    service.close()
    journals = list((tmp_path / "memory" / "journal").iterdir())

    restored = open_service(tmp_path / "memory")
    assert seen(restored) == before
    assert (
        restored.retrieve(Retrieval(query="cup", filter={"tags": {"$contains": "cup"}, "at": 7})).hits[0].memory.key
        == "cup-7"
    )
    assert (
        restored.store(NewMemory(content="An idempotent fact.", key="idem"), idempotency_key="job-1").status == "stored"
    )
    restored.close()

    for journal in journals:  # the snapshot alone, to see that it was it
        journal.unlink()
    assert seen(open_service(tmp_path / "memory")) == before


def test_what_comes_after_a_snapshot_is_replayed_over_it(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    fill(service)
    service.snapshot()
    fill(service, start=20)
    service.store(NewMemory(content=COFFEE, key="cup-0", namespace="other"))
    service.delete("cup-4")
    before = seen(service)
    service.close()
    restored = open_service(tmp_path / "memory")
    assert seen(restored) == before
    with pytest.raises(NotFound):
        restored.get("cup-4")
    restored.store(NewMemory(content="Stored after the restart.", key="new"))
    assert restored.retrieve(Retrieval(query="Stored after the restart.")).hits[0].memory.key == "new"


@pytest.mark.parametrize(
    "name", ["catalog.sqlite", "vectors-000.faiss", "sketches-000.faiss", "texts.msgpack", "MANIFEST.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_snapshot_falls_back_to_the_one_before_and_says_so(open_service, tmp_path, caplog, name, damage):
    service = open_service(tmp_path / "memory")
    fill(service, count=5)
    service.snapshot()
    fill(service, start=5, count=5)
    service.snapshot()
    before = seen(service)
    service.close()
    older, newer = snapshots_in(tmp_path)
    path = newer / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else data[:9] + bytes([data[9] ^ 0xFF]) + data[10:])

    with caplog.at_level("INFO"):
        assert seen(open_service(tmp_path / "memory")) == before

    events = [(record.message, getattr(record, "snapshot", None)) for record in caplog.records]
    assert ("snapshot.restored", older.name) in events
    if name != "MANIFEST.json" or damage != "remove":  # without a manifest it never was a snapshot
        assert ("snapshot.rejected", newer.name) in events


@pytest.mark.parametrize("more", [-1, 1, 10**15])
def test_a_snapshot_whose_manifest_counts_other_rows_falls_back_to_the_one_before(open_service, tmp_path, caplog, more):
    """Checksums alone would let it pass: the manifest itself has none."""
    service = open_service(tmp_path / "memory")
    fill(service, count=5)
    service.snapshot()
    service.snapshot()
    before = seen(service)
    service.close()
    older, newer = snapshots_in(tmp_path)
    fields = json.loads((newer / "MANIFEST.json").read_text())
    fields["namespaces"][-1][1] += more
    (newer / "MANIFEST.json").write_text(json.dumps(fields))
    with caplog.at_level("INFO"):
        assert seen(open_service(tmp_path / "memory")) == before
    events = [(record.message, getattr(record, "snapshot", None)) for record in caplog.records]
    assert ("snapshot.rejected", newer.name) in events
    assert ("snapshot.restored", older.name) in events


def faiss_index(snapshot):
    return faiss.read_index(str(snapshot / "vectors-000.faiss"))


def test_faiss_opens_a_snapshot_elsewhere_and_its_ids_are_those_of_the_catalog(open_service, tmp_path, minilm):
    service = open_service(tmp_path / "memory")
    fill(service, count=5)
    service.snapshot()
    [path] = snapshots_in(tmp_path)
    query = minilm.embed(minilm.windows(f"{COFFEE} Cup 4."))
    scores, ids = faiss_index(path).search(query, 1)
    with sqlite3.connect(path / "catalog.sqlite") as catalog:
        [key] = catalog.execute("SELECT key FROM memory WHERE id = ?", (int(ids[0, 0]),)).fetchone()
    catalog.close()
    assert (key, round(float(scores[0, 0]), 3)) == ("cup-4", 1.0)


def test_faiss_reads_no_file_whose_checksum_does_not_hold(open_service, tmp_path, monkeypatch):
    service = open_service(tmp_path / "memory")
    fill(service, count=5)
    service.snapshot()
    for name in ("vectors-000.faiss", "sketches-000.faiss"):
        path = snapshots_in(tmp_path)[0] / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with monkeypatch.context() as patched:
            patched.setattr(faiss, "read_index", None)
            patched.setattr(faiss, "read_index_binary", None)
            assert list(snapshots.usable(path.parents[1], service.fingerprint)) == []
        path.write_bytes(whole)
        assert len(list(snapshots.usable(path.parents[1], service.fingerprint))) == 1


def test_a_snapshot_of_the_first_format_is_read_and_the_next_one_has_faiss_files(open_service, tmp_path):
    shutil.copytree(FIRST_FORMAT, tmp_path / "memory")
    [first] = snapshots_in(tmp_path)
    ids, vectors = np.fromfile(first / "groups.i64", "<i8"), np.fromfile(first / "vectors.f32", "<f4")
    service = open_service(tmp_path / "memory")
    before = seen(service)
    assert {key for _, key in [name for name in before if isinstance(name, tuple)]} == {
        "drink",
        "launch",
        "pallet",
        "versioned",
    }
    assert service.get("versioned").content == "The newer version."
    assert service.retrieve(Retrieval(query="What does Dana drink?")).hits[0].memory.key == "drink"
    service.snapshot()
    index = faiss_index(snapshots_in(tmp_path)[-1])
    np.testing.assert_array_equal(faiss.vector_to_array(index.id_map), ids)
    held = faiss.downcast_index(index.index).reconstruct_n(0, len(ids))
    np.testing.assert_allclose(held, vectors.reshape(len(ids), -1), rtol=2**-11, atol=2**-25)
    service.close()
    shutil.rmtree(first)
    assert seen(open_service(tmp_path / "memory")) == before


def test_a_damaged_snapshot_of_the_first_format_is_passed_over(tmp_path, open_service):
    fingerprint = open_service(tmp_path / "other").fingerprint
    for name in ("groups.i64", "vectors.f32"):
        shutil.rmtree(tmp_path / "memory", ignore_errors=True)
        shutil.copytree(FIRST_FORMAT, tmp_path / "memory")
        path = snapshots_in(tmp_path)[0] / name
        path.write_bytes(path.read_bytes()[:-8])
        assert list(snapshots.usable(path.parents[1], fingerprint)) == []


def test_a_namespace_without_memories_survives_a_snapshot(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    service.store(NewMemory(content=COFFEE, key="k"))
    service.delete("k")
    service.snapshot()
    service.close()
    restored = open_service(tmp_path / "memory")
    assert restored.retrieve(Retrieval(query="coffee")).hits == ()
    restored.store(NewMemory(content=COFFEE, key="l"))
    assert restored.retrieve(Retrieval(query="coffee")).hits[0].memory.key == "l"


def test_without_any_usable_snapshot_the_journals_are_enough(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    fill(service, count=5)
    service.snapshot()
    before = seen(service)
    service.close()
    manifest = snapshots_in(tmp_path)[0] / "MANIFEST.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "schema": 99}))
    assert seen(open_service(tmp_path / "memory")) == before


def test_two_snapshots_are_kept(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    names = []
    for at in range(4):
        service.store(NewMemory(content=f"Fact {at}."))
        names.append(service.snapshot())
    assert [path.name for path in snapshots_in(tmp_path)] == names[-2:]


def test_snapshots_are_taken_in_the_background_after_enough_records(minilm, tmp_path):
    settings = MemorySettings(snapshot_records=100, snapshot_interval_s=1)
    service = MemoryService(DataFolder(tmp_path / "memory"), minilm, settings)
    service.store_batch([NewMemory(content=f"Fact {at}.") for at in range(150)])
    service._snapshotter._last = Moment(0, 0)
    service.list()
    service._snapshotter._background.join(60)
    [path] = snapshots_in(tmp_path)
    assert (path / "MANIFEST.json").exists()
    service.close()


def test_a_stop_after_many_records_leaves_a_snapshot(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    service.store_batch([NewMemory(content=f"Fact {at}.") for at in range(1_000)])
    service.close()
    assert len(snapshots_in(tmp_path)) == 1


def test_a_snapshot_taken_amid_writes_is_one_moment_of_them(open_service, tmp_path):
    """Catalog and vectors must be of the same moment, or a text would meet another's vector."""
    service = open_service(tmp_path / "memory")
    stop = threading.Event()

    def write():
        at = 0
        while not stop.is_set():
            service.store_batch([NewMemory(content=f"Round {at} of pallet {key}.", key=f"k{key}") for key in range(10)])
            at += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(5):
        service.snapshot()
    stop.set()
    writer.join(60)
    before = seen(service)
    service.close()
    restored = open_service(tmp_path / "memory")
    assert seen(restored) == before
    for memory in restored.list().memories:
        hit = restored.retrieve(Retrieval(query=memory.content, k=1, mode=Mode.DENSE)).hits[0]
        assert (hit.memory.content, round(hit.score, 4)) == (memory.content, 1.0)


def test_a_snapshot_that_cannot_be_written_changes_nothing(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    service.store(NewMemory(content=COFFEE, key="k"))
    (tmp_path / "memory" / "snapshots").write_text("in the way")
    with pytest.raises(Exception, match="takes no writes"):
        service.snapshot()
    assert service.get("k").content == COFFEE
    assert service.store(NewMemory(content=COFFEE, key="l")).status == "stored"


def test_a_manifest_with_any_byte_changed_is_passed_over(open_service, tmp_path):
    """Its watermarks decide what is replayed: a wrong one that were believed would lose what was acknowledged."""
    service = open_service(tmp_path / "memory")
    service.store(NewMemory(content=f"{COFFEE} 1", key="k1"))
    service.snapshot()
    service.store(NewMemory(content=f"{COFFEE} 2", key="k2"))
    service.close()
    [path] = snapshots_in(tmp_path)
    manifest = path / "MANIFEST.json"
    whole = manifest.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytes([whole[at] ^ 1])
        manifest.write_bytes(whole[:at] + changed + whole[at + 1 :])
        if json.loads(whole) == _parsed(manifest):
            continue  # whitespace
        assert list(snapshots.usable(path.parent, service.fingerprint)) == []


def _parsed(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def test_few_records_are_not_worth_a_snapshot_before_the_day_is_over(minilm, tmp_path):
    """A snapshot writes all that is held: one for every record would write thousands of times as much."""
    settings = MemorySettings(snapshot_records=100, snapshot_interval_s=1)
    service = MemoryService(DataFolder(tmp_path / "memory"), minilm, settings)
    store, snapshotter = service.store, service._snapshotter
    for at in range(24):
        store(NewMemory(content=f"Fact {at}."))
    hour_ago = Moment(time.monotonic() - 3600, time.time() - 3600)
    snapshotter._last = hour_ago
    service.list()
    assert snapshotter._background is None
    store(NewMemory(content="Fact 24."))
    service.list()
    snapshotter._background.join(60)
    assert len(snapshots_in(tmp_path)) == 1
    store(NewMemory(content="Fact 25."))
    snapshotter._last = Moment(time.monotonic() - 25 * 3600, time.time() - 25 * 3600)
    service.list()
    snapshotter._background.join(60)
    assert len(snapshots_in(tmp_path)) == 2
    service.close()
