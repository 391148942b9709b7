"""Measures durable stores over HTTP, one at a time and in batches, against the bare embedding of the same texts."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, Table, latencies, ms, ratio_of_medians, times, verdict
from benchmarks.http_client import Client, store
from benchmarks.service_process import ServiceProcess
from benchmarks.texts import metadata

BLOCK = 20
"""Texts of one turn of the bare model and of the service. Short turns let both meet the same noise of the machine. With
several texts in a turn, neither pays at every text for caches that the other filled."""

BATCH_SHARE_MIN = 0.85
"""Aim: share of the bare model's texts per second that a batch store reaches."""

APPEND_BYTES = 2_000
"""Bytes that a memory of one window takes in the journal, roughly."""


@dataclass(frozen=True, slots=True)
class Singles:
    """Sequential single stores into a service that holds `memories` already.

    Attributes:
        memories: number of memories held before.
        synced: latencies of appending and syncing as many bytes as a memory has. They are the floor of durability.

    """

    memories: int
    stored: Latencies
    bare: Latencies
    synced: Latencies
    ratio: float


def singles(client: Client, model: BareModel, texts: Sequence[str], memories: int) -> Singles:
    """Store texts one at a time, alternating with the bare model in blocks."""
    ours: list[float] = []
    bare: list[float] = []
    for block in blocks(texts):
        bare += [timed_embedding_s(model, text) for text in block]
        for text in block:
            answer = store(client, text, f"single-{len(ours)}", metadata(len(ours)))
            if answer.json()["status"] != "stored":
                raise RuntimeError(f"A fresh text was {answer.json()['status']}.")
            ours.append(answer.took_s)
    synced = _synced_appends_s(len(texts))
    return Singles(memories, latencies(ours), latencies(bare), latencies(synced), ratio_of_medians(ours, bare))


def blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in turns of `BLOCK`."""
    return (texts[begin : begin + BLOCK] for begin in range(0, len(texts), BLOCK))


def timed_embedding_s(model: BareModel, text: str) -> float:
    """Return the seconds of one bare embedding."""
    started = time.perf_counter()
    model.embed_one(text)
    return time.perf_counter() - started


def _synced_appends_s(count: int) -> list[float]:
    took_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        descriptor = os.open(Path(folder) / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(count):
            started = time.perf_counter()
            os.write(descriptor, bytes(APPEND_BYTES))
            os.fdatasync(descriptor)
            took_s.append(time.perf_counter() - started)
        os.close(descriptor)
    return took_s


def singles_table(result: Singles) -> Table:
    """Return a table of single stores with their two floors: the bare embedding and the bare sync."""
    rows = (
        ("store over HTTP, durable", ms(result.stored.p50_ms), ms(result.stored.p99_ms), times(result.ratio)),
        ("bare embedding of the same texts", ms(result.bare.p50_ms), ms(result.bare.p99_ms), times(1)),
        ("bare append and sync", ms(result.synced.p50_ms), ms(result.synced.p99_ms), ""),
    )
    return Table(
        f"Store one at a time, into {result.memories} memories ({result.stored.count} texts, one client)",
        ("", "p50 ms", "p99 ms", "ratio of p50"),
        rows,
    )


# -- batches -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """The time on the clock and the processor time of a piece of work. Neighbours disturb the latter less."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The time that one batch took through the service and through the bare model."""

    texts: int
    stored: Spent
    bare: Spent

    @property
    def share(self) -> float:
        """Return the service's speed as a share of the bare model's."""
        return self.bare.wall_s / self.stored.wall_s

    @property
    def cpu_share(self) -> float:
        """Return the service's speed as a share of the bare model's, by processor time."""
        return self.bare.cpu_s / self.stored.cpu_s


def batches(service: ServiceProcess, client: Client, model: BareModel, texts: Sequence[str], size: int) -> list[Batch]:
    """Store texts in batches, alternating with the bare model. The one that begins alternates, too."""
    results: list[Batch] = []
    for begin in range(0, len(texts), size):
        batch = texts[begin : begin + size]
        print(f"batch store: {begin + len(batch)} of {len(texts)}", file=sys.stderr)
        # Every second batch goes to the service first, so that caches favour neither.
        bare_first = _embedded(model, batch) if len(results) % 2 == 0 else None
        stored = _stored(service, client, batch, begin)
        results.append(Batch(len(batch), stored, bare_first or _embedded(model, batch)))
    return results


def _embedded(model: BareModel, texts: Sequence[str]) -> Spent:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    model.embed_all(texts)
    return Spent(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def _stored(service: ServiceProcess, client: Client, texts: Sequence[str], begin: int) -> Spent:
    items = [
        {"content": text, "key": f"batch-{number}", "metadata": metadata(number)}
        for number, text in enumerate(texts, begin)
    ]
    cpu_s = service.cpu_s()
    answer = client.post("/v1/memories/batch", {"memories": items})
    cpu_s = service.cpu_s() - cpu_s
    if (stored := answer.json()["stored"]) != len(texts):
        raise RuntimeError(f"{stored} of {len(texts)} texts of a batch were stored.")
    return Spent(answer.took_s, cpu_s)


def batches_table(results: Sequence[Batch]) -> Table:
    """Return a table of the batches. Its notes compare the median shares with the aim."""
    share = median(batch.share for batch in results)
    cpu_share = median(batch.cpu_share for batch in results)
    return Table(
        f"Batch store, batches of {results[0].texts}",
        ("batch", "stored texts/s", "bare model texts/s", "share kept", "by processor time"),
        tuple(_row(at, batch) for at, batch in enumerate(results, 1)),
        (
            f"Median share {share:.1%}; aim at least {BATCH_SHARE_MIN:.0%}: "
            f"{verdict(is_met=share >= BATCH_SHARE_MIN)}. By processor time {cpu_share:.1%}.",
        ),
    )


def _row(at: int, batch: Batch) -> tuple[str, ...]:
    rates = (batch.texts / batch.stored.wall_s, batch.texts / batch.bare.wall_s)
    return (str(at), *(f"{rate:.0f}" for rate in rates), f"{batch.share:.0%}", f"{batch.cpu_share:.0%}")
