"""All that research knows of the memories, and how it asks them."""

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
    """Remembered texts that can be searched. All methods block and are thread-safe."""

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """The memories that answer a query best."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in their order.

        Returns:
            float32 of shape (len(texts), dim); rows have length 1.
        """

    def store(self, memory: NewMemory) -> Stored:
        """Keep a text under its key.

        Raises:
            ServiceError: it is not kept.
        """

    def history(self, key: str, *, namespace: str, consistency: Consistency) -> Sequence[Event]:
        """What happened to a memory, newest first.

        Raises:
            NotFound: nothing is known of it.
        """


def recall_for(request: ResearchRequest, recall: Recall) -> tuple[Retrieval, Retrieved]:
    """What is retrieved for a question, and by which retrieval.

    Memories that a model wrote are left out unless the request admits them. Since a filter costs time and there are
    mostly none of them, the filter is used only when some came.
    """
    retrieval = Retrieval(
        query=request.query,
        namespace=request.namespace,
        k=request.k,
        filter=request.filter,
        min_score=request.min_score,
        explain=request.trace,
    )
    return (retrieval, recall.retrieve(retrieval)) if request.include_model else recall_not_by_model(retrieval, recall)


def recall_not_by_model(retrieval: Retrieval, recall: Recall) -> tuple[Retrieval, Retrieved]:
    """What is retrieved without the memories that a model wrote, and by which retrieval."""
    found = recall.retrieve(retrieval)
    if all(hit.memory.metadata.get("provenance") != BY_MODEL for hit in found.hits):
        return retrieval, found
    wanted = {"$and": [retrieval.filter, _NOT_BY_MODEL]} if retrieval.filter else _NOT_BY_MODEL
    retrieval = retrieval.model_copy(update={"filter": wanted})
    return retrieval, recall.retrieve(retrieval)
