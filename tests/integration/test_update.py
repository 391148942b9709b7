"""Changing a memory that is there: what is merged, what stays, and what concurrent writers do to each other."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.metadata import canonical, merged
from memory_service.settings import MemorySettings
from memory_service.writing.group import Group
from research.llm.settings import LLMSettings
from vector_memory.errors import Conflict, InvalidInput, NotFound
from vector_memory.memories import METADATA_BYTES_MAX as BYTES_MAX
from vector_memory.memories import Consistency, NewMemory, StoreStatus
from vector_memory.retrieval import Retrieval

COFFEE = "Dana drinks an oat flat white."
TEA = "Dana drinks green tea now."


def test_metadata_is_merged_key_by_key_and_null_removes(service):
    service.store(
        NewMemory(content=COFFEE, key="dana", metadata={"lead": "acme", "draft": True, "deep": {"a": 1, "b": 2}})
    )

    updated = service.update("dana", metadata={"draft": None, "deep": {"a": 3}, "owner": "ines", "never": None})

    assert updated.status is StoreStatus.UPDATED
    memory = service.get("dana")
    assert (memory.content, memory.metadata) == (COFFEE, {"lead": "acme", "deep": {"a": 3}, "owner": "ines"})


def test_a_new_content_is_found_and_the_old_one_is_not(service):
    stored = service.store(NewMemory(content=COFFEE, key="dana", metadata={"lead": "acme"}))

    updated = service.update("dana", content=TEA)

    memory = service.get("dana")
    assert (memory.content, memory.metadata) == (TEA, {"lead": "acme"})
    assert (updated.created_at_ms, memory.created_at_ms) == (stored.created_at_ms, stored.created_at_ms)
    [hit] = service.retrieve(Retrieval(query="green tea")).hits
    assert (hit.memory.content, round(hit.dense, 1) > 0.4) == (TEA, True)


def test_new_metadata_keep_the_text_that_another_writes_while_the_old_one_is_embedded(service, monkeypatch):
    service.store(NewMemory(content=COFFEE, key="dana"))
    windows = service._embedding.windows

    def meddled(contents):
        if contents == [COFFEE]:
            service.update("dana", content=TEA)
        return windows(contents)

    monkeypatch.setattr(Group, "has_vectors", lambda *_: False)  # so that the text which is there is embedded again
    monkeypatch.setattr(service._embedding, "windows", meddled)
    service.update("dana", metadata={"lead": "acme"})

    memory = service.get("dana")
    assert (memory.content, memory.metadata) == (TEA, {"lead": "acme"})
    assert service.retrieve(Retrieval(query="green tea")).hits[0].dense > 0.4


def test_the_lifetime_stays_unless_a_new_one_is_given(service):
    service.store(NewMemory(content=COFFEE, key="dana", ttl_seconds=500))
    ends = service.get("dana").expires_at_ms

    service.update("dana", content=TEA)
    assert service.get("dana").expires_at_ms == ends

    service.update("dana", ttl_seconds=5_000)
    assert service.get("dana").expires_at_ms > ends


def test_an_update_that_changes_nothing_is_unchanged(service):
    stored = service.store(NewMemory(content=COFFEE, key="dana", metadata={"lead": "acme"}))

    updated = service.update("dana", content=COFFEE, metadata={"lead": "acme"})

    assert (updated.status, updated.updated_at_ms) == (StoreStatus.UNCHANGED, stored.updated_at_ms)


def test_what_is_not_there_or_deleted_is_not_found_and_does_not_come_back(service):
    with pytest.raises(NotFound, match="'nobody'"):
        service.update("nobody", content=TEA)
    service.store(NewMemory(content=COFFEE, key="dana"))
    service.delete("dana")

    with pytest.raises(NotFound):
        service.update("dana", content=TEA)
    with pytest.raises(NotFound):
        service.get("dana")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "content"),
        ({"content": ""}, "content"),
        ({"content": " "}, "content"),
        ({"content": "x" * 100_001}, "content"),
        ({"content": "half \udc00"}, "content"),
        ({"metadata": ["lead"]}, "metadata"),
        ({"metadata": {"price": float("nan")}}, "metadata.price"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_its_field(service, change, field):
    service.store(NewMemory(content=COFFEE, key="dana"))

    with pytest.raises(InvalidInput) as refused:
        service.update("dana", **change)

    assert refused.value.field == field
    assert service.get("dana").content == COFFEE


def test_metadata_that_grows_too_large_is_refused_and_the_memory_stays(service):
    service.store(NewMemory(content=COFFEE, key="dana", metadata={"a": "x" * (BYTES_MAX - 100)}))

    with pytest.raises(InvalidInput, match="bytes of JSON"):
        service.update("dana", metadata={"b": "x" * 200})

    assert set(service.get("dana").metadata) == {"a"}


def test_concurrent_writers_lose_none_of_each_others_keys(service):
    service.store(NewMemory(content=COFFEE, key="dana"))

    def write(writer):
        for at in range(10):
            service.update("dana", metadata={f"{writer}-{at}": at})

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(8), timeout=60))

    assert set(service.get("dana").metadata) == {f"{writer}-{at}" for writer in range(8) for at in range(10)}


def test_a_store_between_reading_and_committing_makes_the_content_be_embedded_after_all(service, monkeypatch):
    """The update's content was there when it was prepared, so no vectors came with it; then it changed."""
    service.store(NewMemory(content=COFFEE, key="dana"))
    commit, raced = service._commit, []

    def racing(request):
        if not raced:
            raced.append(request)
            service.store(NewMemory(content="The kettle is broken.", key="dana"))
        return commit(request)

    monkeypatch.setattr(service, "_commit", racing)
    raced_store = service.update("dana", content=COFFEE)

    assert raced[0].embedded is None
    assert raced_store.status is StoreStatus.UPDATED
    [hit] = service.retrieve(Retrieval(query=COFFEE, k=1)).hits
    assert (hit.memory.content, hit.dense > 0.95) == (COFFEE, True)


