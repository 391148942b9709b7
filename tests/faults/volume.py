"""The volume of a running worker fails: I/O errors, read-only, full, and taken away, then back again.

A real process serves HTTP all the while, and one client never stops writing. Its calls on the data folder are made to
fail from outside; taking the volume away is a real rename, with an empty folder in its place. Nobody restarts anything
until the end, when a restart must show exactly what was held before it.
"""

import errno
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.calls import Ledger
from tests.faults.failing_calls import EVERYTHING, FULL, READ_ONLY, Switch
from tests.faults.rows import Row
from tests.worker_process import WorkerProcess

READINESS_TELLS = True
"""Whether `/health/ready` says what is served: `{"status", "reads", "writes", "problems"}`."""

SWITCHED: Mapping[str, tuple[Collection[str], int]] = {
    "every call on the volume fails (EIO)": (EVERYTHING, errno.EIO),
    "the volume is read-only (EROFS)": (READ_ONLY, errno.EROFS),
    "the volume is full (ENOSPC)": (FULL, errno.ENOSPC),
}
UNMOUNTED = "the volume is taken away, an empty folder is in its place"
FAULTS = (*SWITCHED, UNMOUNTED)

REFUSALS = {(503, "unavailable"), (507, "unavailable")}
ROUNDS = 3
"""Of writes during one fault: the first meets an open journal, the others need a new one."""

STREAM = "stream"
"""The namespace of the client that never stops."""


@dataclass(slots=True)
class Told:
    """What the worker answered, and what may be held therefore."""

    ledger: Ledger = field(default_factory=lambda: Ledger({}))
    answers: Counter[str] = field(default_factory=Counter)


def full(folder: Path) -> list[Row]:
    """Every fault, again and again in the life of one worker, and in the life of a fresh one."""
    return run(folder, FAULTS, 3)


def run(folder: Path, faults: Iterable[str], times: int) -> list[Row]:
    """Each fault so many times in one worker's life; a row for each fault."""
    return [_row(folder / f"volume-{at}", fault, times) for at, fault in enumerate(faults)]


def _row(folder: Path, fault: str, times: int) -> Row:
    folder.mkdir()
    volume, told, streamed = folder / "memory", Told(), Told()
    switch = Switch(volume, folder)
    with WorkerProcess(volume, logs=folder, port=None, **switch.environment()) as worker:
        _store(worker, told, "before", must=True)
        for time in range(times):
            with _streaming(worker, streamed, fault):
                with _failing(fault, volume, switch):
                    _under_the_fault(worker, told, f"{time}", fault)
                _after_the_fault(worker, told, f"{time}", fault)
        shown = _held(worker, fault)
    with WorkerProcess(volume) as restarted:
        held = _held(restarted, fault)
        told.ledger.check(held, f"{fault}, after a restart")
        assert held == shown, f"{fault}: a restart shows {held}, before it was {shown}"
        _pairs(restarted, held, fault)
        streamed.ledger.check(_held(restarted, fault, namespace=STREAM), f"{fault}, the stream after a restart")
    answers = told.answers + streamed.answers
    return Row(
        fault,
        f"{times} times in the life of one worker: store, update, batch, delete, snapshot and compact under it, a "
        "stream of writes throughout; then a kill and a restart",
        f"{answers['refused']} writes answered 503 or 507 `unavailable`, {answers['acknowledged']} acknowledged; "
        f"{answers['read']} reads served; {len(held)} memories after the restart, exactly as before it",
    )


@contextmanager
def _unmounted(volume: Path) -> Iterator[None]:
    away = volume.with_name("taken-away")
    volume.rename(away)
    volume.mkdir()
    try:
        yield
        left = sorted(path.name for path in volume.rglob("*"))
        assert left == [], f"{UNMOUNTED}: {left} were written to the empty folder"
    finally:
        volume.rmdir()
        away.rename(volume)


def _failing(fault: str, volume: Path, switch: Switch) -> AbstractContextManager[None]:
    return _unmounted(volume) if fault == UNMOUNTED else switch.on(*SWITCHED[fault])


def _under_the_fault(worker: WorkerProcess, told: Told, name: str, fault: str) -> None:
    for at in range(ROUNDS):
        key = f"during-{name}-{at}"
        _store(worker, told, key)
        _store(worker, told, "before", f"Changed in {key}.")
        _batch(worker, told, key)
        _delete(worker, told, "before-deleted")
        _reads(worker, told, fault)
        if at == 0:
            _no_snapshot(worker, fault)
    _strong_read(worker, told, fault)
    _ready(worker, fault, writes=False)


def _no_snapshot(worker: WorkerProcess, fault: str) -> None:
    """Neither is done; the attempt makes the worker leave its open journal, so that further writes need a new one."""
    for path in ("/v1/admin/snapshot", "/v1/admin/compact"):
        _is_refusal(worker.http.post(path), f"{fault}: {path}")


@contextmanager
def _streaming(worker: WorkerProcess, told: Told, fault: str) -> Iterator[None]:
    """A client that writes from before the fault until after it, and checks the answers."""
    is_over, failures = threading.Event(), []

    def write() -> None:
        try:
            with httpx.Client(base_url=worker.http.base_url, timeout=60) as http:
                while not is_over.is_set():
                    _stream_one(http, told)
        except (AssertionError, httpx.HTTPError) as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(120)
    assert not failures, f"{fault}: a client that never stopped writing met {failures[0]}"
    told.ledger.check(_held(worker, fault, namespace=STREAM), f"{fault}, the stream")


def _stream_one(http: httpx.Client, told: Told) -> None:
    key = f"s-{told.answers.total()}"
    memory = {**_memory(key, f"Streamed as {key}."), "namespace": STREAM}
    _write(told, key, memory["content"], lambda: http.post("/v1/memories", json=memory), must=False)


def _after_the_fault(worker: WorkerProcess, told: Told, name: str, fault: str) -> None:
    """Without a restart everything works at once."""
    _store(worker, told, f"after-{name}", must=True)
    _store(worker, told, "before", f"Changed after {name}.", must=True)
    _store(worker, told, "before-deleted", must=True)
    held = _held(worker, fault, consistency="strong")
    told.ledger.check(held, f"{fault}, after it")
    _pairs(worker, held, fault)
    _ready(worker, fault, writes=True)


def _store(worker: WorkerProcess, told: Told, key: str, content: str | None = None, *, must: bool = False) -> None:
    content = content or f"What is kept under {key}."
    _write(told, key, content, lambda: worker.http.post("/v1/memories", json=_memory(key, content)), must)


def _delete(worker: WorkerProcess, told: Told, key: str) -> None:
    if told.ledger.possible.get(key, {None}) == {None}:
        return
    _write(told, key, None, lambda: worker.http.delete(f"/v1/memories/{key}"), must=False)


def _batch(worker: WorkerProcess, told: Told, key: str) -> None:
    """Each item is acknowledged or refused on its own, or all of them at once."""
    items = [_memory(f"{key}-{at}", f"Item {at} of {key}.") for at in range(3)]
    response = worker.http.post("/v1/memories/batch", json={"memories": items})
    results = [{"status": "refused"}] * len(items)
    if response.is_success:
        results = response.json()["results"]
    else:
        _is_refusal(response, f"a batch of {key}")
    for item, result in zip(items, results, strict=True):
        is_kept = result["status"] != "refused"
        _note(told, item["key"], item["content"], is_kept)


def _write(told: Told, key: str, content: str | None, send: Callable[[], httpx.Response], must: bool) -> None:
    response = send()
    if not response.is_success:
        assert not must, f"{key}: a write without any fault was answered {response.text}"
        _is_refusal(response, f"a write of {key}")
    _note(told, key, content, response.is_success)


def _is_refusal(response: httpx.Response, what: str) -> None:
    answer = (response.status_code, response.json()["error"]["code"])
    assert answer in REFUSALS, f"{what} was answered {response.status_code} {response.text}, expected {REFUSALS}"


def _note(told: Told, key: str, content: str | None, is_kept: bool) -> None:
    told.answers["acknowledged" if is_kept else "refused"] += 1
    (told.ledger.acknowledge if is_kept else told.ledger.leave_open)(key, content)


def _memory(key: str, content: str) -> dict[str, Any]:
    """A memory whose metadata tells its content, so that a mixture of two versions would show."""
    return {"key": key, "content": content, "metadata": {"of": content}}


def _reads(worker: WorkerProcess, told: Told, fault: str) -> None:
    """List, get and retrieve serve everything acknowledged."""
    held = _held(worker, fault)
    told.ledger.check(held, f"{fault}, while it lasts")
    got = worker.http.get("/v1/memories/before")
    assert got.status_code == 200, f"{fault}: get was answered {got.text}"
    assert got.json()["content"] == held["before"], f"{fault}: get and list disagree"
    _pairs(worker, dict(list(held.items())[:2]), fault)
    told.answers["read"] += 4


def _strong_read(worker: WorkerProcess, told: Told, fault: str) -> None:
    """Answered with everything acknowledged, or refused: 503, not now."""
    response = worker.http.get("/v1/memories", params={"limit": 500, "consistency": "strong"})
    if response.is_success:
        held = {memory["key"]: memory["content"] for memory in response.json()["memories"]}
        told.ledger.check(held, f"{fault}, a strong read")
    else:
        _is_refusal(response, "a strong read")


def _held(worker: WorkerProcess, fault: str, **params: str) -> dict[str, str]:
    response = worker.http.get("/v1/memories", params={"limit": "500", **params})
    assert response.status_code == 200, f"{fault}: list was answered {response.text}"
    memories = response.json()["memories"]
    for memory in memories:
        assert memory["metadata"] == {"of": memory["content"]}, f"{fault}: {memory} is a mixture of two versions"
    return {memory["key"]: memory["content"] for memory in memories}


def _pairs(worker: WorkerProcess, held: Mapping[str, str], fault: str) -> None:
    """No text has another text's vector."""
    for key, content in held.items():
        response = worker.http.post("/v1/memories/retrieve", json={"query": content, "k": 1, "mode": "dense"})
        assert response.status_code == 200, f"{fault}: retrieve was answered {response.text}"
        [hit] = response.json()["memories"]
        fits = (hit["key"], hit["content"]) == (key, content) and hit["score"] > 0.999
        assert fits, f"{fault}: {key} is not found by its own text, but {hit}"


def _ready(worker: WorkerProcess, fault: str, *, writes: bool) -> None:
    """`/health/ready` says whether reads and writes are served."""
    response = worker.http.get("/health/ready")
    assert response.status_code == 200, f"{fault}: readiness is {response.status_code} though reads are served"
    if not READINESS_TELLS:
        return
    told = response.json()
    expected = {"status": "ready" if writes else "degraded", "reads": True, "writes": writes}
    shown = {name: told.get(name) for name in expected}
    assert shown == expected, f"{fault}: readiness says {told}, expected {expected}"
    assert bool(told["problems"]) != writes, f"{fault}: readiness names {told['problems']}"
