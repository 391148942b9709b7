"""Compaction: what was deleted is in no file any more, and nobody loses anything by it."""

import os
import time

import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.projection import snapshots
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from vector_memory.errors import StartupError
from vector_memory.memories import Consistency, NewMemory
from vector_memory.retrieval import Retrieval

SECRET = "The vault code of Brightwater is seventeen blue herons."
COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
DAY_S = 24 * 3600
KEEPING_NOTHING = MemorySettings(versions_kept_days=0)


def holding(folder, needle):
    return [path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def journals(folder):
    return sorted(path.stem for path in (folder / "journal").iterdir())


def contents(service):
    return {memory.key: memory.content for memory in service.list(limit=1_000, consistency=Consistency.STRONG).memories}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "memory"


def test_after_a_delete_and_a_compaction_text_and_vector_are_in_no_file(open_service, folder):
    service = open_service(folder)
    service.store_batch([NewMemory(content=f"{COFFEE} Cup {at}.", key=f"cup-{at}") for at in range(20)])
    service.store(NewMemory(content=SECRET, key="secret", metadata={"note": "herons"}))
    vector = service.embed([SECRET])[0]
    in_journals, in_snapshots = vector.astype("<f4").tobytes(), vector.astype("<f2").tobytes()
    service.snapshot()
    assert holding(folder, SECRET.encode())
    assert [len(holding(folder, data)) for data in (in_journals, in_snapshots)] == [1, 1]
    service.delete("secret")

    compacted = service.compact()

    assert compacted.kept == ()
    assert compacted.removed_bytes > 0
    assert [holding(folder, data) for data in (b"herons", in_journals, in_snapshots)] == [[], [], []]
    assert len(contents(service)) == 20
    service.close()
    reopened = open_service(folder)
    assert len(contents(reopened)) == 20
    assert reopened.retrieve(Retrieval(query=f"{COFFEE} Cup 7.", k=1)).hits[0].memory.key == "cup-7"


def test_where_no_versions_are_kept_an_update_and_a_compaction_leave_nothing_of_the_old_text(open_service, folder):
    service = open_service(folder, KEEPING_NOTHING)
    service.store(NewMemory(content=SECRET, key="k"))
    service.store(NewMemory(content=COFFEE, key="k"))
    service.compact()
    assert holding(folder, b"herons") == []
    assert contents(service) == {"k": COFFEE}


def test_what_was_deleted_stays_deleted_after_compaction_and_restart(open_service, folder):
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="k"))
    service.delete("k")
    service.compact()
    service.close()
    assert contents(open_service(folder)) == {}


def test_writing_goes_on_in_a_new_journal(open_service, folder):
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="before"))
    service.compact()
    assert journals(folder) == []
    service.store(NewMemory(content=COFFEE, key="after"))
    assert len(journals(folder)) == 1
    service.close()
    assert set(contents(open_service(folder))) == {"before", "after"}


def test_a_journal_that_another_worker_may_append_to_is_kept_until_it_is_quiet(open_service, folder):
    one, two = open_service(folder), open_service(folder)
    one.store(NewMemory(content=COFFEE, key="one"))
    two.store(NewMemory(content=COFFEE, key="two"))
    contents(one)
    kept = one.compact().kept
    assert [one.reason for one in kept] == ["its writer may still append to it"]
    [path] = (folder / "journal").iterdir()
    os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    assert one.compact().kept == ()
    assert set(contents(one)) == set(contents(two)) == {"one", "two"}


def test_a_worker_that_slept_through_a_compaction_catches_up_from_the_snapshot(open_service, folder, minilm):
    """FlashBoot revives frozen processes: the journals that it had not read are gone by then."""
    sleeper = MemoryService(DataFolder(folder), minilm, MemorySettings(follow_interval_ms=60_000))
    sleeper.store(NewMemory(content="An old fact.", key="old"))
    worker = open_service(folder)
    worker.store(NewMemory(content=COFFEE, key="new"))
    worker.store(NewMemory(content="A newer fact.", key="old"))
    worker.store(NewMemory(content=SECRET, key="secret"))
    worker.delete("secret")
    worker.store(NewMemory(content="An idempotent fact.", key="idem"), idempotency_key="job-1")
    removed = worker.compact().removed
    assert len(removed) == 1

    assert contents(sleeper) == contents(worker)
    assert sleeper.retrieve(Retrieval(query=COFFEE, k=1)).hits[0].dense > 0.999
    assert sleeper.get("old").content == "A newer fact."
    sleeper.store(NewMemory(content="Stored after waking up.", key="awake"))
    assert contents(worker)["awake"] == "Stored after waking up."
    sleeper.close()


def test_a_sealed_journal_that_snapshots_cover_in_part_is_kept(open_service, folder):
    """Its size alone does not tell: what lies beyond the covered end may be acknowledged records."""
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="a"))
    service.snapshot()
    service.snapshot()
    service.store(NewMemory(content="Stored after both snapshots.", key="b"))
    service._committer.seal()
    assert service._compactor.remove_covered().removed == ()
    service.close()
    assert set(contents(open_service(folder))) == {"a", "b"}


def test_a_torn_rest_of_a_sealed_journal_does_not_keep_it(open_service, folder):
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="a"))
    [path] = (folder / "journal").iterdir()
    with path.open("ab") as file:
        file.write(b"torn")
    assert service.compact().kept == ()
    assert journals(folder) == []


def test_a_sleepers_snapshots_never_push_out_what_others_compacted(open_service, folder, minilm):
    sleeper = MemoryService(DataFolder(folder), minilm, MemorySettings(follow_interval_ms=60_000))
    sleeper.store(NewMemory(content="An old fact.", key="old"))
    worker = open_service(folder)
    worker.store(NewMemory(content=COFFEE, key="new"))
    worker.compact()
    sleeper.snapshot()
    sleeper.snapshot()
    sleeper.close()
    worker.close()
    assert set(contents(open_service(folder))) == {"old", "new"}


def test_a_snapshot_that_was_overtaken_by_a_compaction_loses_nothing(open_service, folder, minilm):
    """Frozen before the other's last store, written after its compaction: newest by name, and it lacks something."""
    slow, fast = open_service(folder), open_service(folder)
    slow.store(NewMemory(content="A fact of the slow one.", key="slow"))
    contents(fast)
    frozen = slow._projection.freeze()
    fast.store(NewMemory(content=COFFEE, key="fast"))
    assert len(fast.compact().removed) == 1
    arguments = (folder / "snapshots", folder / "journal", slow.fingerprint, slow._catalog.folder)
    snapshots.write(frozen, *arguments)
    for _ in range(2):
        reopened = open_service(folder)
        assert set(contents(reopened)) == {"slow", "fast"}
        reopened.close()
    assert set(contents(slow)) == {"slow", "fast"}
    slow.snapshot()
    fast.close()
    slow.close()
    assert set(contents(open_service(folder))) == {"slow", "fast"}


def test_both_snapshots_cover_what_is_removed_so_that_either_is_enough(open_service, folder):
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="k"))
    service.compact()
    service.close()
    newest = max((folder / "snapshots").iterdir())
    (newest / "vectors-000.faiss").write_bytes(b"broken")
    assert contents(open_service(folder)) == {"k": COFFEE}


def test_without_any_snapshot_a_compacted_folder_is_refused_rather_than_opened_with_less(open_service, folder):
    service = open_service(folder)
    service.store(NewMemory(content=COFFEE, key="k"))
    service.compact()
    service.close()
    for snapshot in (folder / "snapshots").iterdir():
        (snapshot / "vectors-000.faiss").write_bytes(b"broken")
    with pytest.raises(StartupError, match=r"No snapshot .* can be used"):
        open_service(folder)


def test_disk_use_shrinks_to_what_is_alive(open_service, folder):
    service = open_service(folder, KEEPING_NOTHING)
    for version in range(30):
        service.store_batch(
            [NewMemory(content=f"{COFFEE} {key}.", key=f"k{key}", metadata={"v": version}) for key in range(40)]
        )
    grown = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    service.compact()
    shrunk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert shrunk < grown / 3
