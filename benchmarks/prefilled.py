"""Writes data folders with many memories through the service's own journal, without embedding each text.

Embedding 100,000 texts takes many minutes. The first memories of a folder are embedded for real. The others keep their
real texts but get vectors derived from the real ones, which cost an exact index the same.
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
"""Standard deviation of the noise in each component. The length of the noise over 384 components is 0.4, and the length
of the mixture is about 0.8. So derived vectors are neither copies nor noise."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A folder that a service can start on.

    Attributes:
        path: the folder. `DATA` in it is the data folder.
        count: number of memories. It is smaller than the number of lines if some lines updated others.
        probe: a text that is stored with its real vector, so a retrieve of it has one right answer.
        probe_key: the key of that answer.
        text_bytes: bytes of all contents, in UTF-8.

    """

    path: Path
    count: int
    probe: str
    probe_key: str
    text_bytes: int


def key_of(number: int) -> str:
    """Return the key of a prefilled memory."""
    return f"memory-{number}"


def write(
    path: Path, lines: Sequence[str], embedded: Sequence[Vectors], embedder: Fingerprint, keys: int | None = None
) -> Prefilled:
    """Store lines in a new folder.

    Args:
        path: a folder that does not exist yet.
        lines: contents, one memory each.
        embedded: the real vectors (windows, dim) of the first lines.
        embedder: fingerprint of the embedder that made them.
        keys: number of distinct keys. Further lines begin again with the first key and update memories. None gives
            every line a key of its own.

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
    """Return unit vectors (count, dim), each between two real ones with some noise."""
    # (count,) each: the two real rows of each new vector.
    first, second = chooser.integers(len(real), size=(2, count))
    # (count, 1) the share of the first row, and (count, dim) the noise.
    share = chooser.uniform(0.5, 0.9, (count, 1)).astype(np.float32)
    noise = chooser.normal(0, NOISE, (count, real.shape[1])).astype(np.float32)
    mixed = share * real[first] + (1 - share) * real[second] + noise
    # (count, dim), divided by the norms (count, 1).
    unit: Vectors = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit
