"""The queue before the model: concurrent requests share its runs, and long texts are embedded window by window."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from memory_service.batching import Batcher
from memory_service.embedding.embedder import Embedder, TextWindow, Vectors

EMBED_TOKENS_MAX = 256
"""Padded tokens of one run of the model. Larger runs are no faster on a CPU, and a query waits for the one before."""

WAITING_WINDOWS_MAX = 100_000
"""Windows that may wait for the model: about ten minutes of work on two cores."""


Awaited: TypeAlias = Callable[[], Vectors]
"""Waits for a vector (dim,); asked again, it gives the same."""


class EmbeddingQueue:
    """Embeds texts for many callers at once, by one thread."""

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
        """The vectors (windows, dim) of each text. Windows of like length share a run, which saves padding.

        Raises:
            Unavailable: too many windows wait already, or the queue is closed.
        """
        if not texts:
            return []
        cut = [self._embedder.windows(text) for text in texts]
        flat = [window for windows in cut for window in windows]
        order = sorted(range(len(flat)), key=lambda at: len(flat[at].ids))
        futures = self._batcher.submit([flat[at] for at in order], urgent=urgent)
        vectors = np.empty((len(flat), self._dim), dtype=np.float32)
        for at, future in zip(order, futures, strict=True):
            vectors[at] = future.result()
        ends = np.cumsum([len(windows) for windows in cut])
        return np.split(vectors, ends[:-1])

    def directions(self, texts: Sequence[str]) -> Vectors:
        """One unit vector for each text, (len(texts), dim): the mean direction of its windows."""
        if not texts:
            return np.empty((0, self._dim), dtype=np.float32)
        return np.stack([mean_direction(windows) for windows in self.windows(texts)])

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the model reads to embed texts: those of every window, special ones included."""
        return sum(len(window.ids) for text in texts for window in self._embedder.windows(text))

    def awaited(self, texts: Sequence[str]) -> "list[Awaited]":
        """The directions of queries, each to be called for: they are embedded meanwhile, before texts to be stored.

        Raises:
            Unavailable: as `windows`; from what is returned as well.
        """
        cut = [self._embedder.windows(text) for text in texts]
        futures = iter(
            self._batcher.submit([window for windows in cut for window in windows], urgent=True, beside=True)
        )
        return [_awaited([next(futures) for _ in windows]) for windows in cut]

    def close(self) -> None:
        """Finish what was submitted."""
        self._batcher.close()


def _awaited(futures: "list[Future[Vectors]]") -> Awaited:
    return lambda: mean_direction(np.stack([future.result() for future in futures]))


def mean_direction(windows: Vectors) -> Vectors:
    """(dim,) of length 1, of vectors (windows, dim)."""
    if len(windows) == 1:
        return windows[:1].reshape(-1)
    total = windows.sum(axis=0)
    direction: Vectors = total / np.linalg.norm(total)
    return direction
