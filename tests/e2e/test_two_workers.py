"""Two real processes over one folder, as during every RunPod release."""

import itertools
import threading

import httpx

from tests.worker_process import WorkerProcess


def everything(worker):
    page = worker.http.get("/v1/memories", params={"limit": 1_000, "consistency": "strong"}).json()
    return {memory["key"]: memory["content"] for memory in page["memories"]}


def test_two_workers_write_at_once_and_nothing_is_lost_when_one_is_killed(tmp_path):
    """Peers that share a file this way discard each other's writes or cannot open it at all."""
    acknowledged, killed = [{}, {}], threading.Event()

    def write(worker, number):
        for at in itertools.count():
            if killed.is_set() and (number == 0 or at > 60):
                return
            key, content = f"w{number}-{at}", f"Worker {number} noted fact {at}."
            try:
                worker.post("/v1/memories", {"content": content, "key": key})
            except httpx.TransportError:  # it was killed
                return
            acknowledged[number][key] = content
            if number == 0 and at == 30:
                worker.process.kill()
                killed.set()

    with WorkerProcess(tmp_path / "memory") as one, WorkerProcess(tmp_path / "memory") as two:
        threads = [threading.Thread(target=write, args=(worker, at)) for at, worker in enumerate((one, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        expected = acknowledged[0] | acknowledged[1]
        held = everything(two)
        assert expected.items() <= held.items()
        assert len(expected) > 60
        with WorkerProcess(tmp_path / "memory") as three:
            assert everything(three) == held
            hits = [
                worker.post(
                    "/v1/memories/retrieve", {"query": "Worker 0 noted fact 17.", "k": 3, "consistency": "strong"}
                )
                for worker in (two, three)
            ]
            assert hits[0]["memories"] == hits[1]["memories"]
            assert hits[0]["memories"][0]["key"] == "w0-17"
