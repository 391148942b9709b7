"""Measures how many stores share a sync, if many clients store on a slow volume."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import slow_volume
from benchmarks.figures import Latencies, Table, latencies, ms, times
from benchmarks.http_client import Client, store
from benchmarks.service_process import ServiceProcess
from benchmarks.texts import metadata, query

CLIENTS = (1, 4, 16, 32)
DELAYS_MS = (0, 20)
"""Milliseconds added to every sync: none, and what a network volume may take."""


@dataclass(frozen=True, slots=True)
class GroupCommit:
    """Single stores by concurrent clients. Each client waits for its answer before it sends the next store."""

    delay_ms: float
    clients: int
    per_s: float
    syncs_per_store: float
    latencies: Latencies


def measure(folder: Path, lines: Sequence[str], turn_s: float) -> list[GroupCommit]:
    """Store short texts for `turn_s` seconds with each number of clients, without and with the delay."""
    folder.mkdir()
    results: list[GroupCommit] = []
    for delay_ms in DELAYS_MS:
        (folder / f"{delay_ms}").mkdir()
        launcher = ["-P", slow_volume.__file__, str(delay_ms)]
        with ServiceProcess(folder / f"{delay_ms}", launcher) as service:
            service.ready_port()
            for clients in CLIENTS:
                print(f"group commit, {delay_ms} ms a sync: {clients} clients", file=sys.stderr)
                results.append(_turn(service, delay_ms, clients, lines, turn_s))
    return results


def _turn(service: ServiceProcess, delay_ms: float, clients: int, lines: Sequence[str], turn_s: float) -> GroupCommit:
    port = service.port()
    syncs, started = len(service.events(slow_volume.SYNCED)), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        shares = pool.map(lambda at: _stored_s(port, f"{clients}-{at}", lines, started + turn_s), range(clients))
        took_s = [one for share in shares for one in share]
    wall_s = time.perf_counter() - started
    syncs = len(service.events(slow_volume.SYNCED)) - syncs
    return GroupCommit(delay_ms, clients, len(took_s) / wall_s, syncs / len(took_s), latencies(took_s))


def _stored_s(port: int, name: str, lines: Sequence[str], until_s: float) -> list[float]:
    """Return the seconds of each store of one client. The client stores at least once."""
    took_s: list[float] = []
    with Client(port) as client:
        while not took_s or time.perf_counter() < until_s:
            number = len(took_s)
            text = f"{query(lines[number % len(lines)])} {name} {number}"
            answer = store(client, text, f"{name}-{number}", metadata(number))
            answer.json()
            took_s.append(answer.took_s)
    return took_s


def table(results: Sequence[GroupCommit]) -> Table:
    """Return a table with a row for each number of clients, without and with the delay."""
    undelayed = {result.clients: result for result in results if result.delay_ms == 0}
    rows = (
        (
            f"{result.delay_ms:g}",
            str(result.clients),
            f"{result.per_s:.0f}",
            times(result.per_s / undelayed[result.clients].per_s),
            f"{result.syncs_per_store:.2f}",
            ms(result.latencies.p50_ms),
            ms(result.latencies.p99_ms),
        )
        for result in results
    )
    return Table(
        "Single stores on a slow volume",
        ("ms added to a sync", "clients", "stores/s", "to no delay", "syncs/store", "p50 ms", "p99 ms"),
        tuple(rows),
        ("Texts of eight words and a name, embedded by the model, which bounds the rate without a delay.",),
    )
