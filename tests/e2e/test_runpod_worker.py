"""`handler.py` under RunPod's real worker loop, in a process of its own, against a stand-in of the platform."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from memory_service.service import MemoryService
from tests.stand_in_llm import StandInLLM, answering, chunk, dripping, in_turn, stream_of, streaming
from tests.stand_in_platform import EXIT_S_MAX, HANDLER, QueueWorker, StandInPlatform
from tests.worker_process import READY_S_MAX, environment, free_port

TOGETHER = 8
SECRET = "Mimsy were the borogoves"
Opener = Callable[[Path], MemoryService]


@dataclass(frozen=True, slots=True)
class Running:
    platform: StandInPlatform
    worker: QueueWorker


async def _answer_all_at_once(writer: asyncio.StreamWriter, arrived: list[asyncio.Event]) -> None:
    arrived.append(asyncio.Event())
    if len(arrived) == TOGETHER:
        for event in arrived:
            event.set()
    await arrived[-1].wait()
    await answering("Oat milk [1].")(writer)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker for the tests that leave it running; its LLM answers when eight questions are there together."""
    arrived: list[asyncio.Event] = []
    folder = tmp_path_factory.mktemp("worker")
    with (
        StandInLLM(lambda writer: _answer_all_at_once(writer, arrived)) as llm,
        StandInPlatform() as platform,
        QueueWorker(platform, folder, LLM_BASE_URL=llm.base_url) as worker,
    ):
        yield Running(platform, worker)


def store(content: str, **fields: Any) -> dict[str, Any]:
    return {"action": "store", "content": content, **fields}


# -- what jobs may ask ---------------------------------------------------------------------------------------------


def test_every_action_answers_with_the_body_of_its_route(running: Running) -> None:
    def run(action: str, **fields: Any) -> Any:
        return running.platform.run({"action": action, "namespace": "all", **fields}).output

    stored = run("store", content="Dana drinks oat flat white.", key="dana", metadata={"lead": "acme"})
    batch = run("store_batch", memories=[{"content": "Oslo opens in May.", "key": "oslo"}, {"content": ""}])
    hits = run("retrieve", query="what does Dana drink?", k=1)
    one = run("get", key="dana")
    page = run("list", filter={"lead": "acme"}, limit=10, cursor=None)
    answer = run("research", query="What does Dana drink?", context_only=True)
    health = running.platform.run({"action": "health"}).output
    ping = running.platform.run({"action": "ping"}).output
    gone = run("delete", key="dana")
    gone_by_keys = run("delete", keys=["oslo", "nobody"])
    gone_by_filter = run("delete_many", filter={"lead": "acme"}, dry_run=True)

    assert (stored["key"], stored["status"]) == ("dana", "stored")
    assert [item["status"] for item in batch["results"]] == ["stored", "refused"]
    assert [hit["key"] for hit in hits["memories"]] == ["dana"]
    assert one["content"] == "Dana drinks oat flat white."
    assert [memory["key"] for memory in page["memories"]] == ["dana"]
    assert [passage["key"] for passage in answer["context"]][:1] == ["dana"]
    assert health["status"] == ping["status"] == "healthy"
    assert gone == {"key": "dana", "namespace": "all", "status": "deleted"}
    assert (gone_by_keys["keys"], gone_by_keys["missing"]) == (["oslo"], ["nobody"])
    assert gone_by_filter["deleted"] == 0


def test_a_job_may_name_a_route_with_query_body_and_headers(running: Running) -> None:
    route = {
        "method": "POST",
        "path": "/v1/memories",
        "body": {"content": "Rye grows in Öland.", "namespace": "routes"},
    }

    first = running.platform.run({**route, "headers": {"Idempotency-Key": "once"}}).output
    again = running.platform.run({**route, "headers": {"Idempotency-Key": "once"}}).output
    page = running.platform.run({"method": "get", "path": "/v1/memories", "query": {"namespace": "routes", "limit": 1}})

    assert first == again
    assert [memory["content"] for memory in page.output["memories"]] == ["Rye grows in Öland."]


def test_jobs_run_side_by_side(running: Running) -> None:
    """The LLM answers none of the eight before it has been asked all eight questions."""
    running.platform.run(store("Dana drinks oat milk.", namespace="together"))

    question = {"action": "research", "query": "What does Dana drink?", "namespace": "together"}
    jobs = [running.platform.submit(question) for _ in range(TOGETHER)]

    assert [running.platform.result(job).output["result"] for job in jobs] == ["Oat milk [1]."] * TOGETHER


