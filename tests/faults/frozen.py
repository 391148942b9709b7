"""Freezing: a worker that is stopped (SIGSTOP) and revived (SIGCONT) answers its first call with the present state.

RunPod freezes idle workers and revives them with the memory they had. Another worker changes the folder meanwhile; the
revived one is asked through HTTP, without a wish for strong consistency, and each kind of call gets to be the first.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.rows import Row
from tests.worker_process import WorkerProcess

FROZEN_S = 0.25
"""Longer than the 200 ms for which a worker may rely on what it last saw."""

READS_AT_ONCE = 8

State = dict[str, str]
"""Contents by key."""

FirstCall = Callable[[WorkerProcess, str], State]
"""Calls a worker about the memories of one freeze and checks the answer; what these memories are after it."""


def before(name: str) -> State:
    """The memories of a freeze before it."""
    return {f"{name}-{fate}": f"{name}: what is to be {fate}, at first." for fate in ("updated", "deleted")}


def after(name: str) -> State:
    """The memories of a freeze when it ends."""
    return {f"{name}-{fate}": f"{name}: what was {fate} while it lasted." for fate in ("updated", "added")}


def _get(worker: WorkerProcess, name: str) -> State:
    for key in (f"{name}-updated", f"{name}-deleted", f"{name}-added"):
        _check_get(worker, key, after(name).get(key))
    return after(name)


def _get_deleted(worker: WorkerProcess, name: str) -> State:
    _check_get(worker, f"{name}-deleted", None)
    return after(name)


def _get_many_at_once(worker: WorkerProcess, name: str) -> State:
    key = f"{name}-updated"
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for read in [pool.submit(_check_get, worker, key, after(name)[key]) for _ in range(READS_AT_ONCE)]:
            read.result()
    return after(name)


def _list(worker: WorkerProcess, name: str) -> State:
    held = {key: content for key, content in _listed(worker).items() if key.startswith(f"{name}-")}
    assert held == after(name), f"{name}: the first call was to list {after(name)}; it lists {held}"
    return after(name)


def _retrieve(worker: WorkerProcess, name: str) -> State:
    for key, content in after(name).items():
        [hit] = worker.post("/v1/memories/retrieve", {"query": content, "k": 1, "mode": "dense"})["memories"]
        found = (hit["key"], hit["content"], round(hit["score"], 3))
        assert found == (key, content, 1.0), f"the text of {key} was to find it; it finds {found}"
    return after(name)


def _update(worker: WorkerProcess, name: str) -> State:
    key, content = f"{name}-updated", f"{name}: what the revived worker wrote."
    stored = worker.post("/v1/memories", {"key": key, "content": content})
    assert stored["status"] == "updated", f"{key}: {stored}"
    return after(name) | {key: content}


def _store_deleted(worker: WorkerProcess, name: str) -> State:
    key, content = f"{name}-deleted", f"{name}: what the revived worker stored again."
    stored = worker.post("/v1/memories", {"key": key, "content": content})
    assert stored["status"] == "stored", f"{key} was deleted meanwhile, which the first call does not know: {stored}"
    return after(name) | {key: content}


def _delete_added(worker: WorkerProcess, name: str) -> State:
    key = f"{name}-added"
    response = worker.http.delete(f"/v1/memories/{key}")
    assert response.status_code == 200, f"{key} was stored meanwhile, which the first call does not know: {response}"
    return {held: content for held, content in after(name).items() if held != key}


FIRST_CALLS: tuple[FirstCall, ...] = (
    _get,
    _get_deleted,
    _get_many_at_once,
    _list,
    _retrieve,
    _update,
    _store_deleted,
    _delete_added,
)


def run(folder: Path, rounds: Sequence[bool]) -> int:
    """Freeze a worker before each of the FIRST_CALLS in every round, and compare what everybody holds in the end.

    Args:
        folder: of the data folder and the logs.
        rounds: for each, whether the other worker also compacts, so that the journal with its changes is gone.

    Returns:
        The number of freezes.

    Raises:
        AssertionError: a promise was broken; the message names the key.
    """
    data, expected = folder / "memory", State()
    freezes = list(itertools.product(enumerate(rounds), FIRST_CALLS))
    with WorkerProcess(data) as sleeper, WorkerProcess(data) as other:
        for (at, compacting), first_call in freezes:
            name = f"{first_call.__name__.strip('_')}-{at}"
            for key, content in before(name).items():
                sleeper.post("/v1/memories", {"key": key, "content": content})
                _check_get(other, key, content, consistency="strong")
            with _frozen(sleeper):
                _change(other, name, compacting=compacting)
                time.sleep(FROZEN_S)
            expected |= first_call(sleeper, name)
        with WorkerProcess(data) as fresh:
            for worker in (sleeper, other, fresh):
                _compare(_listed(worker, consistency="strong"), expected)
    return len(freezes)


@contextlib.contextmanager
def _frozen(worker: WorkerProcess) -> Iterator[None]:
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


def _change(worker: WorkerProcess, name: str, *, compacting: bool) -> None:
    for key, content in after(name).items():
        worker.post("/v1/memories", {"key": key, "content": content})
    deleted = worker.http.delete(f"/v1/memories/{name}-deleted")
    assert deleted.status_code == 200, f"{name}-deleted: {deleted.status_code} {deleted.text}"
    if compacting:
        worker.post("/v1/admin/snapshot", {})
        removed = worker.post("/v1/admin/compact", {})["removed"]
        assert removed, "nothing was compacted, so nothing is proven"


def _check_get(worker: WorkerProcess, key: str, expected: str | None, **params: str) -> None:
    response = worker.http.get(f"/v1/memories/{key}", params=params)
    assert response.status_code in (200, 404), f"{key}: {response.status_code} {response.text}"
    found = response.json()["content"] if response.status_code == 200 else None
    assert found == expected, f"{key} was to hold {expected!r}; the worker reads {found!r}"


def _compare(held: State, expected: State) -> None:
    for key in {*held, *expected}:
        assert held.get(key) == expected.get(key), (
            f"{key} was to hold {expected.get(key)!r} in the end; it holds {held.get(key)!r}"
        )


def _listed(worker: WorkerProcess, **params: str) -> State:
    response = worker.http.get("/v1/memories", params={"limit": 1_000, **params})
    assert response.status_code == 200, response.text
    page = response.json()
    assert page["next_cursor"] is None, "one page was to hold everything"
    return {memory["key"]: memory["content"] for memory in page["memories"]}


def full(folder: Path) -> list[Row]:
    """At full size, for the table."""
    rows = []
    for compacting, work in ((False, "stored, updated and deleted"), (True, "did so, took a snapshot and compacted")):
        case = folder / f"compacting-{compacting}"
        case.mkdir()
        freezes = run(case, [compacting] * 5)
        rows.append(
            Row(
                "a frozen worker is revived",
                f"SIGSTOP, another worker {work}, SIGCONT: {freezes} freezes, each kind of call being the first in "
                f"turn (get, {READS_AT_ONCE} gets at once, list, retrieve, store, delete), with default consistency.",
                "Every first call knew all that was written meanwhile. The revived worker's own writes were kept, and "
                "in the end both workers and a fresh one held the same.",
            )
        )
    return rows
