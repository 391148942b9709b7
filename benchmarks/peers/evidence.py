"""Measures how well a contender finds the turns that answer a question. `judging.py` says how it is judged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.conversations import Dialogue, Turn
from benchmarks.judging import DEPTH, Judged
from benchmarks.peers.contender import Contender
from benchmarks.peers.runner import Memory


@dataclass(frozen=True, slots=True)
class Content:
    """A way to store turns.

    Attributes:
        name: its name in tables.
        slug: its name in collections.
        memory: returns the memory of a turn.

    """

    name: str
    slug: str
    memory: Callable[[Turn], Memory]


def _dated(turn: Turn) -> Memory:
    day = datetime.fromisoformat(turn.time)
    text = f"{day.day} {day:%B %Y}, {turn.speaker}: {turn.text}"
    return {"id": turn.key, "text": text, "metadata": {}}


def _with_metadata(turn: Turn) -> Memory:
    labels = {"session_id": turn.session, "speaker": turn.speaker, "event_time": turn.time}
    return {"id": turn.key, "text": turn.text, "metadata": labels}


DATED = Content('"date, speaker: text"', "dated", _dated)
"""The content that every contender gets. No peer ranks by metadata, so the text has the date and the speaker."""

WITH_METADATA = Content("text with metadata", "metadata", _with_metadata)


def texts(dialogues: Iterable[Dialogue]) -> list[str]:
    """Return all texts that the peers will store."""
    return [DATED.memory(turn)["text"] for one in dialogues for turn in one.turns]


def measure(contender: Contender, dialogues: Sequence[Dialogue], content: Content, vectors: Path) -> list[Judged]:
    """Store each conversation in a collection of its own and ask its questions."""
    judged = []
    for one in dialogues:
        collection = f"{one.source}-{one.name.replace(' ', '-')}-{content.slug}"
        contender.fill(collection, [content.memory(turn) for turn in one.turns], vectors)
        found = contender.retrieve(collection, [question.text for question in one.questions], DEPTH, {}).found
        for question, ids in zip(one.questions, found, strict=True):
            ranks = tuple(rank for rank, id in enumerate(ids, 1) if id in question.evidence)
            evidence = len(question.evidence)
            judged.append(Judged(one.source, one.name, one.part, question.category, ranks, evidence, tokens=0))
    return judged
