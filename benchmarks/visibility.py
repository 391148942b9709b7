"""Measures how long a write stays unseen on a second worker, with two real workers over one folder."""

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Latencies, Table, latencies, ms, verdict
from benchmarks.http_client import Client, retrieve, store
from benchmarks.service_process import DATA, ServiceProcess
from benchmarks.texts import SEED, metadata, query

AIM_P99_MS = 500
"""Aim: 99 of 100 writes are visible on the other worker within this time."""

PAUSE_S_MAX = 0.3
"""Longest pause before a write. Pauses are random, so writes meet every phase of the other worker's polling."""

LOOK_S = 0.002
LOAD_PAUSE_S = 0.1
"""Pause of the light load: about ten stores a second on one worker, and as many retrieves on the other."""

SEEN_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Visibility:
    """Milliseconds from the acknowledgement on one worker to the first get on the other that finds it."""

    load: str
    delays: Latencies
    slowest_ms: float


def measure(folder: Path, lines: Sequence[str], writes: int) -> list[Visibility]:
    """Write on one worker and look on the other, at idle and under a light load.

    Args:
        folder: a folder that does not exist yet.
        lines: texts to store.
        writes: number of writes at idle, and again under load.

    """
    folder.mkdir()
    (folder / "writer").mkdir()
    (folder / "reader").mkdir()
    (folder / "writer" / DATA).mkdir()
    # Both workers have caches and logs of their own, but share the data folder.
    (folder / "reader" / DATA).symlink_to(folder / "writer" / DATA)
    with ServiceProcess(folder / "writer") as writer, ServiceProcess(folder / "reader") as reader:
        ports = writer.ready_port(), reader.ready_port()
        idle = _delays_s(*ports, lines, writes, "idle")
        with _light_load(*ports, lines):
            loaded = _delays_s(*ports, lines, writes, "loaded")
    return [
        Visibility(load, latencies(delays), max(delays) * 1000)
        for load, delays in (("no other requests", idle), ("a light load on both", loaded))
    ]


def _delays_s(writer: int, reader: int, lines: Sequence[str], writes: int, name: str) -> list[float]:
    print(f"visibility, {name}: {writes} writes", file=sys.stderr)
    chooser = random.Random(SEED)
    delays: list[float] = []
    with Client(writer) as client, _Watcher(reader) as watcher:
        for number in range(writes):
            watcher.look_for(key := f"{name}-{number}")
            time.sleep(chooser.uniform(0, PAUSE_S_MAX))
            store(client, lines[number % len(lines)], key, metadata(number)).json()
            acknowledged_s = time.perf_counter()
            delays.append(max(0.0, watcher.seen_s() - acknowledged_s))
    return delays


class _Watcher:
    """Asks a worker for a key again and again. It begins before the key is written, so the worker is always in use."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._key = ""
        self._seen_s = 0.0
        self._found = threading.Event()
        self._found.set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def look_for(self, key: str) -> None:
        """Begin to look for a key that nobody has written yet."""
        self._key = key
        self._found.clear()

    def seen_s(self) -> float:
        """Wait for the key, and return the time when it was first found, by `time.perf_counter`.

        Raises:
            RuntimeError: the key is not found in time.

        """
        if not self._found.wait(SEEN_S_MAX):
            raise RuntimeError(f"{self._key} was acknowledged and never seen by the other worker.")
        return self._seen_s

    def _watch(self) -> None:
        with Client(self._port) as client:
            while not self._stopping.is_set():
                if not self._found.is_set() and client.get(f"/v1/memories/{self._key}").status == 200:
                    self._seen_s = time.perf_counter()
                    self._found.set()
                time.sleep(LOOK_S)


@contextmanager
def _light_load(writer: int, reader: int, lines: Sequence[str]) -> Iterator[None]:
    stopping = threading.Event()

    def write() -> None:
        with Client(writer) as client:
            for number, line in enumerate(lines):
                store(client, f"{line} Again.", f"load-{number}", metadata(number)).json()
                if stopping.wait(LOAD_PAUSE_S):
                    return

    def read() -> None:
        with Client(reader) as client:
            for line in lines:
                retrieve(client, query(line), k=5).json()
                if stopping.wait(LOAD_PAUSE_S):
                    return

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def table(results: Sequence[Visibility]) -> Table:
    """Return a table with a row for the idle workers and a row for the loaded ones."""
    rows = (
        (
            result.load,
            str(result.delays.count),
            ms(result.delays.p50_ms),
            ms(result.delays.p99_ms),
            ms(result.slowest_ms),
            verdict(is_met=result.delays.p99_ms <= AIM_P99_MS),
        )
        for result in results
    )
    return Table(
        "From a write's acknowledgement on one worker to its visibility on another (one writer)",
        ("beside it", "writes", "p50 ms", "p99 ms", "slowest ms", f"aim p99 {AIM_P99_MS} ms"),
        tuple(rows),
        (
            "Default settings, eventual consistency. The other worker is asked for the key every "
            f"{LOOK_S * 1000:.0f} ms from before the write, so none finds it rested.",
        ),
    )
