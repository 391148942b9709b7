"""Releases: a new worker starts over the folder while the old one still serves, takes over, and the old one is stopped.

Clients write all the while, through HTTP. The prompt one goes to the new worker before the old one is told to stop; the
late ones go on with the old one until that refuses them.
"""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from memory_service.journal.data_folder import DataFolder
from tests.faults.child import everything
from tests.faults.embedder import HashEmbedder
from tests.faults.kills import opened_copy
from tests.faults.rows import Row
from tests.worker_process import WorkerProcess
from vector_memory.memories import DEFAULT_NAMESPACE

FOLLOW_S = 0.2
"""How old a read may be that asks for nothing more; the default of MEMORY_FOLLOW_INTERVAL_MS."""

KEYS = 150
"""Of each client: so many that most of what the old worker wrote is not written again before it is checked."""

OVERLAP_WRITES = 15
WAIT_S_MAX = 60


@dataclass
class Line:
    """A worker as the clients see it.

    Attributes:
        http: with a new connection for each request, so that none is lost for having been idle.
        is_stopping: it was told to stop; only then may it refuse.
    """

    worker: WorkerProcess
    http: httpx.Client
    is_stopping: bool = False


@dataclass
class Client:
    """Writes keys of its own through one worker, and reads what was acknowledged through the other.

    Attributes:
        line: the worker that it writes to.
        successor: the worker that it goes to when that one is gone, and reads from meanwhile.
        acknowledged: what each key holds; None is deleted.
        unanswered: what a key may hold instead, because the worker went away; such a key is let alone.
    """

    name: str
    line: Line
    successor: Line | None = None
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    unanswered: dict[str, str | None] = field(default_factory=dict)
    answers: int = 0
    checked_reads: int = 0

    def write_until(self, done: threading.Event, seed: int) -> None:
        """Store, update and delete until told otherwise."""
        chance = random.Random(seed)
        for at in itertools.count():
            if done.is_set():
                return
            key = f"{self.name}-{chance.randrange(KEYS)}"
            if key not in self.unanswered:
                self._write(key, None if chance.random() < 0.25 else f"{key} was noted as fact {seed}-{at}.")

    def _write(self, key: str, content: str | None) -> None:
        line = self.line
        response = _answer(line, "DELETE", f"/v1/memories/{key}") if content is None else _stored(line, key, content)
        if response is None:
            self.unanswered[key] = content
            assert self.successor is not None, f"the worker went away while {key} was written, and nobody stopped it"
            self.line = self.successor
            return
        self._check_answer(response, key, content)
        self.acknowledged[key] = content
        self.answers += 1
        if self.successor is not None and self.successor is not line:
            found = _held(self.successor, key, consistency="strong")
            assert found == content, f"{key} was acknowledged as {content!r}; the new worker reads {found!r}"
            self.checked_reads += 1

    def _check_answer(self, response: httpx.Response, key: str, content: str | None) -> None:
        is_missing = content is None and self.acknowledged.get(key) is None
        expected = 404 if is_missing else 200
        assert response.status_code == expected, f"{key}: {response.status_code} {response.text}"

    def check(self, held: dict[str, str]) -> None:
        """Hold a worker's memories to what was acknowledged; what was not answered is either way."""
        for key in {*self.acknowledged, *self.unanswered}:
            before = self.acknowledged.get(key)
            possible = (before, self.unanswered.get(key, before))
            assert held.get(key) in possible, f"{key} was to hold one of {possible}; it holds {held.get(key)!r}"
            self.acknowledged[key] = held.get(key)
        self.unanswered = {}


@dataclass
class Outcome:
    """What was seen."""

    releases: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    strong_reads: int = 0
    default_reads: int = 0
    memories: int = 0


def run(folder: Path, releases: int, seed: int) -> Outcome:
    """Release `releases` times under load.

    Raises:
        AssertionError: a promise was broken; the message names the key.
    """
    outcome = Outcome()
    with ExitStack() as workers:
        line = _started(folder, workers)
        clients = [Client(name, line) for name in ("prompt", "late-1", "late-2", "late-3")]
        for number in range(releases):
            line = _release(folder, workers, clients, seed * 100 + number, outcome)
        outcome.acknowledged += sum(client.answers for client in clients)
        outcome.strong_reads += sum(client.checked_reads for client in clients)
        outcome.memories = len(_everything(line))
    return outcome


def _started(folder: Path, workers: ExitStack) -> Line:
    """A worker that is ready."""
    worker = workers.enter_context(WorkerProcess(folder / "memory"))
    limits = httpx.Limits(max_keepalive_connections=0)
    http = workers.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{worker.port}", limits=limits, timeout=60))
    return Line(worker, http)


