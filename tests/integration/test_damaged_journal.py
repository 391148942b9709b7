"""A journal that is damaged when a service starts: it serves what it could read, takes no writes, and says why."""

import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.journal.frames import frames
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from vector_memory.errors import Unavailable
from vector_memory.memories import Consistency, NewMemory
from vector_memory.retrieval import Retrieval

SKIP = MemorySettings(follow_interval_ms=0, skip_damaged=True)


@pytest.fixture
def open_service(tmp_path):
    opened = []

    def open_(settings=None):
        settings = settings or MemorySettings(follow_interval_ms=0)
        opened.append(MemoryService(DataFolder(tmp_path / "memory"), HashEmbedder(), settings))
        return opened[-1]

    yield open_
    for service in opened:
        if not service.is_closed:
            service.close()


@pytest.fixture
def damaged(open_service, tmp_path):
    """A journal of five memories whose third is damaged: its path, whole bytes, and the damage's offset."""
    service = open_service()
    for at in range(5):
        service.store(NewMemory(content=f"fact {at}", key=f"k{at}"))
    service.close()
    (path,) = journals(tmp_path)
    whole = path.read_bytes()
    _, *ends = (end for _, end in frames(whole))
    assert len(ends) == 5
    path.write_bytes(whole[: ends[1] + 30] + b"\xff\xff\xff" + whole[ends[1] + 33 :])
    return path, whole, ends[1]


def journals(tmp_path):
    return sorted((tmp_path / "memory" / "journal").iterdir())


def keys(service):
    return {memory.key for memory in service.list().memories}


def test_it_serves_what_comes_before_the_damage_and_names_file_and_offset(damaged, open_service, tmp_path):
    path, _, offset = damaged
    service = open_service()
    assert keys(service) == {"k0", "k1"}
    assert service.retrieve(Retrieval(query="fact 1", k=1)).hits[0].memory.key == "k1"
    (problem,) = service.problems()
    assert f"{path} is damaged at byte {offset}" in problem
    for write in (
        lambda: service.store(NewMemory(content="new", key="k9")),
        lambda: service.delete("k0"),
        lambda: service.delete_matching({"key": "k0"}),
        service.snapshot,
        service.compact,
    ):
        with pytest.raises(Unavailable, match=f"damaged at byte {offset}"):
            write()
    with pytest.raises(Unavailable):
        service.get("k0", consistency=Consistency.STRONG)
    assert keys(service) == {"k0", "k1"}
    assert len(journals(tmp_path)) == 1


def test_the_file_restored_ends_it_without_a_restart(damaged, open_service):
    path, whole, _ = damaged
    service = open_service()
    path.write_bytes(whole)
    service.store(NewMemory(content="new", key="k9"))
    assert keys(service) == {"k0", "k1", "k2", "k3", "k4", "k9"}
    assert service.problems() == []


def test_the_file_moved_away_ends_it_too(damaged, open_service):
    path, _, _ = damaged
    service = open_service()
    path.rename(path.with_suffix(".damaged"))
    service.store(NewMemory(content="new", key="k9"))
    assert keys(service) == {"k0", "k1", "k9"}


def test_when_told_to_skip_it_applies_what_is_valid_behind_the_damage_and_says_what_it_passed_over(
    damaged, open_service
):
    path, _, offset = damaged
    service = open_service(SKIP)
    assert keys(service) == {"k0", "k1", "k3", "k4"}
    service.store(NewMemory(content="new", key="k9"))
    assert [
        hit.memory.key for hit in service.retrieve(Retrieval(query="fact 4", k=1, consistency=Consistency.STRONG)).hits
    ] == ["k4"]
    (problem,) = service.problems()
    assert problem.startswith("passed over")
    assert f"{path} is damaged at byte {offset}" in problem


def test_compaction_keeps_a_journal_with_damage_that_was_passed_over(damaged, open_service, tmp_path):
    path, _, offset = damaged
    service = open_service(SKIP)
    service.store(NewMemory(content="new", key="k9"))
    compacted = service.compact()
    assert path.exists()
    reasons = {kept.journal: kept.reason for kept in compacted.kept}
    assert reasons[path.stem] in ("its writer may still append to it", f"damaged at byte {offset}")


def test_damage_that_appears_later_does_not_stop_this_workers_writes(open_service, tmp_path):
    writer, other = open_service(), open_service()
    for at in range(3):
        writer.store(NewMemory(content=f"fact {at}", key=f"k{at}"))
    (path,) = journals(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + b"\xff" + whole[401:])
    other.store(NewMemory(content="new", key="k9"))
    assert "k9" in keys(other)
    assert other.problems()
