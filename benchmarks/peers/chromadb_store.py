"""Stores in Chroma: its server is a process, and its HTTP client embeds here. It runs in Chroma's environment."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import chromadb
from chromadb.api.types import Documents, EmbeddingFunction

from benchmarks.peers.runner import Embedder, Memory, serve

START_S_MAX = 60.0
LOOK_S = 0.02

HNSW = {"space": "cosine", "ef_construction": 200, "ef_search": 200}
"""Parameters of Chroma's index. Twice the defaults find more, and the search is a small part of a retrieve."""


class SharedModel(EmbeddingFunction[Documents]):  # type: ignore[misc]  # Chroma is not installed here
    """The model that all stores share. It is also Chroma's default, which Chroma would load from its own server."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def __call__(self, input: Documents) -> Any:
        """Return a vector for each text."""
        return list(self._embedder(input))

    @staticmethod
    def name() -> str:
        """Return the name under which a collection remembers its embedder."""
        return "shared"

    def get_config(self) -> dict[str, Any]:
        """Return no configuration, since there is nothing to remember."""
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "SharedModel":
        """Refuse, since every client of a collection brings its own embedder."""
        raise NotImplementedError


class ChromaStore:
    """A store that keeps each collection as a collection of Chroma."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._server = subprocess.Popen(
            [Path(sys.executable).with_name("chroma"), "run", "--path", folder, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._client = self._connected(port)
        self._model = SharedModel(embedder)
        self._collections: dict[str, Any] = {}

    def _connected(self, port: int) -> Any:
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                return chromadb.HttpClient(host="127.0.0.1", port=port)
            except ValueError:  # Chroma's client raises this while nobody listens yet
                if time.monotonic() > deadline or self._server.poll() is not None:
                    raise
                time.sleep(LOOK_S)

    def _collection(self, name: str) -> Any:
        if name not in self._collections:
            self._collections[name] = self._client.get_or_create_collection(
                name, embedding_function=self._model, configuration={"hnsw": HNSW}
            )
        return self._collections[name]

    def add(self, collection: str, memories: Sequence[Memory]) -> None:
        """Store new memories."""
        self._collection(collection).add(
            ids=[one["id"] for one in memories],
            documents=[one["text"] for one in memories],
            metadatas=[one["metadata"] or None for one in memories],
        )

    def search(self, collection: str, query: str, k: int, equal: Mapping[str, str]) -> list[str]:
        """Return the ids of the best k by cosine. Chroma's own server has no other ranking."""
        conditions: list[dict[str, Any]] = [{name: value} for name, value in equal.items()]
        where = {"$and": conditions} if len(conditions) > 1 else (conditions[0] if conditions else None)
        answer = self._collection(collection).query(query_texts=[query], n_results=k, where=where)
        ids: list[str] = answer["ids"][0]
        return ids

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        found: list[str] = self._collection(collection).get(ids=list(ids), include=[])["ids"]
        return found


if __name__ == "__main__":
    serve(ChromaStore)
