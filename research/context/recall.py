"""The protocol by which research uses the memories, and the retrieving of memories for a question."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from memory_service.embedding.embedder import Vectors
from vector_memory.fields import JSON
from vector_memory.memories import Consistency, Event, NewMemory, Stored
from vector_memory.research import ResearchRequest
from vector_memory.retrieval import Retrieval, Retrieved

BY_MODEL: Final = "model"

_NOT_BY_MODEL: Final[Mapping[str, JSON]] = {"provenance": {"$ne": BY_MODEL}}


class Recall(Protocol):
    """Memories that can be searched. All methods block and are thread-safe."""

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """Return the memories that answer a query best."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in their order.

        Returns:
            float32 of shape (len(texts), dim); rows have length 1.
        """

    def store(self, memory: NewMemory) -> Stored:
        """Store a memory.

        Raises:
            ServiceError: the memory is not stored.
        """

    def history(self, key: str, *, namespace: str, consistency: Consistency) -> Sequence[Event]:
        """Return what happened to a memory, newest first.

        Raises:
            NotFound: no memory has had this key.
        """


def recall_for(request: ResearchRequest, recall: Recall) -> tuple[Retrieval, Retrieved]:
    """Retrieve memories for a question. Return the retrieval that was used, and its result.

    Memories that a model wrote are left out unless the question includes them.
    """
    asked = {name: getattr(request, name) for name in ("query", "namespace", "k", "filter", "min_score")}
    retrieval = Retrieval(**asked, explain=request.trace)
    return (retrieval, recall.retrieve(retrieval)) if request.include_model else recall_not_by_model(retrieval, recall)


def recall_not_by_model(retrieval: Retrieval, recall: Recall) -> tuple[Retrieval, Retrieved]:
    """Retrieve without the memories that a model wrote. Return the retrieval that was used, and its result."""
    # A filter costs time, and most namespaces have no such memory. So the filter is used only after one came.
    retrieved = recall.retrieve(retrieval)
    if all(hit.memory.metadata.get("provenance") != BY_MODEL for hit in retrieved.hits):
        return retrieval, retrieved
    not_by_model = {"$and": [retrieval.filter, _NOT_BY_MODEL]} if retrieval.filter else _NOT_BY_MODEL
    retrieval = retrieval.model_copy(update={"filter": not_by_model})
    return retrieval, recall.retrieve(retrieval)
