"""Importing: stores items in batches in a service, and counts the results.

An import can be interrupted and repeated: a memory that already exists stays as it is, so importing twice changes
nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.exchange.items import Item, ItemOrProblem, Problem
from memory_service.clock import wall_ms
from vector_memory import Client
from vector_memory.errors import InvalidInput, LimitExceeded
from vector_memory.memories import Refused, Stored
from vector_memory.times import time_ms

BATCH_ITEMS_MAX = 250
"""The number of items in one request. Embedding that many takes about a second, so progress is visible."""

BATCH_BYTES_MAX = 4_000_000
"""Bytes per request: well below the 10 MB that a service and RunPod's `/run` accept by default."""


@dataclass(slots=True, kw_only=True)
class ImportResult:
    """Counts of the items so far.

    Attributes:
        expired: items whose expiry was over before the import.
        problems: items that could not be read or that the service refused.
    """

    stored: int = 0
    updated: int = 0
    unchanged: int = 0
    expired: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Number of items that are done."""
        return self.stored + self.updated + self.unchanged + self.expired + len(self.problems)


def import_items(
    client: Client, items: Iterable[ItemOrProblem], report: Callable[[ImportResult], None] = lambda _: None
) -> ImportResult:
    """Store every item, and call `report` after each batch.

    Raises:
        ServiceError: the service failed as a whole. What was imported before stays.
    """
    result = ImportResult()
    for batch in _batches(_unexpired(items, result)):
        for item, stored in zip(batch, _store(client, batch), strict=True):
            if isinstance(stored, Refused):
                result.problems.append(Problem(item.where, stored.error.message))
            else:
                name = stored.status.value
                setattr(result, name, getattr(result, name) + 1)
        report(result)
    report(result)
    return result


def _store(client: Client, batch: list[Item]) -> Sequence[Stored | Refused]:
    """Store a batch; halve it where one item makes the request invalid or too large."""
    try:
        return client.store_batch([item.memory for item in batch])
    except (InvalidInput, LimitExceeded) as error:
        if error.field == "url":
            raise
        if len(batch) == 1:
            return [Refused(namespace=None, key=None, error=error)]
        middle = len(batch) // 2
        return [*_store(client, batch[:middle]), *_store(client, batch[middle:])]


def _unexpired(items: Iterable[ItemOrProblem], result: ImportResult) -> Iterator[Item]:
    """Yield the items to store, and count the others."""
    for item in items:
        if isinstance(item, Problem):
            result.problems.append(item)
        elif _is_expired(item.memory.expires_at):
            result.expired += 1
        else:
            yield item


def _is_expired(expires_at: str | None) -> bool:
    try:
        return expires_at is not None and time_ms(expires_at, "expires_at") <= wall_ms()
    except InvalidInput:
        return False  # the service says what is wrong with it


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    total = 0
    for item in items:
        size = _size(item)
        if batch and (len(batch) == BATCH_ITEMS_MAX or total + size > BATCH_BYTES_MAX):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def _size(item: Item) -> int:
    """Estimate the bytes that an item takes in a request."""
    memory = item.memory
    vectors = 0 if memory.embedding is None else len(memory.embedding.vectors)
    return len(json.dumps([memory.content, memory.key, memory.namespace, memory.metadata])) + vectors + 500
