"""Measures the bytes written to the volume for each byte that changed, over a day of updates.

Journals, snapshots and one compaction write them. Vectors are made up, because only their size matters here. Everything
else is the service's own. The day is simulated: this file asks for a snapshot when the default triggers would have
taken one.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Table, times
from benchmarks.prefilled import key_of
from benchmarks.texts import SEED, metadata
from memory_service.embedding.embedder import Fingerprint, TextWindow, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.metadata import canonical
from memory_service.projection.snapshotting import HELD_SHARE, INTERVAL_SHARE
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from vector_memory.memories import NewMemory, Refused

BATCH = 500
DAY_S = 24 * 3600
DIM = 384
NEVER = 10**9
"""Records and seconds after which the service takes a snapshot by itself: never, since this file asks for them."""


@dataclass(frozen=True, slots=True)
class Day:
    """The bytes of one simulated day: updates of a folder of memories, then a compaction.

    Attributes:
        pace: how the updates are spread over time, in words.
        memories: number of memories in the folder.
        updates: number of updates.
        keys_updated: number of distinct keys among the updates.
        journal_bytes_per_memory: bytes of the journal for each memory, before the updates.
        changed_bytes: bytes of the updates' contents, metadata and vectors.
        journal_bytes: bytes that the updates wrote to the journal.
        snapshot_bytes: bytes of all snapshots, also of those that later snapshots replaced.
        snapshots: number of snapshots, without the compaction's.
        compaction_bytes: bytes of the snapshots that the compaction took.
        left_bytes: bytes of the data folder at the end.

    """

    pace: str
    memories: int
    updates: int
    keys_updated: int
    journal_bytes_per_memory: float
    changed_bytes: int
    journal_bytes: int
    snapshot_bytes: int
    snapshots: int
    compaction_bytes: int
    left_bytes: int

    @property
    def amplification(self) -> float:
        """Return the bytes written for each byte that changed."""
        return (self.journal_bytes + self.snapshot_bytes + self.compaction_bytes) / self.changed_bytes


class _MadeUpVectors:
    """An embedder that returns random unit vectors, one window for each text."""

    fingerprint = Fingerprint("made up", "0", DIM, "none")

    def __init__(self) -> None:
        self._chooser = np.random.default_rng(SEED)

    def windows(self, text: str) -> list[TextWindow]:
        return [TextWindow(text, (0,))]

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        # (n, DIM) normal components make a uniformly random direction; division by the norms (n, 1) makes unit vectors.
        drawn = self._chooser.normal(size=(len(windows), DIM)).astype(np.float32)
        unit: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit


def measure(folder: Path, lines: Sequence[str], memories: int, updates: int) -> list[Day]:
    """Store, update and compact, once with the updates spread over the day and once with all of them in a burst.

    Args:
        folder: a folder that does not exist yet.
        lines: `memories` + `updates` texts.
        memories: number of memories to store first.
        updates: number of updates. Their keys follow Zipf's law: the n-th most popular key is updated 1/n as often as
            the first.

    """
    folder.mkdir()
    defaults = MemorySettings()
    per_interval = math.ceil(updates * defaults.snapshot_interval_s / DAY_S)
    # After `enough` updates a snapshot is due at once. After `spread` updates one is due because its interval is over.
    enough = math.ceil(max(defaults.snapshot_records, memories * HELD_SHARE))
    spread = min(per_interval * math.ceil(enough * INTERVAL_SHARE / per_interval), enough)
    paces = {"spread over 24 hours": spread, "within one snapshot interval": enough}
    return [
        _day(folder / str(at), pace, lines[:memories], lines[memories : memories + updates], every)
        for at, (pace, every) in enumerate(paces.items())
    ]


def _day(folder: Path, pace: str, first: Sequence[str], updated: Sequence[str], every: int) -> Day:
    """Simulate a day on which a snapshot is due after every `every` updates, and after the last one."""
    print(f"a day of {len(updated)} updates, {pace}", file=sys.stderr)
    settings = MemorySettings(cache_dir=folder / "cache", snapshot_records=NEVER, snapshot_interval_s=NEVER)
    (folder / "cache").mkdir(parents=True)
    data = DataFolder(folder / "data")
    service = MemoryService(data, _MadeUpVectors(), settings)
    _store(service, first, range(len(first)))
    service.snapshot()
    filled_bytes = _bytes_under(data.journal)
    keys = _zipf(len(first), len(updated))
    sizes: list[int] = []
    for begin in range(0, len(updated), every):
        _store(service, updated[begin : begin + every], keys[begin : begin + every])
        sizes.append(_bytes_under(data.snapshots / service.snapshot()))
    updated_bytes = _bytes_under(data.journal) - filled_bytes
    # Only snapshots that the compaction took are new after it.
    before = set(data.snapshots.iterdir())
    service.compact()
    compaction_bytes = sum(_bytes_under(path) for path in set(data.snapshots.iterdir()) - before)
    left_bytes = _bytes_under(data.path)
    service.close()
    return Day(
        pace=pace,
        memories=len(first),
        updates=len(updated),
        keys_updated=len(set(keys)),
        journal_bytes_per_memory=filled_bytes / len(first),
        changed_bytes=sum(_changed_bytes(line, number) for number, line in zip(keys, updated, strict=True)),
        journal_bytes=updated_bytes,
        snapshot_bytes=sum(sizes),
        snapshots=len(sizes),
        compaction_bytes=compaction_bytes,
        left_bytes=left_bytes,
    )


def _zipf(keys: int, draws: int) -> list[int]:
    """Draw numbers of keys by Zipf's law. A random permutation decides which keys are popular."""
    chooser = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, keys + 1)
    # (keys,) weights by rank; the permutation gives each rank a key.
    drawn: list[int] = chooser.choice(chooser.permutation(keys), draws, p=weights / weights.sum()).tolist()
    return drawn


def _store(service: MemoryService, lines: Sequence[str], numbers: Sequence[int]) -> None:
    for batch in _batches(list(zip(lines, numbers, strict=True))):
        stored = service.store_batch(
            [NewMemory(content=line, key=key_of(at), metadata=metadata(at)) for line, at in batch]
        )
        refused = [one for one in stored if isinstance(one, Refused)]
        if refused:
            raise refused[0].error


def _batches(items: Sequence[tuple[str, int]]) -> Iterator[Sequence[tuple[str, int]]]:
    return (items[begin : begin + BATCH] for begin in range(0, len(items), BATCH))


def _changed_bytes(line: str, number: int) -> int:
    return len(line.encode()) + len(canonical(metadata(number)).encode()) + DIM * 4


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(results: Sequence[Day]) -> Table:
    """Return a table with one row for each pace."""
    rows = (
        (
            result.pace,
            *(f"{size / 1e6:.1f}" for size in (result.changed_bytes, result.journal_bytes, result.snapshot_bytes)),
            str(result.snapshots),
            f"{result.compaction_bytes / 1e6:.1f}",
            times(result.journal_bytes / result.changed_bytes),
            times(result.amplification),
            f"{result.left_bytes / 1e6:.1f}",
        )
        for result in results
    )
    first = results[0]
    return Table(
        f"Bytes written by {first.updates} updates of {first.memories} memories, and one compaction",
        (
            "updates",
            "changed MB",
            "journal MB",
            "snapshots MB",
            "snapshots",
            "compaction MB",
            "journal/changed",
            "all/changed",
            "left MB",
        ),
        tuple(rows),
        (
            f"A memory takes {first.journal_bytes_per_memory:.0f} bytes in the journal. The updates chose "
            f"{first.keys_updated} keys by Zipf's law.",
            "Changed: contents, metadata and vectors. Left: the data folder after the compaction.",
        ),
    )
