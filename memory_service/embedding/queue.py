"""The queue before the model: concurrent requests share its runs, and long texts are embedded window by window."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from memory_service.batching import Batcher
from memory_service.embedding.embedder import Embedder, TextWindow, Vectors

EMBED_TOKENS_MAX = 256
"""Padded tokens of one run of the model. A larger run is no faster on a CPU, and a query would wait longer for it."""

WAITING_WINDOWS_MAX = 100_000
"""Windows that may wait for the model: about ten minutes of work on two cores."""

PendingVector: TypeAlias = Callable[[], Vectors]
"""Waits for a vector (dim,) and returns it. Every further call returns the same vector."""


class EmbeddingQueue:
    """Embeds the texts of many callers, with one run of the model at a time."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._dim = embedder.fingerprint.dim
        self._batcher: Batcher[TextWindow, Vectors] = Batcher(
            "embedder",
            lambda windows: list(embedder.embed(windows)),
            cost=lambda window: len(window.ids),
            batch_cost_max=EMBED_TOKENS_MAX,
            waiting_max=WAITING_WINDOWS_MAX,
        )

    def windows(self, texts: Sequence[str], *, urgent: bool = False) -> list[Vectors]:
        """Return the vectors (windows, dim) of each text.

        Raises:
            Unavailable: too many windows wait already, or the queue is closed.
        """
        if not texts:
            return []
        cut = [self._embedder.windows(text) for text in texts]
        flat = [window for windows in cut for window in windows]
        # Windows of similar length share a run, because all windows of a run are padded to its longest.
        order = sorted(range(len(flat)), key=lambda at: len(flat[at].ids))
        futures = self._batcher.submit([flat[at] for at in order], urgent=urgent)
        vectors = np.empty((len(flat), self._dim), dtype=np.float32)
        for position, future in zip(order, futures, strict=True):
            vectors[position] = future.result()
        # Split (all windows, dim) into one (windows, dim) per text.
        ends = np.cumsum([len(windows) for windows in cut])
        return np.split(vectors, ends[:-1])

    def directions(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector for each text, (len(texts), dim): the mean direction of its windows."""
        if not texts:
            return np.empty((0, self._dim), dtype=np.float32)
        return np.stack([mean_direction(windows) for windows in self.windows(texts)])

    def tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens that the model reads to embed texts, with the special tokens of every window."""
        return sum(len(window.ids) for text in texts for window in self._embedder.windows(text))

    def start(self, texts: Sequence[str]) -> list[PendingVector]:
        """Start embedding queries, ahead of texts to be stored, and return without waiting for them.

        Raises:
            Unavailable: as in `windows`; calling what is returned may raise it, too.
        """
        cut = [self._embedder.windows(text) for text in texts]
        flat = [window for windows in cut for window in windows]
        futures = iter(self._batcher.submit(flat, urgent=True, background=True))
        return [_pending_direction([next(futures) for _ in windows]) for windows in cut]

    def close(self) -> None:
        """Finish what was submitted."""
        self._batcher.close()


def _pending_direction(futures: "list[Future[Vectors]]") -> PendingVector:
    return lambda: mean_direction(np.stack([future.result() for future in futures]))


def mean_direction(windows: Vectors) -> Vectors:
    """Return the unit vector (dim,) in the mean direction of vectors (windows, dim)."""
    if len(windows) == 1:
        return windows[:1].reshape(-1)
    total = windows.sum(axis=0)
    direction: Vectors = total / np.linalg.norm(total)
    return direction