def _release(folder: Path, workers: ExitStack, clients: list[Client], seed: int, outcome: Outcome) -> Line:
    """One release, from the start of the new worker to the end of the old one; the new one."""
    old = clients[0].line
    with _writing(clients, seed) as writing:
        new = _started(folder, workers)
        outcome.default_reads += _check_default_reads(old, new, seed)  # before strong reads keep the new one up to date
        for client in clients:
            client.successor = new
        _wait_for_answers(clients, writing)
        clients[0].line = new
        old.is_stopping = True
        assert old.worker.terminate() == 0, f"the old worker did not stop cleanly:\n{old.worker.log.read_text()}"
        _wait_for_answers(clients, writing)
    outcome.releases += 1
    outcome.unanswered += sum(len(client.unanswered) for client in clients)
    held = _everything(new)
    _check_start(folder / "memory", held)
    for client in clients:
        assert client.line is new, f"the {client.name} client still writes to the worker that was stopped"
        client.check(held)
        client.successor = None
    return new


def _check_start(data: Path, held: dict[str, str]) -> None:
    """What a start would read from the folder is what the new worker holds in its memory."""
    embedder = HashEmbedder()
    embedder.fingerprint = DataFolder(data).embedder() or embedder.fingerprint  # it passes for the one that wrote there
    with opened_copy(data, embedder) as service:
        found = {memory.key: memory.content for memory in everything(service, DEFAULT_NAMESPACE)}
    for key in {*found, *held}:
        assert found.get(key) == held.get(key), f"{key} is {held.get(key)!r}; a start would read {found.get(key)!r}"


@contextlib.contextmanager
def _writing(clients: list[Client], seed: int) -> Iterator[list["Future[None]"]]:
    """Have the clients write side by side meanwhile."""
    done = threading.Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        writing = [pool.submit(client.write_until, done, seed * 10 + at) for at, client in enumerate(clients)]
        try:
            yield writing
        finally:
            done.set()
        for future in writing:
            future.result(WAIT_S_MAX)


def _wait_for_answers(clients: list[Client], writing: list["Future[None]"]) -> None:
    """Wait until each client was answered some times more."""
    expected = [client.answers + OVERLAP_WRITES for client in clients]
    deadline = time.monotonic() + WAIT_S_MAX
    while any(client.answers < number for client, number in zip(clients, expected, strict=True)):
        for future in writing:
            if future.done():
                future.result()
        assert time.monotonic() < deadline, "the clients get no answers"
        time.sleep(0.02)


def _check_default_reads(old: Line, new: Line, seed: int) -> int:
    """Store, update and delete through the old worker; after the interval plain reads of the new one know it."""
    key = f"release-{seed}"
    states = [f"{key} was announced.", f"{key} was announced and changed.", None]
    for content in states:
        answer = _answer(old, "DELETE", f"/v1/memories/{key}") if content is None else _stored(old, key, content)
        assert answer is not None
        assert answer.status_code == 200, f"{key}: {answer.status_code} {answer.text}"
        time.sleep(FOLLOW_S)
        found = _held(new, key)
        assert found == content, (
            f"{key} was acknowledged as {content!r}; {FOLLOW_S} s later the new worker has {found!r}"
        )
    return len(states)


def _stored(line: Line, key: str, content: str) -> httpx.Response | None:
    return _answer(line, "POST", "/v1/memories", json={"content": content, "key": key})


def _held(line: Line, key: str, **params: str) -> str | None:
    response = _answer(line, "GET", f"/v1/memories/{key}", params=params)
    assert response is not None, f"the worker went away while {key} was read"
    return None if response.status_code == 404 else str(response.json()["content"])


def _answer(line: Line, method: str, path: str, **request: Any) -> httpx.Response | None:
    """What a worker answers; None where one that is stopping refuses or is gone."""
    try:
        response = line.http.request(method, path, **request)
    except httpx.TransportError as error:
        if line.is_stopping:
            return None
        raise AssertionError(f"{method} {path}: a worker that nobody stopped went away") from error
    if response.status_code < 500:
        return response
    assert line.is_stopping, f"{method} {path}: {response.status_code} {response.text}"
    return None


def _everything(line: Line) -> dict[str, str]:
    """All contents by key, by a strong read."""
    held: dict[str, str] = {}
    cursor: dict[str, str] = {}
    while True:
        response = _answer(line, "GET", "/v1/memories", params={"limit": "50", "consistency": "strong", **cursor})
        assert response is not None
        page = response.json()
        held |= {memory["key"]: memory["content"] for memory in page["memories"]}
        if page["next_cursor"] is None:
            return held
        cursor = {"cursor": page["next_cursor"]}


def full(folder: Path) -> list[Row]:
    """At full size, for the table."""
    seen = run(folder, releases=5, seed=1)
    return [
        Row(
            "a rolling release under load",
            f"{seen.releases} releases over HTTP while four clients stored, updated and deleted: the new worker starts "
            "beside the old one, which then gets SIGTERM with three clients still writing to it.",
            f"All {seen.acknowledged} acknowledged writes were kept; {seen.unanswered} requests to a stopping worker "
            f"were refused. {seen.strong_reads} strong reads of the new worker right after the old one's "
            f"acknowledgement, and {seen.default_reads} plain ones {FOLLOW_S} s after, all saw it; a start from the "
            "folder after each release had the same. No 5xx but from a worker that was stopping.",
        )
    ]
