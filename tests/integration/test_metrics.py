"""What a scraper reads: totals by route and outcome, and no word of a caller."""

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from tests.integration.test_response_cache import serving, settings, store
from tests.stand_in_llm import StandInLLM, answering, in_turn, replying, stream_of, streaming

QUESTION = {"query": "What does Dana drink?", "min_relevance": 0}


def scraped(client):
    """Values by the series' name and labels."""
    response = client.get("/metrics")
    assert response.is_success
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_method_route_and_status(tmp_path):
    with serving(tmp_path / "memory") as client:
        store(client, "Dana drinks tea.", "tea/night")
        client.get("/v1/memories/tea%2Fnight")
        client.get("/v1/memories/nothing")
        for path in ("/admin.php", "/v2/secret"):
            assert client.request("PROPFIND", path).status_code == 404
        found = scraped(client)
        text = client.get("/metrics").text

    assert found["memory_operations_total", "http", "ok", "store"] == 1
    assert found["memory_operations_total", "get", "http", "not_found"] == 1
    assert found["memory_requests_total", "/v1/memories", "200", "POST"] == 1
    assert found["memory_requests_total", "/v1/memories/{key:path}", "200", "GET"] == 1
    assert found["memory_requests_total", "/v1/memories/{key:path}", "404", "GET"] == 1
    assert found["memory_requests_total", "404", "none", "none"] == 2
    assert found["memory_request_seconds_count", "/v1/memories", "POST"] == 1
    assert (found["memory_memories",], found["memory_namespaces",]) == (1, 1)
    assert not [word for word in ("tea", "night", "admin.php", "secret", "PROPFIND", "default") if word in text]


def test_lookups_in_the_cache_are_hits_or_misses(tmp_path):
    with serving(tmp_path / "memory") as client:
        store(client, "Dana drinks tea.", "tea")
        for headers in ({}, {}, {}, {"Cache-Control": "no-cache"}):
            client.post("/v1/memories/retrieve", json={"query": "tea"}, headers=headers)
        found = scraped(client)

    assert found["memory_cache_lookups_total", "miss", "retrieve"] == 1
    assert found["memory_cache_lookups_total", "hit", "retrieve"] == 2


def test_research_is_counted_with_its_tokens_and_cost(tmp_path):
    down = replying("", status=503)
    script = in_turn(answering("Tea [1]."), down, down, streaming(*stream_of("Tea [1].")))
    with (
        StandInLLM(script) as llm,
        serving(tmp_path / "memory", llm={"base_url": llm.base_url, "input_price": 10_000.0}) as client,
    ):
        store(client, "Dana drinks tea.", "tea")
        for rest in (
            {},
            {"query": "Tea?"},
            {"query": "Tea?", "on_llm_error": "context"},
            {"stream": True},
            {"namespace": "empty"},
            {"context_only": True},
        ):
            client.post("/v1/research", json={**QUESTION, **rest})
        found = scraped(client)

    outcomes = {name[1]: value for name, value in found.items() if name[0] == "research_answers_total"}
    assert outcomes == {"generated": 2, "degraded": 1, "abstained": 1, "context_only": 1}
    assert found["research_llm_failures_total", "upstream"] == 2
    assert found["research_tokens_total", "primary", "prompt"] == 200
    assert found["research_tokens_total", "completion", "primary"] == 40
    assert found["research_cost_total", "primary"] == pytest.approx(2.0)


def test_a_worker_that_loads_is_scraped_too(tmp_path):
    with TestClient(create_app(Worker(settings(tmp_path / "memory")))) as client:
        assert client.get("/v1/memories").status_code == 503
        found = scraped(client)

    assert found["memory_requests_total", "/v1/memories", "503", "GET"] == 1


def test_workers_in_one_process_count_for_themselves(tmp_path):
    with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        store(one, "Dana drinks tea.", "tea")
        assert (scraped(one)["memory_memories",], scraped(two)["memory_memories",]) == (1, 0)
