"""An embedder without a model, whose vectors tell which text they are of: for scenarios that start many processes."""

import hashlib
from collections.abc import Sequence

import numpy as np

from memory_service.embedding.embedder import Fingerprint, TextWindow, Vectors

DIM = 16


class HashEmbedder:
    """A text's vector is drawn from its hash: equal texts score 1, others far less."""

    fingerprint = Fingerprint("test-hash", "cd" * 32, DIM, "none")

    def windows(self, text: str) -> list[TextWindow]:
        return [TextWindow(text, (0,))]

    def embed(self, windows: Sequence[TextWindow]) -> Vectors:
        vectors = np.empty((len(windows), DIM), np.float32)
        for at, window in enumerate(windows):
            seed = int.from_bytes(hashlib.sha256(window.text.encode()).digest()[:8], "little")
            vectors[at] = np.random.default_rng(seed).standard_normal(DIM)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
