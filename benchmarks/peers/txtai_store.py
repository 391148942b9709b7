"""Stores in txtai as a library, its first use, with hybrid search by BM25 and vectors. It runs in its environment."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from txtai import Embeddings

from benchmarks.peers.runner import Embedder, Memory, serve

CANDIDATES = 1_000
"""Hits of the whole index that a query with conditions filters. By default txtai takes ten times the query's limit."""


class TxtaiStore:
    """A store with an index for each collection. It saves an index after every write, or nothing is durable."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self._folder = folder
        self._config: dict[str, Any] = {
            "method": "external",
            "transform": lambda texts: embedder(texts),  # noqa: PLW0108 (txtai takes functions alone)
            "content": True,
            "hybrid": True,
            # Exact search. The default clusters the vectors that come first, and finds fewer of the later ones.
            "faiss": {"components": "IDMap,Flat"},
        }
        self._indexes: dict[str, Any] = {}
        self._one_at_a_time = threading.Lock()

    def _index(self, name: str) -> Any:
        if name not in self._indexes:
            index = Embeddings(self._config)
            if (path := self._folder / name).exists():
                index.load(str(path), config=self._config)
            self._indexes[name] = index
        return self._indexes[name]

    def add(self, collection: str, memories: Sequence[Memory]) -> None:
        """Store new memories and save the index."""
        index = self._index(collection)
        index.upsert([(one["id"], {"text": one["text"], **one["metadata"]}) for one in memories])
        index.save(str(self._folder / collection))

    def search(self, collection: str, query: str, k: int, equal: Mapping[str, str]) -> list[str]:
        """Return the ids of the best k by both signals in equal parts. The conditions filter the best candidates."""
        similar = f"similar(:query, {CANDIDATES})" if equal else "similar(:query)"
        conditions = "".join(f" and {name} = :{name}" for name in equal)
        sql = f"select id, text, score from txtai where {similar}{conditions} limit {k}"
        with self._one_at_a_time:  # txtai's API server does the same; two searches at once ended the process
            hits = self._index(collection).search(sql, k, parameters={"query": query, **equal})
        return [hit["id"] for hit in hits]

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        index = self._index(collection)
        sql = "select id from txtai where id = :id"
        return [id for id in ids if index.search(sql, 1, parameters={"id": id})]


if __name__ == "__main__":
    serve(TxtaiStore)
