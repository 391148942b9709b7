"""Measures what requests notice of a snapshot that is written at the same time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Latencies, Table, latencies, ms, verdict
from benchmarks.http_client import Answer, Client, retrieve, store
from benchmarks.prefilled import Prefilled
from benchmarks.service_process import ServiceProcess
from benchmarks.texts import metadata, query

AIM_MS = 50
"""Aim: serving never pauses longer than this because of a snapshot."""

REST_S = 0.01
"""Pause between two requests of a client. It leaves processor time for the snapshot, as real use does."""

QUIET_S = 2.0
"""Time without a snapshot, before each snapshot."""


@dataclass(frozen=True, slots=True)
class Felt:
    """Latencies of one kind of request.

    Attributes:
        without: latencies of the requests that no snapshot overlapped.
        during: latencies of the requests that a snapshot overlapped.

    """

    request: str
    without: Latencies
    without_max_ms: float
    during: Latencies
    during_max_ms: float


@dataclass(frozen=True, slots=True)
class Pause:
    """The figures of snapshots of a worker that is in use.

    Attributes:
        frozen_ms: milliseconds that writers waited for each snapshot, by the service's own log.
        took_ms: milliseconds that writing each snapshot took while requests were served.

    """

    memories: int
    frozen_ms: tuple[float, ...]
    took_ms: tuple[float, ...]
    felt: tuple[Felt, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    begin_s: float
    end_s: float

    def overlaps(self, other: "_Span") -> bool:
        return self.begin_s < other.end_s and other.begin_s < self.end_s


def measure(prefilled: Prefilled, lines: Sequence[str], snapshots: int) -> Pause:
    """Let one client retrieve, one store and one ask for nothing, while snapshots are taken now and then."""
    with ServiceProcess(prefilled.path) as service, Client(port := service.ready_port()) as operator:
        requests: dict[str, Callable[[Client, int], Answer]] = {
            "retrieve": lambda client, number: retrieve(client, query(lines[number % len(lines)]), k=5),
            "store": lambda client, number: store(
                client, lines[number % len(lines)], f"meanwhile-{number}", metadata(number)
            ),
            "an empty request": lambda client, _: client.get("/health/live"),
        }
        with _asking(port, requests) as spans:
            taken = list(_taken(operator, snapshots))
        events = service.events("snapshot.taken")
    frozen_ms = tuple(event["frozen_ms"] for event in events)[:snapshots]
    took_ms = tuple((one.end_s - one.begin_s) * 1000 for one in taken)
    return Pause(prefilled.count, frozen_ms, took_ms, tuple(_felt(name, spans[name], taken) for name in requests))


def _taken(client: Client, snapshots: int) -> Iterator[_Span]:
    for number in range(snapshots):
        print(f"snapshot amid requests: {number + 1} of {snapshots}", file=sys.stderr)
        time.sleep(QUIET_S)
        begin_s = time.perf_counter()
        client.post("/v1/admin/snapshot", {}).json()
        yield _Span(begin_s, time.perf_counter())


@contextmanager
def _asking(port: int, requests: dict[str, Callable[[Client, int], Answer]]) -> Iterator[dict[str, list[_Span]]]:
    """Run a client for each kind of request. Yield when each request began and when it was answered, by kind."""
    stopping = threading.Event()
    spans: dict[str, list[_Span]] = {name: [] for name in requests}

    def ask(name: str) -> None:
        with Client(port) as client:
            while not stopping.is_set():
                begin_s = time.perf_counter()
                requests[name](client, len(spans[name])).json()
                spans[name].append(_Span(begin_s, time.perf_counter()))
                time.sleep(REST_S)

    threads = [threading.Thread(target=ask, args=(name,)) for name in requests]
    for thread in threads:
        thread.start()
    try:
        yield spans
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _felt(request: str, spans: Sequence[_Span], taken: Sequence[_Span]) -> Felt:
    during = [span.end_s - span.begin_s for span in spans if any(span.overlaps(snapshot) for snapshot in taken)]
    without = [span.end_s - span.begin_s for span in spans if not any(span.overlaps(snapshot) for snapshot in taken)]
    return Felt(request, latencies(without), max(without) * 1000, latencies(during), max(during) * 1000)


def table(result: Pause) -> Table:
    """Return a table with a row for each kind of request, without and during a snapshot."""
    rows: list[tuple[str, ...]] = []
    for felt in result.felt:
        for when, found, slowest_ms in (
            ("none", felt.without, felt.without_max_ms),
            ("being written", felt.during, felt.during_max_ms),
        ):
            rows.append((felt.request, when, str(found.count), *map(ms, (found.p50_ms, found.p99_ms, slowest_ms))))
    longest_ms = max(felt.during_max_ms for felt in result.felt)
    return Table(
        f"Requests while a snapshot of {result.memories} memories is written (one client for each kind)",
        ("request", "snapshot", "requests", "p50 ms", "p99 ms", "slowest ms"),
        tuple(rows),
        (
            f"Writers waited {ms(median(result.frozen_ms))} ms for the moment of the snapshot (frozen_ms; slowest of "
            f"{len(result.frozen_ms)}: {ms(max(result.frozen_ms))}); writing it took {median(result.took_ms):.0f} ms.",
            f"Aim: no pause longer than {AIM_MS} ms. Slowest request during a snapshot {ms(longest_ms)} ms: "
            f"{verdict(is_met=longest_ms <= AIM_MS)}.",
        ),
    )
