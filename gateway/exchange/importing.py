"""Importing: items in batches into a service, with a count of what became of them.

It can be broken off and begun again: what is there already is left as it is, so importing twice changes nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.exchange.items import Item, Problem, Read
from memory_service.clock import wall_ms
from vector_memory import Client
from vector_memory.errors import InvalidInput, LimitExceeded
from vector_memory.memories import Refused, Stored
from vector_memory.times import time_ms

BATCH_ITEMS_MAX = 250
"""Of one request: without vectors about a second of embedding, so that progress is seen."""

BATCH_BYTES_MAX = 4_000_000
"""Well below the 10 MB that a service takes by default, which RunPod's `/run` has too."""


@dataclass(slots=True)
class Outcome:
    """What became of the items so far.

    Attributes:
        expired: their time was over before they were imported.
        problems: what could not be read or was refused, with its place.
    """

    stored: int = 0
    updated: int = 0
    unchanged: int = 0
    expired: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many items were dealt with."""
        return self.stored + self.updated + self.unchanged + self.expired + len(self.problems)


def import_items(client: Client, items: Iterable[Read], report: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Store every item; `report` is called after each batch.

    Raises:
        ServiceError: the service failed as a whole; what was imported before stays.
    """
    outcome = Outcome()
    for batch in _batches(_living(items, outcome)):
        for item, result in zip(batch, _stored(client, batch), strict=True):
            if isinstance(result, Refused):
                outcome.problems.append(Problem(item.where, result.error.message))
            else:
                name = result.status.value
                setattr(outcome, name, getattr(outcome, name) + 1)
        report(outcome)
    report(outcome)
    return outcome


def _stored(client: Client, batch: list[Item]) -> Sequence[Stored | Refused]:
    """The results of a batch; it is halved where an item makes a request that cannot be sent or is too large."""
    try:
        return client.store_batch([item.memory for item in batch])
    except (InvalidInput, LimitExceeded) as error:
        if error.field == "url":
            raise
        if len(batch) == 1:
            return [Refused(namespace=None, key=None, error=error)]
        middle = len(batch) // 2
        return [*_stored(client, batch[:middle]), *_stored(client, batch[middle:])]


def _living(items: Iterable[Read], outcome: Outcome) -> Iterator[Item]:
    """The items to store; the others are counted."""
    for item in items:
        if isinstance(item, Problem):
            outcome.problems.append(item)
        elif _is_over(item.memory.expires_at):
            outcome.expired += 1
        else:
            yield item


def _is_over(expires_at: str | None) -> bool:
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
    """Bytes that it takes in a request, about."""
    memory = item.memory
    vectors = 0 if memory.embedding is None else len(memory.embedding.vectors)
    return len(json.dumps([memory.content, memory.key, memory.namespace, memory.metadata])) + vectors + 500
