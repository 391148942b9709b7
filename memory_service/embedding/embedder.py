"""What the service needs of an embedding model; the models themselves are in modules of their own.

A text is first cut into windows that the model can read whole, then windows become vectors. Cutting is the
embedder's work because only its tokenizer knows the lengths; batching is not (see `batching.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identifies the model that made a vector: vectors of different fingerprints are never compared.

    Attributes:
        model: its usual name.
        revision: sha256 of its weights, in hex.
        dim: components of a vector.
        pooling: how token vectors become one vector.
    """

    model: str
    revision: str
    dim: int
    pooling: str

    def as_dict(self) -> dict[str, str | int]:
        """For `store.json` and the first frame of a journal."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A stretch of a text that the model reads whole.

    Attributes:
        text: the stretch itself, verbatim.
        ids: its token ids, special tokens included; at most the model's limit (256 for MiniLM).
    """

    text: str
    ids: Sequence[int]


class Embedder(Protocol):
    """A sentence-embedding model. Both methods are thread-safe."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The model's identity."""

    def windows(self, text: str) -> list[TextWindow]:
        """Cut a text into overlapping windows that together cover all of it; one when it is short enough.

        Windows begin at word starts. An empty text gives one window.
        """

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Embed windows, in their order.

        Returns:
            float32 of shape (len(windows), dim); rows have length 1. Shape (0, dim) for no windows.
        """
