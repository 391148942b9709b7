"""The ids of the memories that a filter matches: one query for each condition, joined as sets of numbers.

SQLite joins sets row by row, and a row costs about a microsecond on its way to Python. So each query returns its ids as
one text, which numpy reads at ten nanoseconds an id, and numpy joins them.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_service.filters.grammar import AllOf, AnyOf, Filter, Not
from memory_service.filters.sql import ALL_IDS, Condition, leaf_queries

Ids: TypeAlias = NDArray[np.int64]
Ask: TypeAlias = Callable[[Condition], str | None]
"""Puts a query of a namespace to the catalog; the answer is one value."""

KEPT_MAX = 1_000_000
"""Ids that are kept of recent filters, all together: 8 MB."""


def matching_ids(ask: Ask, filter: Filter) -> Ids:
    """The ids, ascending, if all queries are answered as of one moment."""
    match filter:
        case AllOf(parts):
            demanded = [part for part in parts if not isinstance(part, Not)]
            excluded = [part.part for part in parts if isinstance(part, Not)]
            held = reduce(_both, (matching_ids(ask, part) for part in demanded)) if demanded else _all(ask)
            return reduce(_without, (matching_ids(ask, part) for part in excluded), held)
        case AnyOf(parts):
            return _any(matching_ids(ask, part) for part in parts)
        case Not(part):
            return _without(_all(ask), matching_ids(ask, part))
    return _any(read_ids(ask(query)) for query in leaf_queries(filter))


def read_ids(text: str | None) -> Ids:
    """Ids that are joined by commas, as numbers: ascending, each once; None is none."""
    return _ascending(np.fromstring(text or "", dtype=np.int64, sep=","))


def _ascending(ids: Ids) -> Ids:
    """Sorted, each once; `np.unique` takes ten times as long for 100,000."""
    ids = np.sort(ids)
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if len(ids) else ids


def _all(ask: Ask) -> Ids:
    return read_ids(ask((ALL_IDS, [])))


def _any(sets: Iterable[Ids]) -> Ids:
    return _ascending(np.concatenate([read_ids(None), *sets]))


def _both(one: Ids, other: Ids) -> Ids:
    return np.intersect1d(one, other, assume_unique=True)


def _without(ids: Ids, excluded: Ids) -> Ids:
    return np.setdiff1d(ids, excluded, assume_unique=True)


class RecentIds:
    """The ids that recent filters matched in namespaces to which nothing was written since. Thread-safe.

    Every write to a namespace begins an epoch of it. Who asks the catalog notes the epoch first; what was found is kept
    only if the same one still lasts.
    """

    def __init__(self, ids_max: int = KEPT_MAX) -> None:
        self._ids_max = ids_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Hashable], Ids] = OrderedDict()
        self._count = 0
        self._epochs: Counter[str] = Counter()

    def find(self, namespace: str, filter: Hashable) -> tuple[Ids | None, int]:
        """The ids, if they are known, and the epoch."""
        with self._lock:
            found = self._kept.get((namespace, filter))
            if found is not None:
                self._kept.move_to_end((namespace, filter))
            return found, self._epochs[namespace]

    def keep(self, namespace: str, filter: Hashable, ids: Ids, epoch: int) -> None:
        """Keep what was found by a query that began in that epoch, in place of what was not asked for longest."""
        with self._lock:
            if self._epochs[namespace] != epoch or len(ids) > self._ids_max:
                return
            self._drop((namespace, filter))
            self._kept[namespace, filter] = ids
            self._count += len(ids)
            while self._count > self._ids_max:
                self._drop(next(iter(self._kept)))

    def forget(self, namespaces: Collection[str]) -> None:
        """Begin an epoch of these namespaces: right after what was written there became visible."""
        with self._lock:
            for namespace in namespaces:
                self._epochs[namespace] += 1
            for key in [key for key in self._kept if key[0] in namespaces]:
                self._drop(key)

    def _drop(self, key: tuple[str, Hashable]) -> None:
        dropped = self._kept.pop(key, None)
        self._count -= 0 if dropped is None else len(dropped)
