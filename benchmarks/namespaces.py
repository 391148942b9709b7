"""Measures many small namespaces: their RAM, a start over them, and the cost of a retrieve in one of them.

`python -m benchmarks.namespaces` writes folders with random unit vectors, since embedding 50,000 texts takes minutes,
and opens the service in fresh processes, with and without a budget for indexes. The embedder draws a vector from the
text's hash, so a retrieve measures only search, words and loading.
"""

import argparse
import gc
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.figures import Table, latencies, ms, rendered
from benchmarks.texts import SEED
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint, TextWindow, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.records import Put, Record
from memory_service.journal.writer import JournalWriter
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from vector_memory.retrieval import Retrieval

DIM = 384
MEMORIES = 5
SIZES = (0, 1_000, 10_000)
BUDGET_MB = 10.0
ASKED = 300
APPEND_RECORDS = 1_000
SUBJECTS = ("Dana", "the client", "hall 4", "the budget", "our courier", "Brightwater", "the pallet", "the invoice")
VERBS = ("drinks", "was raised to", "closes before", "prefers", "arrives after", "was moved to", "costs", "waits for")
OBJECTS = ("an oat flat white", "62,000 euros", "ten in the morning", "the blue door", "row", "week", "gate", "crate")


class Drawn:
    """An embedder that draws a unit vector from the hash of a text."""

    fingerprint = Fingerprint("drawn", "ef" * 32, DIM, "none")

    def windows(self, text: str) -> list[TextWindow]:
        """Return one window with the whole text."""
        return [TextWindow(text, (0,))]

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Return a unit vector for each window, (n, 384)."""
        seeds = [int.from_bytes(hashlib.sha256(window.text.encode()).digest()[:8], "little") for window in windows]
        # (n, DIM), divided by the norms (n, 1).
        vectors = np.stack([np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32) for seed in seeds])
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@dataclass(frozen=True, slots=True)
class Opened:
    """The figures of a service in a fresh process over a folder with a snapshot.

    Attributes:
        budget_mb: budget for indexes; 0 sets no limit.
        started_mb: RSS after the service was opened.
        asked_mb: RSS after every namespace was asked once.
        in_ram: number of indexes in RAM at that time.
        weight_mb: size of these indexes, as the service estimates it.
        loading_ms, resident_ms: p50 and p99 of a retrieve whose index had to be loaded, and of the next retrieve.

    """

    namespaces: int
    budget_mb: float
    start_s: float
    started_mb: float
    asked_mb: float
    in_ram: int
    weight_mb: float
    loading_ms: tuple[float, float]
    resident_ms: tuple[float, float]


def fill(folder: DataFolder, namespaces: int) -> None:
    """Write a journal with five memories in each namespace. Each round writes one memory to every namespace."""
    folder.claim(Drawn.fingerprint)
    journal, clock, chooser = JournalWriter(folder.journal, Drawn.fingerprint), HybridClock(), random.Random(SEED)
    vectors = np.random.default_rng(SEED)
    numbers = [(namespace, number) for number in range(MEMORIES) for namespace in range(namespaces)]
    for begin in range(0, len(numbers), APPEND_RECORDS):
        writer, records = journal.begin(), []
        for namespace, number in numbers[begin : begin + APPEND_RECORDS]:
            row = vectors.standard_normal((1, DIM), dtype=np.float32)
            stamp = clock.tick(writer)
            put = Put(
                namespace=_name(namespace),
                key=f"m{number}",
                content=_text(chooser),
                metadata="{}",
                vectors=row / np.linalg.norm(row),
                created_at_ms=stamp.ms,
                expires_at_ms=None,
            )
            records.append(Record(stamp, put))
        if (error := journal.append(records).error) is not None:
            raise error
    journal.close()


def _name(namespace: int) -> str:
    return f"customer-{namespace}"


def _text(chooser: random.Random) -> str:
    sentence = " ".join(chooser.choice(words) for words in (SUBJECTS, VERBS, OBJECTS))
    return f"{sentence} {chooser.randrange(10_000)}, as {chooser.choice(SUBJECTS)} said."


def measure(folder: Path, namespaces: int, budget_mb: float) -> Opened:
    """Open the service in this process, ask in every namespace, and close it. The process must be fresh."""
    settings = MemorySettings(index_budget_mb=budget_mb, cache_dir=folder / "cache")
    begun = time.perf_counter()
    service = MemoryService(DataFolder(folder / "memories"), Drawn(), settings)
    start_s = time.perf_counter() - begun
    started_mb = _resident_mb()
    order = random.Random(SEED).sample(range(namespaces), namespaces)
    loading, resident = [], []
    for at, namespace in enumerate(order):
        first_s = _ask(service, namespace)
        # The last ones are asked again. The second retrieve finds the index in RAM.
        if at >= len(order) - ASKED:
            loading.append(first_s)
            resident.append(_ask(service, namespace))
    # Garbage of the retrieves must not count as memory of the indexes.
    gc.collect()
    asked_mb, indexes = _resident_mb(), service._projection._indexes
    in_ram, weight_mb = len(indexes.in_ram()), indexes.weight_bytes / 1e6
    service.close()
    return Opened(
        namespaces,
        budget_mb,
        start_s,
        started_mb,
        asked_mb,
        in_ram,
        weight_mb,
        *((found.p50_ms, found.p99_ms) for found in (latencies(lane or [0.0]) for lane in (loading, resident))),
    )


def _ask(service: MemoryService, namespace: int) -> float:
    begun = time.perf_counter()
    found = service.retrieve(
        Retrieval(query="what did the client say of the blue door?", namespace=_name(namespace), k=3)
    )
    took_s = time.perf_counter() - begun
    assert len(found.hits) == 3, "every namespace holds five"
    return took_s


def _resident_mb() -> float:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024 / 1e6


def _in_a_fresh_process(folder: Path, namespaces: int, budget_mb: float) -> Opened:
    print(f"{namespaces} namespaces, budget {budget_mb} MB", file=sys.stderr)
    arguments = ["--open", str(folder), "--sizes", str(namespaces), "--budget-mb", str(budget_mb)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.namespaces", *arguments], check=True, capture_output=True, text=True
    )
    return Opened(**json.loads(done.stdout))


def table(results: Sequence[Opened]) -> Table:
    """Return a table with one row for each process."""
    bare_mb = results[0].started_mb
    rows = []
    for one in results:
        shown_ms = [ms(value) if one.namespaces else "" for value in (*one.loading_ms, *one.resident_ms)]
        rows.append(
            (
                str(one.namespaces),
                f"{one.budget_mb:g}" if one.budget_mb else "none",
                f"{one.start_s:.2f}",
                f"{one.started_mb:.0f}",
                f"{one.asked_mb:.0f}",
                str(one.in_ram),
                f"{one.weight_mb:.1f}",
                f"{(one.asked_mb - bare_mb) * 1000 / one.namespaces:.1f}" if one.namespaces else "",
                *shown_ms,
            )
        )
    return Table(
        f"Namespaces of {MEMORIES} memories",
        (
            "namespaces",
            "budget MB",
            "start s",
            "RSS MB",
            "RSS MB, all asked",
            "in RAM",
            "weight MB",
            "kB each",
            "to be loaded p50 ms",
            "p99 ms",
            "resident p50 ms",
            "p99 ms",
        ),
        tuple(rows),
        (
            "The service alone, in a process without the model, started from a snapshot. Each namespace is asked once; "
            f"the last {ASKED} retrieves are timed, each followed by another in the same namespace.",
            "kB each: RSS when all were asked beyond that of a process without any, for each namespace.",
        ),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of namespaces")
    parser.add_argument("--budget-mb", type=float, default=BUDGET_MB, help="of the runs with a budget")
    parser.add_argument("--open", type=Path, help="measure this folder in this process, and print JSON")
    given = parser.parse_args()
    if given.open is not None:
        print(json.dumps(asdict(measure(given.open, given.sizes[0], given.budget_mb))))
        return
    results: list[Opened] = []
    for size in sorted({0, *given.sizes}):
        folder = Path(tempfile.mkdtemp())
        try:
            (folder / "cache").mkdir()
            data = DataFolder(folder / "memories")
            fill(data, size)
            if size:
                service = MemoryService(data, Drawn(), MemorySettings(cache_dir=folder / "cache"))
                service.snapshot()
                service.close()
            budgets_mb = (0.0, given.budget_mb) if size else (0.0,)
            results += [_in_a_fresh_process(folder, size, budget_mb) for budget_mb in budgets_mb]
        finally:
            shutil.rmtree(folder)
    print(", ".join(f"{name}: {value}" for name, value in machine.described().items()), "\n")
    print(rendered(table(results)))


if __name__ == "__main__":
    main()
