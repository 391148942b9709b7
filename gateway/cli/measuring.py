"""A short benchmark of a service through its client: how many memories per second it stores and retrieves.

It compares machines and ways to reach a service. `benchmarks/` measures what the project promises.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vector_memory import Client, Deletion
from vector_memory.memories import NewMemory, Refused, Stored

_WHO = ("Dana", "Ruben", "Ilse", "Tomás", "Priya", "Noor", "Sven", "Mei")
_WHAT = ("moved the launch of", "raised the budget for", "asked three questions about", "signed the contract for")
_WHICH = ("the Oslo warehouse", "the billing rewrite", "the spring campaign", "the night train pilot", "the new clinic")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often one kind of call was made, and how long it took.

    Attributes:
        name: the kind of call.
        count: number of calls, or of memories.
        seconds: for all of them, one after another.
    """

    name: str
    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Calls or memories per second."""
        return self.count / self.seconds


def measure(client: Client, count: int) -> Iterator[Rate]:
    """Store memories in a new namespace, retrieve from it, and delete it.

    Args:
        client: of the service, which is warmed up first.
        count: memories to store, at least 100; a tenth of them one by one.
    """
    namespace = f"bench-{uuid.uuid4().hex[:12]}"
    texts = [_text(n) for n in range(count)]
    alone, together = texts[: count // 10], texts[count // 10 :]
    client.health()
    client.retrieve("warm up", namespace=namespace)
    try:
        yield _timed("store, one by one", len(alone), lambda: [client.store(t, namespace=namespace) for t in alone])
        batches = [together[at : at + 250] for at in range(0, len(together), 250)]
        yield _timed("store, in batches", len(together), lambda: [_store(client, b, namespace) for b in batches])
        queries = [f"who {what} {which}?" for what in _WHAT for which in _WHICH] * 2
        retrieve = lambda: [client.retrieve(query, namespace=namespace) for query in queries]  # noqa: E731 - one of three
        yield _timed("retrieve", len(queries), retrieve)
    finally:
        _clear(client, namespace)


def _store(client: Client, texts: list[str], namespace: str) -> Sequence[Stored | Refused]:
    return client.store_batch([NewMemory(content=text, namespace=namespace) for text in texts])


def _clear(client: Client, namespace: str) -> Deletion:
    return client.delete_many(filter={"key": {"$exists": True}}, namespace=namespace)


def _text(n: int) -> str:
    who, what = _WHO[n % len(_WHO)], _WHAT[n // 3 % len(_WHAT)]
    return f"{who} {what} {_WHICH[n // 7 % len(_WHICH)]} after meeting {n} with the council."


def _timed(name: str, count: int, work: Callable[[], object]) -> Rate:
    begun = time.perf_counter()
    work()
    return Rate(name, count, time.perf_counter() - begun)
