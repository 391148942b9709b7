"""Measures what memories take: resident memory of the worker, and disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.figures import Table
from benchmarks.service_process import ProcessMemory, ServiceProcess


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory and the disk of a worker that has just started over `memories` memories.

    Attributes:
        used: its resident memory after it has been used.
        journal_bytes: bytes of the journals, which are the truth.
        snapshot_bytes: bytes of the one snapshot that it started from.
        catalog_bytes: bytes of the worker's own catalog, which every start makes again.
        text_bytes: bytes of the contents alone, in UTF-8.

    """

    memories: int
    started: ProcessMemory
    used: ProcessMemory
    journal_bytes: int
    snapshot_bytes: int
    catalog_bytes: int
    text_bytes: int


def of_started(service: ServiceProcess, memories: int, text_bytes: int) -> Footprint:
    """Measure a worker that is ready and has done nothing yet."""
    memory = service.memory()
    disk = (service.journal_bytes(), service.snapshot_bytes(), service.catalog_bytes())
    return Footprint(memories, memory, memory, *disk, text_bytes)


def once_used(footprint: Footprint, service: ServiceProcess) -> Footprint:
    """Return the footprint with the memory of the worker after its use."""
    return replace(footprint, used=service.memory())


def table(results: Sequence[Footprint]) -> Table:
    """Return a table of resident memory in MB and of disk in bytes for each memory."""
    return Table(
        "Memory of the worker and disk",
        (
            "memories",
            "RSS MB",
            "anonymous MB",
            "files MB",
            "peak MB",
            "RSS MB after use",
            "journal B/memory",
            "snapshot B/memory",
            "catalog B/memory",
            "text B/memory",
        ),
        tuple(_row(result) for result in results),
        (
            "Started from one snapshot. A data folder keeps two, and loses the journals that both cover a day later.",
            *(_growth(small, large) for small, large in pairwise(results)),
        ),
    )


def _row(result: Footprint) -> tuple[str, ...]:
    started = result.started
    resident = (started.resident_bytes, started.anonymous_bytes, started.file_bytes, started.peak_bytes)
    disk = (result.journal_bytes, result.snapshot_bytes, result.catalog_bytes, result.text_bytes)
    return (
        str(result.memories),
        *(f"{size / 1e6:.0f}" for size in (*resident, result.used.resident_bytes)),
        *(f"{size / result.memories:.0f}" if result.memories else "" for size in disk),
    )


def _growth(small: Footprint, large: Footprint) -> str:
    grown = large.started.resident_bytes - small.started.resident_bytes
    each = grown / (large.memories - small.memories)
    return f"From {small.memories} to {large.memories} memories: {each:.0f} B of RSS for each more."
