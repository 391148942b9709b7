"""All that research knows of a memory."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from memory_service.embedding import Vectors
from memory_service.model import JSON, Hit


class Recall(Protocol):
    """Remembered texts that can be searched by meaning. Both methods block and are thread-safe."""

    def retrieve(
        self,
        query: str,
        *,
        namespace: str,
        k: int,
        filter: Mapping[str, JSON] | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """The memories nearest to the query, at most k, best first."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in their order.

        Returns:
            float32 of shape (len(texts), dim); rows have length 1.
        """