@pytest.mark.parametrize(
    ("input", "code", "said"),
    [
        ({"action": "remember", "content": "x"}, "invalid", "store, store_batch, retrieve"),
        ({"action": "store"}, "invalid", "content is required"),
        ({"action": "store", "content": "x", "tags": []}, "invalid", "tags"),
        ({"action": "store", "content": "half \ud800"}, "invalid", "content"),
        ({"action": "get", "key": "nobody"}, "not_found", "nobody"),
        ({"action": "get", "key": "half \ud800"}, "invalid", "key"),
        ({"action": "retrieve", "query": "x", "min_score": float("nan")}, "invalid", "NaN"),
        ({"method": "POST", "path": "/v1/memory"}, "not_found", "/v1/memory"),
        ({"method": "GET", "path": "/docs"}, "invalid", "JSON"),
        ({"openai_route": "/v1/chats", "openai_input": {}}, "not_found", "/v1/chats"),
        ({"prompt": "hello"}, "invalid", "action"),
        (["store"], "invalid", "object"),
    ],
)
def test_a_failure_is_one_text_of_json_that_says_what_is_wrong(
    running: Running, input: object, code: str, said: str
) -> None:
    job_id = running.platform.submit(input)
    posted = running.platform.result(job_id).posted
    error = running.platform.result(job_id).error

    assert error["code"] == code
    assert said in error["message"]
    assert error["status"] == {"invalid": 422, "not_found": 404}[code]
    assert error["request_id"] == job_id
    assert "Traceback" not in json.dumps(posted)


def test_a_job_delivered_twice_is_executed_once(running: Running) -> None:
    platform = running.platform
    stores = store("Ada prefers trains.", namespace="twice", key="ada")
    deletes = {"action": "delete", "namespace": "twice", "key": "ada"}

    store_id = platform.submit(stores)
    stored = platform.result(store_id).output
    delete_id = platform.submit(deletes)
    deleted = platform.result(delete_id).output
    platform.submit(stores, job_id=store_id)
    platform.submit(deletes, job_id=delete_id)

    assert platform.result(store_id, delivery=2).output == stored
    assert platform.result(delete_id, delivery=2).output == deleted
    assert platform.run({"action": "list", "namespace": "twice"}).output["memories"] == []


def test_no_text_of_a_memory_or_a_question_reaches_the_log(running: Running) -> None:
    platform = running.platform
    platform.run(store(SECRET, namespace="quiet", key=SECRET, metadata={"said": SECRET}))

    platform.run({"action": "retrieve", "namespace": "quiet", "query": SECRET})
    platform.run({"action": "get", "namespace": "quiet", "key": SECRET})
    job_id = platform.submit({"action": "get", "namespace": "quiet", "key": f"not {SECRET}"})

    assert platform.result(job_id).error["code"] == "not_found"
    log = running.worker.log.read_text()
    assert job_id in log
    assert SECRET not in log


# -- starting and stopping -----------------------------------------------------------------------------------------


def test_an_idle_worker_ends_cleanly_and_has_kept_what_it_answered(tmp_path: Path, open_service: Opener) -> None:
    with StandInPlatform() as platform, QueueWorker(platform, tmp_path) as worker:
        platform.run(store("Bo sails on Sundays.", key="bo"))

        assert worker.terminate() == 0
        assert "Traceback" not in worker.log.read_text()
        with pytest.raises(ProcessLookupError):  # neither it nor the SDK's heartbeat is left
            os.killpg(worker.process.pid, 0)
    assert open_service(tmp_path / "memory").get("bo").content == "Bo sails on Sundays."


