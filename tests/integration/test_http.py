"""The HTTP application over real services: what callers send, and what they get."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
BUDGET = "The first-year budget at Brightwater was raised to 62,000 euros."


def worker_over(data_dir, **llm) -> Worker:
    return Worker(
        Settings(
            memory=MemorySettings(data_dir=data_dir),
            gateway=GatewaySettings(request_bytes_max=200_000),
            llm=LLMSettings(**llm),
        )
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    worker = worker_over(tmp_path_factory.mktemp("http") / "memory", fallback="extractive")
    worker.load()
    assert worker.failure is None
    with TestClient(create_app(worker), raise_server_exceptions=False) as client:
        yield client


def ok(response):
    assert response.status_code == 200, response.text
    return response.json()


def error(response, status, code="invalid"):
    """The error of a refused request: its shape is the same everywhere."""
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert found["code"] == code
    assert found["request_id"] == response.headers["x-request-id"]
    assert found["message"].endswith((".", "?")), found["message"]
    assert "Traceback" not in response.text
    return found


def test_store_retrieve_get_and_delete_have_their_documented_shapes(client):
    stored = ok(
        client.post(
            "/v1/memories",
            json={"content": COFFEE, "key": "dana/coffee", "namespace": "shapes", "metadata": {"lead": "acme"}},
        )
    )
    assert set(stored) == {"key", "namespace", "status", "created_at", "updated_at"}
    assert (stored["key"], stored["status"]) == ("dana/coffee", "stored")

    found = ok(
        client.post(
            "/v1/memories/retrieve",
            json={"query": "what does Dana drink?", "namespace": "shapes", "filter": {"lead": "acme"}},
        )
    )
    assert (set(found), found["mode"]) == ({"memories", "mode", "latency_ms"}, "hybrid")
    [memory] = found["memories"]
    assert {"key", "content", "metadata", "score", "scores", "created_at", "updated_at"} <= set(memory)
    assert (memory["content"], memory["metadata"]) == (COFFEE, {"lead": "acme"})

    assert ok(client.get("/v1/memories/dana/coffee", params={"namespace": "shapes"}))["content"] == COFFEE
    deleted = ok(client.delete("/v1/memories/dana%2Fcoffee", params={"namespace": "shapes"}))
    assert deleted == {"key": "dana/coffee", "namespace": "shapes", "status": "deleted"}
    error(client.get("/v1/memories/dana/coffee", params={"namespace": "shapes"}), 404, "not_found")


def test_a_store_says_stored_then_unchanged_then_updated(client):
    bodies = [{"content": COFFEE, "key": "k", "namespace": "statuses"}] * 2 + [
        {"content": BUDGET, "key": "k", "namespace": "statuses"}
    ]
    assert [ok(client.post("/v1/memories", json=body))["status"] for body in bodies] == [
        "stored",
        "unchanged",
        "updated",
    ]


def test_a_missing_key_is_derived_so_that_a_retried_store_is_the_same_store(client):
    first, second = (
        ok(client.post("/v1/memories", json={"content": COFFEE, "namespace": "derived"})) for _ in range(2)
    )
    assert first["key"] == second["key"]
    assert second["status"] == "unchanged"


def test_an_idempotency_key_is_honoured_in_the_header(client):
    body = {"content": COFFEE, "key": "k", "namespace": "idempotent"}
    first = ok(client.post("/v1/memories", json=body, headers={"Idempotency-Key": "abc"}))
    ok(client.delete("/v1/memories/k", params={"namespace": "idempotent"}))
    assert ok(client.post("/v1/memories", json=body, headers={"Idempotency-Key": "abc"})) == first
    error(client.get("/v1/memories/k", params={"namespace": "idempotent"}), 404, "not_found")
    other = client.post("/v1/memories", json={**body, "content": BUDGET}, headers={"Idempotency-Key": "abc"})
    error(other, 409, "conflict")


def test_a_batch_gives_a_result_for_each_item_in_order(client):
    items = [
        {"content": COFFEE, "key": "a"},
        {"content": "", "key": "b"},
        {"content": BUDGET, "key": "c", "namespace": "batch-2"},
        "nonsense",
        {"content": 5, "key": "e"},
        {"content": COFFEE, "kee": "f"},
    ]
    outcome = ok(client.post("/v1/memories/batch", json={"memories": items, "namespace": "batch-1"}))
    assert [item["status"] for item in outcome["results"]] == [
        "stored",
        "refused",
        "stored",
        "refused",
        "refused",
        "refused",
    ]
    assert [item["namespace"] for item in outcome["results"][:3]] == ["batch-1", "batch-1", "batch-2"]
    assert [item["error"]["field"] for item in outcome["results"] if "error" in item and "field" in item["error"]] == [
        "content",
        "content",
        "kee",
    ]
    assert (outcome["stored"], outcome["refused"]) == (2, 4)


def test_a_batch_of_a_thousand_is_taken_and_one_more_is_not(client):
    items = [{"content": f"Row {at}."} for at in range(1_001)]
    assert (
        error(client.post("/v1/memories/batch", json={"memories": items, "namespace": "thousand"}), 422)["field"]
        == "memories"
    )
    assert (
        ok(client.post("/v1/memories/batch", json={"memories": items[:1_000], "namespace": "thousand"}))["stored"]
        == 1_000
    )
    assert error(client.post("/v1/memories/batch", json={"memories": []}), 422)["field"] == "memories"


def test_pages_go_through_everything_that_matches(client):
    items = [{"content": f"Page text {at}", "key": f"k{at}", "metadata": {"even": at % 2 == 0}} for at in range(11)]
    ok(client.post("/v1/memories/batch", json={"memories": items, "namespace": "pages"}))
    seen, cursor = [], None
    while True:
        params = {"namespace": "pages", "limit": 2, "filter": json.dumps({"even": True})} | (
            {"cursor": cursor} if cursor else {}
        )
        page = ok(client.get("/v1/memories", params=params))
        seen += [memory["key"] for memory in page["memories"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert sorted(seen) == ["k0", "k10", "k2", "k4", "k6", "k8"]


def test_bulk_delete_takes_keys_or_a_filter_and_can_be_rehearsed(client):
    items = [{"content": f"Bulk {at}", "key": f"k{at}", "metadata": {"at": at}} for at in range(6)]
    ok(client.post("/v1/memories/batch", json={"memories": items, "namespace": "bulk"}))

    def delete(**body):
        return client.post("/v1/memories/delete", json={"namespace": "bulk", **body})

    assert ok(delete(filter={"at": {"$gte": 4}}, dry_run=True))["deleted"] == 2
    assert ok(delete(filter={"at": {"$gte": 4}}))["keys"] == ["k4", "k5"]
    assert ok(delete(keys=["k0", "k4"])) == {
        "namespace": "bulk",
        "deleted": 1,
        "keys": ["k0"],
        "keys_truncated": False,
        "missing": ["k4"],
        "dry_run": False,
    }
    for wrong in ({}, {"keys": ["k1"], "filter": {"at": 1}}, {"filter": {}}, {"keys": []}, {"keys": [5]}):
        error(delete(**wrong), 422)
    assert len(ok(client.get("/v1/memories", params={"namespace": "bulk"}))["memories"]) == 3


@pytest.mark.parametrize(
    "key", ["a b", "a?b#c", "ключ/é", "%2F", "batch", "retrieve", "delete", "a//b", "/lead", "trail/", "🔑"]
)
def test_any_key_can_be_reached_by_its_path(client, key):
    ok(client.post("/v1/memories", json={"content": COFFEE, "key": key, "namespace": "paths"}))
    assert ok(client.get(f"/v1/memories/{quote(key, safe='')}", params={"namespace": "paths"}))["key"] == key
    assert ok(client.delete(f"/v1/memories/{quote(key, safe='')}", params={"namespace": "paths"}))["key"] == key


BAD_BODIES = {
    "no content": ({}, "content"),
    "empty content": ({"content": ""}, "content"),
    "blank content": ({"content": " \n "}, "content"),
    "long content": ({"content": "x" * 100_001}, "content"),
    "a number for content": ({"content": 5}, "content"),
    "null content": ({"content": None}, "content"),
    "an empty key": ({"content": "x", "key": ""}, "key"),
    "a long key": ({"content": "x", "key": "k" * 513}, "key"),
    "a number for a key": ({"content": "x", "key": 1}, "key"),
    "an empty namespace": ({"content": "x", "namespace": ""}, "namespace"),
    "a list for metadata": ({"content": "x", "metadata": [1]}, "metadata"),
    "large metadata": ({"content": "x", "metadata": {"a": "y" * 20_000}}, "metadata"),
    "a large integer": ({"content": "x", "metadata": {"a": 2**64}}, "metadata.a"),
    "text for a lifetime": ({"content": "x", "ttl_seconds": "60"}, "ttl_seconds"),
    "a fraction for a lifetime": ({"content": "x", "ttl_seconds": 1.5}, "ttl_seconds"),
    "a negative lifetime": ({"content": "x", "ttl_seconds": -1}, "ttl_seconds"),
    "true for a lifetime": ({"content": "x", "ttl_seconds": True}, "ttl_seconds"),
    "an unknown field": ({"content": "x", "contnet": "y"}, "contnet"),
}


@pytest.mark.parametrize(("body", "field"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_store_is_a_422_that_names_the_field(client, body, field):
    assert error(client.post("/v1/memories", json=body), 422)["field"] == field


def test_an_answer_explains_itself_and_a_batch_gives_one_for_each_query(client):
    where = {"namespace": "explained"}
    for at, content in enumerate((COFFEE, COFFEE + " ", BUDGET)):
        ok(client.post("/v1/memories", json={"content": content, "key": f"k{at}", "metadata": {"n": at}, **where}))
    asked = {"query": "what does Dana drink?", "filter": {"n": {"$lt": 2}}, "explain": True, "why_not": "k2", **where}
    found = ok(client.post("/v1/memories/retrieve", json=asked))
    told = found["explanation"]
    assert (told["memories"], told["candidates"]) == (3, 2)
    assert told["filter"] == {"condition": '{"n":{"$lt":2}}', "matches": 2}
    assert [each.pop("key") for each in told["signals"]] == [memory["key"] for memory in found["memories"]]
    assert told["why_not"]["reason"] == "filter"
    assert "explanation" not in ok(client.post("/v1/memories/retrieve", json={"query": "x", **where}))

    queries = [asked, {"like": "k0", "k": 1, "max_tokens": 1_000, **where}]
    results = ok(client.post("/v1/memories/retrieve/batch", json={"queries": queries}))["results"]
    assert results[0]["memories"] == found["memories"]
    assert ([memory["key"] for memory in results[1]["memories"]], results[1]["truncated"]) == (["k1"], False)
    wrong = {"queries": [{"query": "x"}, {"query": "x", "filter": {"a": {"$near": 1}}}]}
    refused = error(client.post("/v1/memories/retrieve/batch", json=wrong), 422)
    assert refused["field"] == "queries[1].filter.a.$near"
    refused = error(client.post("/v1/memories/retrieve/batch", json={"queries": [{"query": "x"}] * 101}), 422)
    assert refused["field"] == "queries"
    wrong = {"like": "nobody", **where}
    refused = error(client.post("/v1/memories/retrieve", json=wrong), 404, "not_found")
    assert refused["field"] == "like"
    refused = error(
        client.post("/v1/memories/retrieve/batch", json={"queries": [{"query": "x"}, wrong]}), 404, "not_found"
    )
    assert refused["field"] == "queries[1].like"

    report = ok(client.post("/v1/memories/duplicates", json=where))
    [pair] = report["duplicates"]
    assert (pair["key"], [other["key"] for other in pair["alike"]]) == ("k1", ["k0"])
    assert (report["examined"], report["next_cursor"]) == (3, None)
    assert error(client.post("/v1/memories/duplicates", json={"threshold": 2}), 422)["field"] == "threshold"


BAD_RETRIEVES = {
    "no query": ({}, "query"),
    "an empty query": ({"query": ""}, "query"),
    "a long query": ({"query": "x" * 10_001}, "query"),
    "k of 0": ({"query": "x", "k": 0}, "k"),
    "k of 1,001": ({"query": "x", "k": 1_001}, "k"),
    "text for k": ({"query": "x", "k": "5"}, "k"),
    "false for k": ({"query": "x", "k": False}, "k"),
    "a score of 2": ({"query": "x", "min_score": 2}, "min_score"),
    "an unknown operator": ({"query": "x", "filter": {"a": {"$regex": "y"}}}, "filter.a.$regex"),
    "a list for a filter": ({"query": "x", "filter": []}, "filter"),
    "an unknown field": ({"query": "x", "top_k": 5}, "top_k"),
}


@pytest.mark.parametrize(("body", "field"), BAD_RETRIEVES.values(), ids=BAD_RETRIEVES)
def test_a_bad_retrieve_is_a_422_that_names_the_field(client, body, field):
    assert error(client.post("/v1/memories/retrieve", json=body), 422)["field"] == field


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"content": "x"', 400),
        (b"", 422),
        (b'{"content": "\xff\xfe"}', 400),
        (b'"text"', 422),
        (b"[1]", 422),
        (b"null", 422),
        (b'{"content": "x", "metadata": {"a": NaN}}', 422),
        (b'{"content": "x", "metadata": {"a": 1e999}}', 422),
        (b'{"content": "\\ud800"}', 422),
        (b'{"content": "x", "metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", (400, 422)),
        (b'{"content": "x", "metadata": {"a": ' + b"1" * 5_000 + b"}}", (400, 422)),
    ],
)
def test_a_body_that_is_no_sound_json_is_refused(client, raw, status):
    response = client.post("/v1/memories", content=raw, headers={"Content-Type": "application/json"})
    expected = status if isinstance(status, tuple) else (status,)
    assert response.status_code in expected, response.text
    error(response, response.status_code)


def test_a_body_over_the_limit_is_a_413_whether_its_length_is_declared_or_not(client):
    large = json.dumps({"content": "x" * 300_000}).encode()
    assert "200000 bytes" in error(client.post("/v1/memories", content=large), 413, "limit_exceeded")["message"]
    chunks = (large[at : at + 10_000] for at in range(0, len(large), 10_000))
    error(
        client.post("/v1/memories", content=chunks, headers={"Content-Type": "application/json"}), 413, "limit_exceeded"
    )


def test_unknown_routes_methods_and_query_fields_are_refused_in_the_same_shape(client):
    error(client.get("/v2/memories"), 404, "not_found")
    error(client.put("/v1/memories", json={}), 405)
    assert client.put("/v1/memories", json={}).headers["allow"] == "GET, POST"
    assert client.put("/v1/memories/some/key").headers["allow"] == "DELETE, GET, PATCH"
    assert client.put("/v1/documents/some/guide").headers["allow"] == "DELETE, GET"
    assert error(client.get("/v1/memories", params={"namspace": "x"}), 422)["field"] == "namspace"
    assert error(client.get("/v1/memories", params={"filter": "{"}), 422)["field"] == "filter"
    assert error(client.get("/v1/memories", params={"limit": "many"}), 422)["field"] == "limit"
    assert error(client.get("/v1/memories/%ff%fe"), 422)["field"] == "key"


def test_nothing_of_all_that_was_refused_is_stored(client):
    assert ok(client.get("/v1/memories"))["memories"] == []


def test_the_request_id_is_the_callers_when_it_is_sane(client):
    assert client.get("/ping", headers={"X-Request-ID": "job-17.a_b"}).headers["x-request-id"] == "job-17.a_b"
    assert client.get("/ping", headers={"X-Request-ID": "a b\t" + "c" * 500}).headers["x-request-id"] != "a b"


def test_health_routes_tell_what_they_are_asked(client):
    assert ok(client.get("/"))["service"] == "vector-memory"
    assert "POST /v1/memories/retrieve" in ok(client.get("/"))["endpoints"]
    ping = ok(client.get("/ping"))
    assert set(ping) == {"status", "service", "timestamp", "vllm_configured"}
    assert ping["vllm_configured"] is False
    assert ok(client.get("/health"))["memories"] > 0
    assert ok(client.get("/health/live"))["status"] == "alive"
    assert ok(client.get("/health/ready")) == {"status": "ready", "reads": True, "writes": True, "problems": []}


def test_the_docs_page_fetches_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/docs/assets/{asset}").status_code == 200
    assert "/v1/memories/retrieve" in ok(client.get("/openapi.json"))["paths"]


def test_research_quotes_with_citations_when_no_model_is_configured(client):
    ok(client.post("/v1/memories", json={"content": COFFEE, "key": "coffee", "namespace": "research"}))
    answer = ok(client.post("/v1/research", json={"query": "What does Dana drink?", "namespace": "research"}))
    assert {"result", "model", "tokens_used", "latency_ms", "timestamp", "citations", "context"} <= set(answer)
    assert answer["model"] == "extractive"
    assert [(citation["n"], citation["key"]) for citation in answer["citations"]] == [(1, "coffee")]
    assert COFFEE.rstrip(".") in answer["result"]


def test_research_can_return_the_context_alone(client):
    ok(client.post("/v1/memories", json={"content": COFFEE, "key": "coffee", "namespace": "context"}))
    answer = ok(
        client.post(
            "/v1/research", json={"query": "What does Dana drink?", "namespace": "context", "context_only": True}
        )
    )
    assert answer["context"][0]["key"] == "coffee"
    assert answer["prompt"][-1]["content"].count("Dana Whitfield") == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "x" * 5_001}, "query"),
        ({"query": "x", "max_tokens": 99}, "max_tokens"),
        ({"query": "x", "max_tokens": 4_001}, "max_tokens"),
        ({"query": "x", "temperature": 2.1}, "temperature"),
        ({"query": "x", "temperature": -0.1}, "temperature"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "filter": {"a": {"$no": 1}}}, "filter.a.$no"),
        ({"query": "x", "model": "gpt"}, "model"),
    ],
)
def test_a_bad_research_request_is_a_422_that_names_the_field(client, body, field):
    assert error(client.post("/v1/research", json=body), 422)["field"] == field


def test_research_without_a_model_says_what_to_set(tmp_path):
    worker = worker_over(tmp_path / "memory")
    worker.load()
    with TestClient(create_app(worker)) as client:
        found = error(client.post("/v1/research", json={"query": "anything"}), 500, "llm_not_configured")
    assert "LLM_BASE_URL" in found["message"]


def test_while_loading_probes_are_answered_and_requests_are_told_to_come_back(tmp_path):
    worker = worker_over(tmp_path / "memory")
    with TestClient(create_app(worker)) as client:
        assert client.get("/ping").status_code == 204
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        response = client.post("/v1/memories/retrieve", json={"query": "x"})
        error(response, 503, "unavailable")
        assert response.headers["retry-after"]
        worker.load()
        assert client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/memories", b"application/json"), ("/v1/documents", b"multipart/form-data; boundary=x")],
)
async def test_a_client_that_leaves_amid_its_body_is_no_crash(client, caplog, path, kind):
    async def gone():
        return {"type": "http.disconnect"}

    sent = []

    async def keep(message):
        sent.append(message)

    headers = [(b"content-type", kind), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await client.app({**scope, "http_version": "1.1", "scheme": "http", "server": ("test", 80)}, gone, keep)
    assert sent[0]["status"] == 400
    assert not any(record.exc_info for record in caplog.records)


def test_a_crash_inside_is_a_plain_500_and_a_traceback_in_the_log(tmp_path, caplog):
    """The service is closed under the application's feet, which no table of errors foresees."""
    worker = worker_over(tmp_path / "memory")
    worker.load()
    worker.memories._catalog._writer.close()
    with TestClient(create_app(worker), raise_server_exceptions=False) as client:
        worker.memories._catalog._idle.clear()
        worker.memories._catalog.folder = tmp_path / "nowhere"
        error(client.get("/v1/memories"), 500, "internal")
    assert any(record.exc_info for record in caplog.records)


