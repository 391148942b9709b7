"""Acknowledged means kept: the real process is killed in the middle of its work, again and again."""

import random
import threading
import time

import httpx

from tests.worker_process import WorkerProcess

KILLS = 3
WRITERS = 4


class Ledger:
    """What one client was told, and what it had asked for without an answer. Nobody else writes its keys."""

    def __init__(self):
        self.acknowledged = {}
        self.unanswered = {}

    def write(self, http, key, content):
        """Store or, with None, delete, and note what came of it. False when the worker is gone."""
        self.unanswered[key] = content
        try:
            if content is None:
                response = http.delete(f"/v1/memories/{key}")
            else:
                response = http.post("/v1/memories", json={"content": content, "key": key, "metadata": {"at": key}})
        except httpx.TransportError:
            return False
        assert response.status_code in ((200, 404) if content is None else (200,)), response.text
        self.acknowledged[key] = content
        del self.unanswered[key]
        return True

    def check(self, held):
        """Every key holds its last acknowledged state, or the one that was asked for last and never answered."""
        for key in {*self.acknowledged, *self.unanswered}:
            possible = {self.acknowledged.get(key), self.unanswered.get(key, self.acknowledged.get(key))}
            assert held.get(key) in possible, f"{key} was lost or changed"
            self.acknowledged[key] = held.get(key)
        self.unanswered = {}


def everything(worker):
    """All contents by key, page by page."""
    held, cursor = {}, None
    while True:
        params = {"limit": 500} | ({"cursor": cursor} if cursor else {})
        page = worker.http.get("/v1/memories", params=params).json()
        held |= {memory["key"]: memory["content"] for memory in page["memories"]}
        if (cursor := page["next_cursor"]) is None:
            return held


def write_until_gone(ledger, port, number, seed):
    """One client's stream of stores, updates and deletes of its own keys."""
    chance = random.Random(seed)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        for at in range(10_000):
            key = f"w{number}-{chance.randrange(12)}"
            content = (
                None if chance.random() < 0.2 else f"Writer {number} noted fact {seed}-{at} about pallet {at % 7}."
            )
            if not ledger.write(http, key, content):
                return


def test_nothing_acknowledged_is_lost_by_sigkill_at_random_moments(tmp_path):
    ledgers = [Ledger() for _ in range(WRITERS)]
    chance = random.Random(20)
    answered = 0
    for kill in range(KILLS):
        with WorkerProcess(tmp_path / "memory") as worker:
            threads = [
                threading.Thread(target=write_until_gone, args=(ledger, worker.port, number, kill * 100 + number))
                for number, ledger in enumerate(ledgers)
            ]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.2, 1.2))  # the moment of death is the point of the test
            worker.kill()
            for thread in threads:
                thread.join(120)
        answered += sum(len(ledger.acknowledged) for ledger in ledgers)
        with WorkerProcess(tmp_path / "memory") as worker:
            held = everything(worker)
            for ledger in ledgers:
                ledger.check(held)
            assert set(held) <= {key for ledger in ledgers for key in ledger.acknowledged}, "nobody stored that"
            for key, content in list(held.items())[:5]:
                hit = worker.post("/v1/memories/retrieve", {"query": content, "k": 1, "mode": "dense"})["memories"][0]
                assert (hit["content"], round(hit["score"], 2)) == (content, 1.0), f"{key} has another text's vector"
    assert answered > 0


def test_a_batch_is_kept_as_far_as_it_was_acknowledged(tmp_path):
    with WorkerProcess(tmp_path / "memory") as worker:
        items = [{"content": f"Batch fact {at} about gate {at % 5}.", "key": f"k{at}"} for at in range(200)]
        results = worker.post("/v1/memories/batch", {"memories": items})
        assert results["stored"] == 200
        worker.kill()
    with WorkerProcess(tmp_path / "memory") as worker:
        assert worker.http.get("/health").json()["memories"] == 200
