"""The ids of the memories that a filter matches: one query for each condition, combined as sets of numbers.

SQLite combines sets row by row, and a row takes about a microsecond on its way to Python. So each query returns its ids
as one text. numpy parses it at ten nanoseconds an id, and combines the sets.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_service.bounded_cache import BoundedCache
from memory_service.filters.grammar import AllOf, AnyOf, Filter, Not
from memory_service.filters.sql import ALL_IDS, Condition, leaf_queries

Ids: TypeAlias = NDArray[np.int64]
Ask: TypeAlias = Callable[[Condition], str | None]
"""Runs a query of one namespace and returns its only value."""

KEPT_MAX = 1_000_000
"""Ids kept of all recent filters together: 8 MB."""

ENTRY_IDS = 64
"""What a filter itself counts for, in ids. Without it, filters that match nothing would be kept without a bound."""


def matching_ids(ask: Ask, filter: Filter) -> Ids:
    """Return the ids that match, ascending. The caller makes sure that all queries see the same state."""
    match filter:
        case AllOf(parts):
            # "a and not b" is computed as a without b, and not as a and (everything without b).
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
    """Parse ids joined by commas into (n,) int64, ascending, each once. None stands for no ids."""
    return _ascending(np.fromstring(text or "", dtype=np.int64, sep=","))


def _ascending(ids: Ids) -> Ids:
    """Return the ids sorted, each once."""
    # np.unique takes ten times as long for 100,000 ids.
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
    """A cache of the ids that recent filters matched, until something is written to the namespace. Thread-safe.

    Every write to a namespace starts an epoch of it. A caller notes the epoch before it asks the catalog. The ids are
    kept only if the same epoch still lasts.
    """

    def __init__(self, ids_max: int = KEPT_MAX) -> None:
        self._lock = threading.Lock()
        self._recent = BoundedCache[tuple[str, Hashable], Ids](ids_max, lambda ids: len(ids) + ENTRY_IDS)
        self._epochs: Counter[str] = Counter()

    def find(self, namespace: str, filter: Hashable) -> tuple[Ids | None, int]:
        """Return the ids, if they are known, and the epoch."""
        with self._lock:
            return self._recent.get((namespace, filter)), self._epochs[namespace]

    def keep(self, namespace: str, filter: Hashable, ids: Ids, epoch: int) -> None:
        """Keep the result of a query that began in that epoch."""
        with self._lock:
            if self._epochs[namespace] == epoch:
                self._recent.put((namespace, filter), ids)

    def forget(self, namespaces: Collection[str]) -> None:
        """Start an epoch of these namespaces. Call it right after a write to them became visible."""
        with self._lock:
            for namespace in namespaces:
                self._epochs[namespace] += 1
            for key in [key for key in self._recent if key[0] in namespaces]:
                self._recent.remove(key)
