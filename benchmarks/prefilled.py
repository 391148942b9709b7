"""Data folders with many memories, written through the service's own journal without embedding each text.

Embedding 100,000 texts takes many minutes. The first memories of a folder are embedded for real; the others keep their
real texts but get vectors derived from the real ones, which an exact index cannot tell apart in cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.service_process import DATA
from benchmarks.texts import SEED, metadata
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.records import Put, Record
from memory_service.journal.writer import JournalWriter
from memory_service.metadata import canonical
from vector_memory.memories import DEFAULT_NAMESPACE

APPEND_RECORDS = 1_000
NOISE = 0.02
"""Standard deviation of a component's noise: its length over 384 components is 0.4, beside the mixture's of about 0.8,
so that derived vectors are neither copies nor noise."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A folder that a service can start on.

    Attributes:
        path: `DATA` in it is the data folder.
        count: memories; fewer than were written when some updated others.
        probe: a text that is stored with its real vector, so that a retrieve of it has one right answer.
        probe_key: the key of that answer.
        text_bytes: of all contents, in UTF-8.

    """

    path: Path
    count: int
    probe: str
    probe_key: str
    text_bytes: int


def key_of(number: int) -> str:
    """The key that a prefilled memory has."""
    return f"memory-{number}"


def write(
    path: Path, lines: Sequence[str], embedded: Sequence[Vectors], embedder: Fingerprint, keys: int | None = None
) -> Prefilled:
    """Store lines in a new folder.

    Args:
        path: does not exist yet.
        lines: one memory each.
        embedded: the real vectors (windows, dim) of the first lines.
        embedder: what made them.
        keys: distinct ones, after which they begin again, so that further lines update memories; None for one a line.

    """
    path.mkdir()
    folder = DataFolder(path / DATA)
    folder.claim(embedder)
    journal, clock = JournalWriter(folder.journal, embedder), HybridClock()
    real, chooser = np.concatenate(embedded), np.random.default_rng(SEED)
    for begin in range(0, len(lines), APPEND_RECORDS):
        writer, records = journal.begin(), []
        end = min(begin + APPEND_RECORDS, len(lines))
        made_up = derived(chooser, real, end - begin)
        for number in range(begin, end):
            vectors = embedded[number] if number < len(embedded) else made_up[number - begin : number - begin + 1]
            stamp = clock.tick(writer)
            meta = canonical(metadata(number))
            key = key_of(number % (keys or len(lines)))
            records.append(
                Record(
                    stamp,
                    Put(
                        namespace=DEFAULT_NAMESPACE,
                        key=key,
                        content=lines[number],
                        metadata=meta,
                        vectors=vectors,
                        created_at_ms=stamp.ms,
                        expires_at_ms=None,
                    ),
                )
            )
        _append(journal, records)
    journal.close()
    probe = min(len(lines), len(embedded)) // 2
    text_bytes = sum(len(line.encode()) for line in lines)
    return Prefilled(path, keys or len(lines), lines[probe], key_of(probe), text_bytes)


def _append(journal: JournalWriter, records: Sequence[Record]) -> None:
    appended = journal.append(records)
    if appended.error is not None:
        raise appended.error


def derived(chooser: np.random.Generator, real: Vectors, count: int) -> Vectors:
    """Unit vectors (count, dim), each between two real ones with some noise."""
    first, second = chooser.integers(len(real), size=(2, count))
    share = chooser.uniform(0.5, 0.9, (count, 1)).astype(np.float32)
    noise = chooser.normal(0, NOISE, (count, real.shape[1])).astype(np.float32)
    mixed = share * real[first] + (1 - share) * real[second] + noise
    unit: Vectors = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit
