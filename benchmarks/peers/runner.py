"""Runs in a peer's environment: takes orders as JSON lines on stdin and answers each with one on stdout.

The clock runs here, around the peer's own calls, so that the pipe is in no figure. The orders are the methods of
`Runner`; `peer.py` gives them.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np

from benchmarks.bare_model import BareModel
from memory_service.embedding.embedder import Vectors

BATCH = 1_000
"""Number of memories that `fill` adds at once."""


class Memory(TypedDict):
    """A memory to store. Metadata have only texts as values, since every peer can filter by texts."""

    id: str
    text: str
    metadata: dict[str, str]


class Store(Protocol):
    """A peer in its best configuration, over a folder that may hold memories from an earlier run."""

    def add(self, collection: str, memories: Sequence[Memory]) -> None:
        """Embed and store new memories, durably as far as the peer can."""
        ...

    def search(self, collection: str, query: str, k: int, equal: Mapping[str, str]) -> list[str]:
        """Return the ids of the best k memories with all metadata in `equal`, best first. Many threads may call it."""
        ...

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        ...


class Embedder:
    """The service's own model, the same for every peer. It reads the first 256 tokens of a text, as peers do."""

    def __init__(self) -> None:
        self._model = BareModel()
        self._known: dict[str, Vectors] = {}

    def know(self, folder: Path) -> None:
        """Use vectors that were made before: those in `vectors.npy` of the texts in `texts.json`."""
        texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self._known = dict(zip(texts, np.load(folder / "vectors.npy"), strict=True))

    def forget(self) -> None:
        """Forget the known vectors, so that the model runs for every text."""
        self._known = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (texts, dim). Texts of similar length share a run of the model."""
        unknown = [text for text in texts if text not in self._known]
        if len(unknown) < len(texts):
            made = dict(zip(unknown, self._model.embed_all(unknown), strict=True)) if unknown else {}
            return np.stack([self._known[text] if text in self._known else made[text][0] for text in texts])
        return np.stack([windows[0] for windows in self._model.embed_all(texts)])


Open = Callable[[Path, Embedder], Store]


class Runner:
    """Carries out the orders on a store."""

    def __init__(self, folder: Path, opened: Open) -> None:
        self._embedder = Embedder()
        self._store = opened(folder, self._embedder)

    def fill(self, collection: str, memories: Sequence[Memory], vectors: str) -> None:
        """Store memories with vectors that were made before, without running the model."""
        self._embedder.know(Path(vectors))
        for begin in range(0, len(memories), BATCH):
            self._store.add(collection, memories[begin : begin + BATCH])
        self._embedder.forget()

    def store(self, collection: str, memories: Sequence[Memory]) -> float:
        """Embed and store memories at once, and return the seconds."""
        started = time.perf_counter()
        self._store.add(collection, memories)
        return time.perf_counter() - started

    def store_each(self, collection: str, memories: Sequence[Memory]) -> list[float]:
        """Embed and store memories one by one, and return the seconds of each."""
        return [self.store(collection, [one]) for one in memories]

    def retrieve(
        self, collection: str, queries: Sequence[str], k: int, equal: Mapping[str, str], clients: int
    ) -> dict[str, Any]:
        """Ask every query in `clients` threads. Return the ids, the seconds of each query, and of all together."""

        def asked(query: str) -> tuple[list[str], float]:
            started = time.perf_counter()
            found = self._store.search(collection, query, k, equal)
            return found, time.perf_counter() - started

        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(asked, queries))
        wall_s = time.perf_counter() - started
        return {"found": [ids for ids, _ in answers], "took_s": [took for _, took in answers], "wall_s": wall_s}

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        return self._store.held(collection, ids)


def serve(opened: Open) -> None:
    """Open a store over the folder named on the command line and carry out orders until stdin ends."""
    # Output of libraries must not be taken for an answer, so stdout goes to stderr from here on.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    runner = Runner(Path(sys.argv[1]), opened)
    print(json.dumps({"answer": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"answer": getattr(runner, order["order"])(**order["with"])}
        except Exception as error:  # noqa: BLE001 (the edge: whatever a peer raises is told to the benchmark)
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