def test_a_delete_that_another_worker_answered_is_seen(open_service, tmp_path):
    first, second = open_service(tmp_path / "memory"), open_service(tmp_path / "memory")
    first.store(NewMemory(content=COFFEE, key="dana"))
    second.get("dana", consistency=Consistency.STRONG)
    first.delete("dana")

    with pytest.raises(NotFound):
        second.update("dana", metadata={"lead": "acme"})


def test_an_update_survives_a_restart_and_its_repetition_is_answered_again(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    service.store(NewMemory(content=COFFEE, key="dana"))
    first = service.update("dana", metadata={"n": 1}, idempotency_key="once")
    service.update("dana", metadata={"n": 2})
    service.close()

    again = open_service(tmp_path / "memory")

    assert again.update("dana", metadata={"n": 1}, idempotency_key="once") == first
    assert again.get("dana").metadata == {"n": 2}
    with pytest.raises(Conflict):
        again.update("dana", metadata={"n": 3}, idempotency_key="once")


_values = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2)
_objects = st.dictionaries(st.text("abc", min_size=1, max_size=1), _values)


@given(_objects, _objects)
def test_merging_is_what_a_loop_over_the_keys_does(held, changes):
    expected = dict(held)
    for name, value in changes.items():
        if value is None:
            expected.pop(name, None)
        else:
            expected[name] = value

    assert merged(canonical(held), changes) == canonical(expected)


def test_a_page_ends_where_the_caller_has_no_more_room_and_the_next_one_goes_on(service):
    for at in range(7):
        service.store(NewMemory(content=f"{COFFEE} {at}", key=f"k{at}"))

    seen, cursor = [], None
    while True:
        page = service.list(limit=4, cursor=cursor, take=lambda memories: min(3, len(memories)))
        seen.append([memory.key for memory in page.memories])
        cursor = page.cursor
        if cursor is None:
            break

    assert seen == [["k6", "k5", "k4"], ["k3", "k2", "k1"], ["k0"]]
    assert service.list(namespace="empty", take=len).memories == ()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    memory = MemorySettings(data_dir=tmp_path_factory.mktemp("http") / "memory")
    worker = Worker(Settings(memory=memory, gateway=GatewaySettings(), llm=LLMSettings()))
    worker.load()
    with TestClient(create_app(worker), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("key", ["dana", "a/b", "ключ", "ends/history", "a%2Fb"])
def test_over_http_a_memory_is_patched_by_its_path(client, key):
    path = f"/v1/memories/{quote(key, safe='')}"
    client.post("/v1/memories", json={"content": COFFEE, "key": key, "namespace": "http", "metadata": {"a": 1, "b": 2}})

    patched = client.patch(path, params={"namespace": "http"}, json={"metadata": {"a": None, "c": 3}})

    assert (patched.status_code, patched.json()["status"], patched.json()["key"]) == (200, "updated", key)
    assert client.get(path, params={"namespace": "http"}).json()["metadata"] == {"b": 2, "c": 3}
    assert client.patch(path, json={"content": TEA}).status_code == 404  # of the default namespace


@pytest.mark.parametrize("body", [{}, {"content": 7}, {"namespace": "http"}, {"metadata": []}, []])
def test_over_http_a_wrong_patch_is_refused(client, body):
    client.post("/v1/memories", json={"content": COFFEE, "key": "wrong"})

    assert client.patch("/v1/memories/wrong", json=body).status_code == 422