def test_history_and_as_of_over_http(client):
    body = {"key": "price", "namespace": "back", "metadata": {"by": "ann"}}
    first = ok(client.post("/v1/memories", json={"content": "The price is 10.", **body}))["updated_at"]
    ok(client.post("/v1/memories", json={"content": "The price is 12.", **body}))
    where = {"namespace": "back"}
    found = ok(client.get("/v1/memories/price/history", params=where))
    assert (found["key"], found["namespace"]) == ("price", "back")
    assert [(event["event"], event["content"]) for event in found["events"]] == [
        ("updated", "The price is 12."),
        ("stored", "The price is 10."),
    ]
    assert found["events"][1]["at"] == first
    assert ok(client.get("/v1/memories/price", params=where | {"as_of": first}))["content"] == "The price is 10."
    listed = ok(client.get("/v1/memories", params=where | {"as_of": first}))
    assert [memory["content"] for memory in listed["memories"]] == ["The price is 10."]
    asked = {"query": "price", "as_of": first, **where}
    assert [hit["content"] for hit in ok(client.post("/v1/memories/retrieve", json=asked))["memories"]] == [
        "The price is 10."
    ]
    wrong = error(client.get("/v1/memories/price", params=where | {"as_of": "soon"}), 422)
    assert wrong["field"] == "as_of"
    error(client.get("/v1/memories/nothing/history", params=where), 404, "not_found")