def test_a_busy_worker_answers_what_it_has_begun_before_it_ends(tmp_path: Path, open_service: Opener) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    async def answer_when_told(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.to_thread(may_answer.wait, EXIT_S_MAX)
        await answering("Sundays [1].")(writer)

    with (
        StandInLLM(answer_when_told) as llm,
        StandInPlatform() as platform,
        QueueWorker(platform, tmp_path, LLM_BASE_URL=llm.base_url) as worker,
    ):
        platform.run(store("Bo sails on Sundays.", key="bo"))
        job_id = platform.submit({"action": "research", "query": "When does Bo sail?"})
        assert asked.wait(EXIT_S_MAX)

        worker.process.terminate()
        may_answer.set()

        assert platform.result(job_id).output["result"] == "Sundays [1]."
        assert worker.process.wait(EXIT_S_MAX) == 0
        assert "Traceback" not in worker.log.read_text()
    assert open_service(tmp_path / "memory").get("bo").content == "Bo sails on Sundays."


def test_a_killed_worker_has_kept_what_it_answered_and_knows_a_delivery_again(tmp_path: Path) -> None:
    with StandInPlatform() as platform:
        with QueueWorker(platform, tmp_path) as killed:
            jobs = {
                platform.submit(store(f"Note {n}.", key=f"n{n}")): store(f"Note {n}.", key=f"n{n}") for n in range(20)
            }
            answers = {job_id: platform.result(job_id).output for job_id in jobs}
            killed.kill()

        with QueueWorker(platform, tmp_path):
            for job_id, input in jobs.items():
                platform.submit(input, job_id=job_id)

            assert {job_id: platform.result(job_id, delivery=2).output for job_id in jobs} == answers
            assert len(platform.run({"action": "list"}).output["memories"]) == len(jobs)


def test_a_cancelled_job_leaves_the_worker_to_the_others(tmp_path: Path) -> None:
    asked = threading.Event()

    async def answer_without_end(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await dripping(" " * 100_000, pause_s=0.02)(writer)

    with (
        StandInLLM(answer_without_end) as llm,
        StandInPlatform() as platform,
        QueueWorker(platform, tmp_path, LLM_BASE_URL=llm.base_url),
    ):
        platform.run(store("Bo sails on Sundays."))
        job_id = platform.submit({"action": "research", "query": "When does Bo sail?"})
        assert asked.wait(EXIT_S_MAX)

        platform.cancel(job_id)

        assert llm.left.wait(EXIT_S_MAX)
        assert platform.run({"action": "ping"}).output["status"] == "healthy"
        assert not platform.has_result(job_id)


def test_a_worker_that_cannot_start_says_why_in_one_line_and_takes_no_job(tmp_path: Path) -> None:
    with StandInPlatform() as platform:
        job_id = platform.submit({"action": "ping"})
        worker = QueueWorker(platform, tmp_path, MEMORY_DATA_DIR=str(tmp_path / "volume" / "memory"))

        assert worker.process.wait(EXIT_S_MAX) == 1
        lines = worker.log.read_text().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("vector-memory: ")
        assert "is the volume mounted?" in lines[0]
        assert [job["id"] for job in platform.take(1)] == [job_id]


# -- OpenAI's clients ----------------------------------------------------------------------------------------------


def test_openais_client_is_answered_through_jobs_and_told_that_they_do_not_stream(running: Running) -> None:
    client = openai.OpenAI(base_url=running.platform.openai_url, api_key="key", max_retries=0, timeout=60)
    embedded = client.embeddings.create(model="all-MiniLM-L6-v2", input="oat milk")

    assert len(embedded.data[0].embedding) == 384
    assert [model.owned_by for model in client.models.list()] == ["llm", "vector-memory"]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="research:all", messages=[], stream=True)
    streamed = {"openai_route": "/v1/chat/completions", "openai_input": {"messages": [], "stream": True}}
    assert "MEMORY_JOB_STREAMING" in running.platform.run(streamed).error["message"]


def test_a_worker_whose_jobs_stream_answers_openais_client_as_it_writes(tmp_path: Path) -> None:
    text = "Bo sails on Sundays [1]."
    scripts = in_turn(streaming(*stream_of(text[:5], text[5:])), answering(text), streaming(chunk("Bo"), cut=True))
    with (
        StandInLLM(scripts) as llm,
        StandInPlatform() as platform,
        QueueWorker(platform, tmp_path, LLM_BASE_URL=llm.base_url, MEMORY_JOB_STREAMING="true") as worker,
    ):
        [stored] = platform.run(store("Bo sails on Sundays.", key="bo")).output
        client = openai.OpenAI(base_url=platform.openai_url, api_key="key", max_retries=0, timeout=60)
        question: Any = {"model": "research:default", "messages": [{"role": "user", "content": "When does Bo sail?"}]}
        chunks = list(client.chat.completions.create(**question, stream=True))
        whole: Any = client.chat.completions.create(**question)
        with pytest.raises(openai.APIError, match="broke"):
            list(client.chat.completions.create(**question, stream=True))
        missing = platform.run({"action": "get", "key": "nobody"}).error

        assert worker.terminate() == 0

    assert stored["status"] == "stored"
    deltas = [one.choices[0].delta for one in chunks if one.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content == text
    assert whole.choices[0].message.annotations[0].url_citation.url == "memory://default/bo"
    assert sum("annotations" in (delta.model_extra or {}) for delta in deltas) == 1
    assert missing["code"] == "not_found"


# -- without a platform --------------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HANDLER), *arguments],
        cwd=folder,
        env=environment(MEMORY_EPHEMERAL="true", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_answered(http: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            response = http.request(method, path, **request)
            if response.status_code == 200:
                return response
        time.sleep(0.02)  # polling another process
    raise AssertionError(f"no answer within {READY_S_MAX} s")


def test_a_job_on_the_command_line_is_run_and_ends_the_process(tmp_path: Path) -> None:
    process = start(tmp_path, "--test_input", json.dumps({"input": {"action": "health"}}))

    output, errors = process.communicate(timeout=EXIT_S_MAX)

    assert process.returncode == 0
    assert "completed successfully" in output
    assert "Traceback" not in output + errors


def test_the_sdks_local_api_runs_jobs(tmp_path: Path) -> None:
    port = free_port()
    process = start(tmp_path, "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        answer = until_answered(http, "POST", "/runsync", json={"input": store("Bo sails.", key="bo")}).json()
        failure = http.post("/runsync", json={"input": {"action": "get", "key": "nobody"}}).json()

    process.terminate()
    process.communicate(timeout=EXIT_S_MAX)
    assert (answer["status"], answer["output"]["status"]) == ("COMPLETED", "stored")
    assert (failure["status"], json.loads(failure["error"])["code"]) == ("FAILED", "not_found")


def test_in_load_balancing_mode_it_serves_http_on_runpods_port_until_sigterm(tmp_path: Path) -> None:
    port = free_port()
    process = start(tmp_path, MEMORY_SERVICE_MODE="load_balancing", PORT=str(port))

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        ping = until_answered(http, "GET", "/ping").json()

    process.terminate()
    process.communicate(timeout=EXIT_S_MAX)
    assert ping["status"] == "healthy"
    assert process.returncode == 0
