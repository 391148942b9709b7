"""Runs the service as a contender: `vector-memory serve` with default settings, over HTTP."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.http_client import Answer, Client
from benchmarks.peers.contender import Asked
from benchmarks.peers.runner import Memory
from benchmarks.service_process import ServiceProcess

BATCH = 500


class Ours:
    """The service, with a namespace for each collection."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        self._service = ServiceProcess(folder)
        self._port = 0

    def __enter__(self) -> Self:
        self._service.__enter__()
        self._port = self._service.ready_port()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.__exit__(kind, error, trace)

    def fill(self, collection: str, memories: Sequence[Memory], vectors: Path) -> None:
        """Store memories without the given vectors, since the service makes its vectors itself."""
        del vectors
        self.store(collection, memories)

    def store(self, collection: str, memories: Sequence[Memory]) -> float:
        """Store memories in batches, and return the seconds."""
        took_s = 0.0
        with Client(self._port) as client:
            for begin in range(0, len(memories), BATCH):
                batch = [_body(one) for one in memories[begin : begin + BATCH]]
                answer = client.post("/v1/memories/batch", {"namespace": collection, "memories": batch})
                if answer.json()["stored"] != len(batch):
                    raise RuntimeError("Not all of a batch were stored afresh.")
                took_s += answer.took_s
        return took_s

    def store_each(self, collection: str, memories: Sequence[Memory]) -> list[float]:
        """Store memories with one request for each, and return the seconds of each."""
        took_s = []
        with Client(self._port) as client:
            for one in memories:
                answer = client.post("/v1/memories", {"namespace": collection, **_body(one)})
                answer.json()
                took_s.append(answer.took_s)
        return took_s

    def retrieve(
        self, collection: str, queries: Sequence[str], k: int, equal: Mapping[str, str], clients: int = 1
    ) -> Asked:
        """Ask every query, with a connection for each client, and return the answers."""

        def share(at: int) -> list[Answer]:
            with Client(self._port) as client:
                return [client.post("/v1/memories/retrieve", body | {"query": query}) for query in queries[at::clients]]

        body: dict[str, Any] = {"namespace": collection, "k": k} | ({"filter": dict(equal)} if equal else {})
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            shares = list(pool.map(share, range(clients)))
        wall_s = time.perf_counter() - started
        found: list[tuple[str, ...]] = [()] * len(queries)
        for at, answers in enumerate(shares):
            found[at::clients] = [tuple(hit["key"] for hit in answer.json()["memories"]) for answer in answers]
        return Asked(tuple(found), tuple(answer.took_s for answer in chain.from_iterable(shares)), wall_s)

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored. Each one is looked up by its key."""
        with Client(self._port) as client:
            paths = {id: f"/v1/memories/{id}?namespace={collection}" for id in ids}
            return [id for id, path in paths.items() if client.get(path).status == 200]

    def resident_bytes(self) -> int:
        """Return the memory of the worker."""
        return self._service.memory().resident_bytes

    def kill(self) -> None:
        """End the worker at once."""
        self._service.kill()


def _body(one: Memory) -> dict[str, Any]:
    return {"key": one["id"], "content": one["text"], "metadata": one["metadata"]}
