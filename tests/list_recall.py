"""A list of memories that research can search: the second implementation of `Recall`, for tests without a volume.

Its embedding counts hashed words, so texts with the same words are near each other and everything is repeatable.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory_service.embedding.embedder import Vectors
from vector_memory.errors import NotFound
from vector_memory.memories import Consistency, Event, Memory, Metadata, NewMemory, Stored, StoreStatus
from vector_memory.retrieval import Hit, Mode, Retrieval, Retrieved

_DIM = 384


def memory(content: str, *, key: str = "k", metadata: Metadata | None = None, created_at_ms: int = 0) -> Memory:
    """A memory of the default namespace, stored at the beginning of 1970 when no time is given."""
    return Memory(
        namespace="default",
        key=key,
        content=content,
        metadata=metadata or {},
        created_at_ms=created_at_ms,
        updated_at_ms=created_at_ms,
        expires_at_ms=None,
    )


def hits(*contents: str) -> list[Hit]:
    """Hits with the keys m1, m2 ... and falling scores."""
    return [Hit.of(memory(text, key=f"m{i}"), score=1.0 - i / 100) for i, text in enumerate(contents, start=1)]


class ListRecall:
    """Finds the nearest of its memories by the words that they share with the query.

    Attributes:
        stored: what it was given to keep, which it does not search.
    """

    def __init__(self, memories: Sequence[Memory] = ()) -> None:
        self._memories = list(memories)
        self.stored: list[NewMemory] = []

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """Takes filters of the forms {"field": value}, {"field": {"$ne": value}} and {"$and": [...]}."""
        wanted, least = retrieval.filter or {}, retrieval.min_score
        candidates = [m for m in self._memories if m.namespace == retrieval.namespace and _matches(m, wanted)]
        scores = self.embed([m.content for m in candidates]) @ self.embed([retrieval.query])[0]
        found = [Hit.of(m, float(score)) for m, score in zip(candidates, scores, strict=True)]
        found = [hit for hit in found if least is None or hit.score >= least]
        return Retrieved(hits=tuple(sorted(found, key=lambda hit: -hit.score)[: retrieval.k]), mode=Mode.DENSE)

    def store(self, memory: NewMemory) -> Stored:
        self.stored.append(memory)
        assert memory.key is not None, "research names what it stores"
        return Stored(
            namespace=memory.namespace, key=memory.key, status=StoreStatus.STORED, created_at_ms=0, updated_at_ms=0
        )

    def history(self, key: str, *, namespace: str, consistency: Consistency = Consistency.EVENTUAL) -> Sequence[Event]:
        found = [one for one in self._memories if (one.namespace, one.key) == (namespace, key)]
        if not found:
            raise NotFound
        return [Event.of(one) for one in found]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Count words into hashed places; a text without words points into the first direction."""
        rows = np.zeros((len(texts), _DIM), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()) or [""]:
                row[zlib.crc32(word.encode("utf-8", "replace")) % _DIM] += 1.0
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def _matches(candidate: Memory, wanted: Mapping[str, Any]) -> bool:
    for field, value in wanted.items():
        if field == "$and":
            fits = all(_matches(candidate, part) for part in value)
        elif isinstance(value, Mapping):
            fits = candidate.metadata.get(field) != value["$ne"]
        else:
            fits = candidate.metadata.get(field) == value
        if not fits:
            return False
    return True
