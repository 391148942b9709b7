"""The interface of an embedding model. Each model is a module of its own.

An embedder cuts a text into windows that the model can read, because only its tokenizer knows the lengths. Then it
makes a vector of each window. `queue.py` batches the windows of many callers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identifies the model that made a vector. Vectors of different fingerprints are never compared.

    Attributes:
        model: its usual name.
        revision: sha256 of its weights, in hex.
        dim: number of components of a vector.
        pooling: how token vectors become one vector.
    """

    model: str
    revision: str
    dim: int
    pooling: str

    def as_dict(self) -> dict[str, str | int]:
        """Return the fields as `store.json` and the first frame of a journal hold them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A part of a text that the model reads at once.

    Attributes:
        text: the part itself, verbatim.
        ids: its token ids with special tokens, at most as many as the model reads (256 for MiniLM).
    """

    text: str
    ids: Sequence[int]


class Embedder(Protocol):
    """A sentence-embedding model. Both methods are thread-safe."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The model's identity."""

    def windows(self, text: str) -> list[TextWindow]:
        """Cut a text into overlapping windows that together cover all of it.

        Windows begin at word starts. A short or empty text gives one window.
        """

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        """Embed windows, in their order.

        Returns:
            float32 of shape (len(windows), dim); rows have length 1. Shape (0, dim) for no windows.
        """