def test_a_key_that_ends_in_history_is_reached_with_its_slash_encoded(client):
    for key in ("talks/history", "history"):
        ok(client.post("/v1/memories", json={"content": f"About {key}.", "key": key, "namespace": "slash"}))
        where = {"namespace": "slash"}
        path = f"/v1/memories/{quote(key, safe='')}"
        assert ok(client.get(path, params=where))["content"] == f"About {key}."
        assert ok(client.get(f"{path}/history", params=where))["events"][0]["content"] == f"About {key}."
        ok(client.delete(path, params=where))


def test_a_delete_returns_a_receipt_when_one_is_wanted(client):
    where = {"namespace": "receipts"}
    for key in ("a", "b", "c"):
        ok(client.post("/v1/memories", json={"content": f"About {key}.", "key": key, **where}))
    assert "receipt" not in ok(client.delete("/v1/memories/a", params=where))
    one = ok(client.delete("/v1/memories/b", params=where | {"receipt": "true"}))["receipt"]
    many = ok(client.post("/v1/memories/delete", json={"keys": ["c"], "receipt": True, **where}))["receipt"]
    none = ok(client.post("/v1/memories/delete", json={"keys": ["c"], "receipt": True, **where}))
    assert "receipt" not in none
    for receipt in (one, many):
        assert (receipt["bytes"], len(receipt["files"]) > 0) == ("pending", True)
        assert ok(client.get(f"/v1/receipts/{receipt['id']}")) == receipt
    ok(client.post("/v1/admin/compact"))
    gone = ok(client.get(f"/v1/receipts/{many['id']}"))
    assert (gone["bytes"], gone["files"]) == ("gone", [])
    assert error(client.get("/v1/receipts/nonsense"), 422)["field"] == "receipt"


