"""Stores in LanceDB as a library, with hybrid search by words and exact vectors. It runs in LanceDB's environment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.index import FTS
from lancedb.rerankers import RRFReranker

from benchmarks.peers.runner import BATCH, Embedder, Memory, serve

DIM = 384


class LanceStore:
    """A store with a table for each collection. A table has a column for each metadata field of the first memory."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self._database = lancedb.connect(folder)
        self._embedder = embedder
        self._tables: dict[str, Any] = {}
        self._reranker = RRFReranker()

    def _table(self, name: str, labels: Sequence[str] = ()) -> Any:
        if name not in self._tables:
            if name in self._database.list_tables().tables:
                self._tables[name] = self._database.open_table(name)
            else:
                texts = [pa.field(column, pa.string()) for column in ("id", "text", *labels)]
                vector = pa.field("vector", pa.list_(pa.float32(), DIM))
                table = self._database.create_table(name, schema=pa.schema([*texts, vector]))
                table.create_index("text", config=FTS())
                self._tables[name] = table
        return self._tables[name]

    def add(self, collection: str, memories: Sequence[Memory]) -> None:
        """Append rows. Many rows at once go into the word index; a search scans the rows that are not in it yet."""
        table = self._table(collection, list(memories[0]["metadata"]))
        vectors = self._embedder([one["text"] for one in memories])
        table.add(
            [
                {"id": one["id"], "text": one["text"], "vector": vector, **one["metadata"]}
                for one, vector in zip(memories, vectors, strict=True)
            ]
        )
        if len(memories) > BATCH // 10:
            table.optimize()

    def search(self, collection: str, query: str, k: int, equal: Mapping[str, str]) -> list[str]:
        """Return the ids of the best k by both signals. LanceDB fuses their ranks by default. It filters first."""
        (vector,) = self._embedder([query])
        search = self._table(collection).search(query_type="hybrid").vector(vector).distance_type("cosine").text(query)
        if equal:
            search = search.where(" and ".join(f"{name} = '{value}'" for name, value in equal.items()), prefilter=True)
        found = search.rerank(self._reranker).limit(k).select(["id", "text"]).to_list()
        return [row["id"] for row in found]

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        listed = ", ".join(f"'{id}'" for id in ids)
        found = self._table(collection).search().where(f"id in ({listed})").limit(len(ids)).select(["id"]).to_list()
        return [row["id"] for row in found]


if __name__ == "__main__":
    serve(LanceStore)
