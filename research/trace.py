"""Traces: how an answer was made, and what has happened to its memories since.

A trace is a value. The gateway above decides where it is kept, and for how long. A trace holds texts of memories, so
`fates` must be asked before a trace is shown: it must not show what was deleted or changed since.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from memory_service.metadata import canonical_json
from research.context.recall import Recall
from vector_memory.errors import NotFound
from vector_memory.memories import Consistency, Event, EventKind, Memory
from vector_memory.research import Answer, ChatMessage, Fate, ResearchRequest
from vector_memory.retrieval import Retrieved


class Stopwatch:
    """Measures how long each step takes.

    Attributes:
        laps_ms: milliseconds by the name of the step, in the order of the steps.
    """

    def __init__(self) -> None:
        self._started = self._lap_started = time.perf_counter()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a step, and begin the next one."""
        now = time.perf_counter()
        self.laps_ms[name] = round((now - self._lap_started) * 1000, 2)
        self._lap_started = now

    @property
    def total_ms(self) -> int:
        """Milliseconds since the watch was made."""
        return round((time.perf_counter() - self._started) * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """How an answer was made.

    Attributes:
        request: the question.
        retrieved: the candidates for its passages, with their explanation.
        prompt: the messages for the LLM, also if no LLM was asked; None if there were no passages to ask about.
        answer: the answer.
        timings_ms: milliseconds by step: retrieve, pack, generate, verify, remember.
        asked_at_ms: when the memories were retrieved, in milliseconds since the Unix epoch.
    """

    request: ResearchRequest
    retrieved: Retrieved
    prompt: tuple[ChatMessage, ...] | None
    answer: Answer
    timings_ms: Mapping[str, float]
    asked_at_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A memory as it was retrieved for an answer: its key, and the digest of its contents at that time."""

    key: str
    version: str


def version(memory: Memory | Event) -> str:
    """Return a digest of a memory. Any change, and storing its key again after a deletion, changes the digest."""
    contents = [memory.content, memory.metadata, memory.created_at_ms, memory.updated_at_ms]
    return hashlib.sha256(canonical_json(contents).encode()).hexdigest()


def fates(recall: Recall, namespace: str, seen: Sequence[Seen]) -> dict[str, Fate]:
    """Return what has happened to memories since, by their keys. Every acknowledged write of any worker counts."""
    # The first read is strong and brings in every write, so the others need not be.
    levels = chain([Consistency.STRONG], repeat(Consistency.EVENTUAL))
    return {one.key: _fate(recall, namespace, one, level) for one, level in zip(seen, levels, strict=False)}


def _fate(recall: Recall, namespace: str, seen: Seen, consistency: Consistency) -> Fate:
    try:
        latest, *_ = recall.history(seen.key, namespace=namespace, consistency=consistency)
    except NotFound:
        return "deleted"
    if latest.content is None:
        return "expired" if latest.kind is EventKind.EXPIRED else "deleted"
    return "unchanged" if version(latest) == seen.version else "updated"
