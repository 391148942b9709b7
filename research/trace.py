"""What happened on the way to an answer, and what became of its memories since.

A trace is a value; who keeps it, where and for how long is for those above. It holds texts of memories, so whoever
shows one later asks `fates` first: what was deleted or changed meanwhile must not be shown from it.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory_service.metadata import canonical_json
from research.context.recall import Recall
from vector_memory.errors import NotFound
from vector_memory.memories import Consistency, Event, EventKind, Memory
from vector_memory.research import Answer, ChatMessage, Fate, ResearchRequest
from vector_memory.retrieval import Retrieved


class Stopwatch:
    """Tells how long each step took.

    Attributes:
        laps_ms: milliseconds by the steps' names, in their order.
    """

    def __init__(self) -> None:
        self._started = self._lap_started = time.perf_counter()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """A step ends here, and the next begins."""
        now = time.perf_counter()
        self.laps_ms[name] = round((now - self._lap_started) * 1000, 2)
        self._lap_started = now

    @property
    def total_ms(self) -> int:
        """Since it was made."""
        return round((time.perf_counter() - self._started) * 1000)


@dataclass(frozen=True, slots=True)
class Trace:
    """How an answer came about.

    Attributes:
        retrieved: the candidates for its passages, with their explanation.
        prompt: the messages that were sent, or would have been; None when nothing was to be asked.
        timings_ms: milliseconds by step: retrieve, pack, generate, verify, remember.
        asked_at_ms: when it was retrieved, in milliseconds since the Unix epoch.
    """

    request: ResearchRequest
    retrieved: Retrieved
    prompt: tuple[ChatMessage, ...] | None
    answer: Answer
    timings_ms: Mapping[str, float]
    asked_at_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A memory as it came for an answer: its key, and a digest of all that it said then."""

    key: str
    version: str


def version(memory: Memory | Event) -> str:
    """A digest of a memory that any change to it, and any other life under its key, changes."""
    said = [memory.content, memory.metadata, memory.created_at_ms, memory.updated_at_ms]
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def fates(recall: Recall, namespace: str, seen: Sequence[Seen]) -> dict[str, Fate]:
    """What became of memories since, by their keys; sees every acknowledged write of whichever worker."""
    found: dict[str, Fate] = {}
    for at, one in enumerate(seen):
        # What the first strong look brings in, the others find there.
        found[one.key] = _fate(recall, namespace, one, Consistency.EVENTUAL if at else Consistency.STRONG)
    return found


def _fate(recall: Recall, namespace: str, seen: Seen, consistency: Consistency) -> Fate:
    try:
        latest, *_ = recall.history(seen.key, namespace=namespace, consistency=consistency)
    except NotFound:
        return "deleted"
    if latest.content is None:
        return "expired" if latest.kind is EventKind.EXPIRED else "deleted"
    return "unchanged" if version(latest) == seen.version else "updated"