def test_a_query_that_nothing_answers_is_told_apart_when_relevance_is_asked_for(client):
    where = {"namespace": "relevance"}
    for at, content in enumerate(
        (COFFEE, BUDGET, "The spare key of the cabinet is with Jonas.", "Gate 4 opens at six.")
    ):
        ok(client.post("/v1/memories", json={"content": content, "key": f"k{at}", **where}))
    asked = {"min_relevance": 0.3, **where}
    found = ok(client.post("/v1/memories/retrieve", json={"query": "When does gate 4 open?", **asked}))
    assert [hit["key"] for hit in found["memories"]] == ["k3"]
    assert (found["abstained"], found["nearest"]) == (False, [])
    assert 0.3 <= found["memories"][0]["relevance"] <= 1
    none = ok(client.post("/v1/memories/retrieve", json={"query": "How do volcanoes form?", **asked}))
    assert (none["memories"], none["abstained"], len(none["nearest"])) == ([], True, 3)
    for wrong in ({"min_relevance": 1.5}, {"min_relevance": 0.3, "mode": "dense"}):
        refused = error(client.post("/v1/memories/retrieve", json={"query": "gate", **where, **wrong}), 422)
        assert refused["field"] == "min_relevance"


def test_a_retrieve_says_its_mode_and_what_each_score_is_made_of(client):
    for at, text in enumerate([COFFEE, BUDGET, "Ticket INV-2231-B is settled."]):
        ok(client.post("/v1/memories", json={"content": text, "key": f"k{at}", "namespace": "modes"}))

    def found(**rest):
        return ok(client.post("/v1/memories/retrieve", json={"query": "INV-2231-B", "namespace": "modes", **rest}))

    parts = {"dense": {"dense"}, "lexical": {"lexical"}, "hybrid": {"dense", "lexical"}}
    for mode, names in parts.items():
        answer = found(mode=mode)
        assert answer["mode"] == mode
        for memory in answer["memories"]:
            assert {name for name, value in memory["scores"].items() if value is not None} == names
            if mode != "hybrid":
                assert memory["scores"][mode] == memory["score"]
    assert found()["memories"] == found(mode="hybrid")["memories"]
    assert found()["memories"][0]["key"] == found(mode="lexical")["memories"][0]["key"] == "k2"

    body = {"query": "x", "namespace": "modes"}
    refused = client.post("/v1/memories/retrieve", json={**body, "mode": "magic"})
    assert error(refused, 422)["field"] == "mode"
    past = {**body, "mode": "lexical", "as_of": "2020-01-01T00:00:00Z"}
    error(client.post("/v1/memories/retrieve", json=past), 422)


@pytest.mark.parametrize("key", ["a\nb", "\na", "a\n", "\n", "a\r\nb"])
def test_a_key_of_several_lines_is_reached_like_any_other(client, key):
    """No route once took a key with a line end in it, so such a memory could be stored and never read or deleted."""
    path = f"/v1/memories/{quote(key, safe='')}"
    assert client.post("/v1/memories", json={"content": "Lines.", "key": key}).status_code == 200
    assert client.get(path).json()["key"] == key
    assert client.patch(path, json={"metadata": {"n": 1}}).json()["key"] == key
    assert client.get(f"{path}/history").json()["key"] == key
    assert client.delete(path).json()["key"] == key


def test_what_is_refused_of_a_request_is_told_even_where_it_is_no_text(client):
    """Half of a surrogate pair that an answer quoted once failed the whole answer."""
    body = (
        '{"memories": [{"content": "Good.", "key": "good"}, {"content": "Bad.", "key": "\\ud800", "namespace": "n"}]}'
    )
    answer = client.post("/v1/memories/batch", content=body, headers={"content-type": "application/json"})
    assert [result["status"] for result in answer.json()["results"]] == ["stored", "refused"]
    assert answer.json()["results"][1]["key"] is None
    body = '{"query": "x", "filter": {"\\ud800": 1}}'
    answer = client.post("/v1/memories/retrieve", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
