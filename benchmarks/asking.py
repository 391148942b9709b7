"""Stores conversations and documents in a worker, asks it the questions over HTTP, and judges what comes back."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.conversations import Dialogue, Question, Turn
from benchmarks.http_client import Client
from benchmarks.judged_documents import Collection, Query
from benchmarks.judging import DEPTH, NDCG_DEPTH, Judged, ndcg
from memory_service.tokens import estimate_tokens

BATCH = 200
MODES = ("hybrid", "dense", "lexical")

TOKENS_OF = 10
"""Number of memories of a result whose tokens are counted."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to store turns.

    Attributes:
        name: its name in tables.
        slug: its name in namespaces.
        memory: returns the content and the metadata of a turn.

    """

    name: str
    slug: str
    memory: Callable[[Turn], dict[str, Any]]


WITH_METADATA = Variant(
    "text with metadata",
    "metadata",
    lambda turn: {
        "content": turn.text,
        "metadata": {"session_id": turn.session, "speaker": turn.speaker, "event_time": turn.time},
    },
)
VARIANTS = (
    WITH_METADATA,
    Variant('"speaker: text"', "labelled", lambda turn: {"content": f"{turn.speaker}: {turn.text}"}),
    Variant("text alone", "plain", lambda turn: {"content": turn.text}),
)


def dialogue(client: Client, one: Dialogue, variant: Variant) -> dict[str, list[Judged]]:
    """Store a conversation turn by turn, ask its questions in each mode, and return the judged answers by mode."""
    namespace = f"{one.source}-{one.name.replace(' ', '-')}-{variant.slug}"
    _store(client, namespace, [{"key": turn.key, **variant.memory(turn)} for turn in one.turns])
    return {
        mode: [
            _judged(one, question, _hits(client, namespace, question.text, mode, DEPTH)) for question in one.questions
        ]
        for mode in MODES
    }


def collection(client: Client, one: Collection) -> dict[str, list[float]]:
    """Store a collection, ask its queries in each mode, and return nDCG@10 of each query by mode."""
    _store(client, one.name, [{"key": id, "content": text} for id, text in one.documents])
    return {
        mode: [_graded(query, _hits(client, one.name, query.text, mode, NDCG_DEPTH)) for query in one.queries]
        for mode in MODES
    }


def _store(client: Client, namespace: str, memories: Sequence[dict[str, Any]]) -> None:
    for batch in _batches(memories):
        answer = client.post("/v1/memories/batch", {"namespace": namespace, "memories": batch}).json()
        if answer["stored"] != len(batch):
            raise RuntimeError(f"{len(batch) - answer['stored']} of {len(batch)} memories were not stored afresh.")
        print(".", end="", file=sys.stderr, flush=True)
    print(f" {namespace}: {len(memories)} memories", file=sys.stderr)


def _batches(items: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    return (items[begin : begin + BATCH] for begin in range(0, len(items), BATCH))


def _hits(client: Client, namespace: str, query: str, mode: str, k: int) -> list[dict[str, Any]]:
    body = {"namespace": namespace, "query": query, "mode": mode, "k": k}
    hits: list[dict[str, Any]] = client.post("/v1/memories/retrieve", body).json()["memories"]
    return hits


def _judged(one: Dialogue, question: Question, hits: Sequence[dict[str, Any]]) -> Judged:
    ranks = tuple(rank for rank, hit in enumerate(hits, 1) if hit["key"] in question.evidence)
    tokens = sum(estimate_tokens(hit["content"]) for hit in hits[:TOKENS_OF])
    return Judged(one.source, one.name, one.part, question.category, ranks, len(question.evidence), tokens)


def _graded(query: Query, hits: Sequence[dict[str, Any]]) -> float:
    gains = {rank: query.grades.get(hit["key"], 0) for rank, hit in enumerate(hits, 1)}
    return ndcg(gains, list(query.grades.values()))
