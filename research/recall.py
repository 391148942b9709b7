"""All that research knows of a memory."""

from collections.abc import Sequence
from typing import Protocol

from memory_service.embedding import Vectors
from memory_service.retrieval import Retrieval, Retrieved


class Recall(Protocol):
    """Remembered texts that can be searched. Both methods block and are thread-safe."""

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """The memories that answer a query best."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in their order.

        Returns:
            float32 of shape (len(texts), dim); rows have length 1.
        """
