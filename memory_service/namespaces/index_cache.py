"""Which namespaces' indexes are in RAM: those in use, as many as a budget allows; the others wait on local disk.

A namespace has at most one index at a time, whoever holds it. Evicting takes it out of the table; a reader that still
holds it goes on, and as long as anybody does, a load gives that very object back instead of reading another. So whoever
changes an index changes the one that all readers look at, and nothing has to be known of readers.

What is on disk never changes (`spilling.py`). An index is *clean* while its namespace's spill holds the same; then it
is evicted by forgetting it. `to_change` ends that before anything is changed, under the writing lock, and counts it.
The others are evicted in three steps: frozen under the writing lock, so that no change is half done; written with no
lock held; forgotten, if it was not announced meanwhile that they change. Hence the races:

- load and load: the second waits for the first at the namespace's own lock, and finds the index there.
- load and evict: the table changes under one lock that nobody holds for longer than that takes.
- evict and change: whichever comes first, the other sees it. A change that is announced first spoils the eviction,
  whose file goes again; one that comes later loads what was written, and no change is missing there.
- freeze and all others: freezing goes from namespace to namespace and lets writers in between; then, under the writing
  lock, it does again what was announced to change meanwhile, so that all are of one moment. For each it notes in one
  step the spill, or else freezes the index; what is evicted or replaced later stays while that is held.

Locks are taken in this order: writing, publishing, a namespace's loading, the table's. Files are written with none of
them held, and read with a namespace's loading: also by the writer, before it publishes, and by a reader that looks
again while nothing is published, should what it had a moment ago be evicted by then.

What cannot be read back is an error for its callers, not a reason to rebuild it here: nothing is lost, since the data
folder holds it all, and a local disk that forgets takes the catalog along. See `to_change` for writes.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from weakref import WeakValueDictionary

from indexes.group_index import GroupIndex
from memory_service.clock import Moment
from memory_service.namespaces.index import FrozenIndex, NamespaceIndex
from memory_service.namespaces.spilling import Spill, Spilled, Unspillable
from vector_memory.errors import Unavailable

log = logging.getLogger(__name__)

KEPT_SHARE = 0.9
"""Evicting goes on until so much of the budget is in use, so that it is not at every load."""

AT_ONCE = 8
"""Evicted at one call, which pays some 0.3 ms for each small one that is to be written; the next call goes on."""

RETRY_S = 60.0
"""Between two attempts while local disk takes nothing."""


class _Place:
    """What the table knows of a namespace.

    Attributes:
        index: in RAM, or None.
        spilled: on disk, the same as any index there is; None when it would not be.
        memories, weight_bytes: of the index, as of the last look.
        changes: how often it was announced that it changes.
        is_lost: changes are missing, so nobody may have it any more.
        loading: held while it is loaded.
    """

    __slots__ = ("changes", "index", "is_lost", "loading", "memories", "spilled", "weight_bytes")

    def __init__(self) -> None:
        self.index: NamespaceIndex | None = None
        self.spilled: Spilled | None = None
        self.memories = 0
        self.weight_bytes = 0
        self.changes = 0
        self.is_lost = False
        self.loading: threading.Lock | None = None


class Residents:
    """The index of each namespace. `to_change` and `changed` are the writer's, the others anybody's."""

    def __init__(self, dim: int, spill: Spill) -> None:
        """Args:
        dim: of the vectors.
        spill: where to evict to, and how much may stay in RAM; closed with this one.
        """
        self.spill = spill
        self._dim = dim
        self._places: dict[str, _Place] = {}
        self._in_ram: OrderedDict[str, _Place] = OrderedDict()
        self._still_held: WeakValueDictionary[str, NamespaceIndex] = WeakValueDictionary()
        self._memories = 0
        self._weight_bytes = 0
        self._limit_bytes = spill.budget_bytes
        self._watching: list[set[str]] = []
        self._table = threading.Lock()
        self._evicting = threading.Lock()
        self._not_before: Moment | None = None

    def close(self) -> None:
        """Remove what is on disk. Nobody may be loading."""
        self.spill.close()

    @property
    def memories(self) -> int:
        """How many there are in all."""
        return self._memories

    @property
    def weight_bytes(self) -> int:
        """What the indexes in RAM take, about."""
        return self._weight_bytes

    def in_ram(self) -> list[str]:
        """The namespaces whose index is in RAM, the one used longest ago first."""
        with self._table:
            return list(self._in_ram)

    def get(self, namespace: str) -> NamespaceIndex | None:
        """A namespace's index, loaded if need be; None when it never had a memory.

        Raises:
            Unavailable: it cannot be read back.
        """
        with self._table:
            place = self._places.get(namespace)
            if place is None:
                return None
            found = self._found(namespace, place)
            if found is not None:
                return found
            if place.is_lost:
                raise _lost(namespace)
            place.loading = loading = place.loading or threading.Lock()
        with loading:
            return self._loaded(namespace, place)

    def _found(self, namespace: str, place: _Place) -> NamespaceIndex | None:
        """The index if anybody has it. The table's lock is held."""
        if place.index is None:
            held = self._still_held.pop(namespace, None)
            if held is not None:
                self._put(namespace, place, held)
        else:
            self._in_ram.move_to_end(namespace)
        return place.index

    def _loaded(self, namespace: str, place: _Place) -> NamespaceIndex:
        with self._table:
            found, spilled = self._found(namespace, place), place.spilled
        if found is not None:
            return found
        if spilled is None:  # it was lost while this one waited
            raise _lost(namespace)
        try:
            index = spilled.load(self._dim)
        except OSError as error:
            log.warning("index.unreadable", extra={"reason": str(error)})
            raise _lost(namespace) from error
        with self._table:
            if place.is_lost:
                raise _lost(namespace)
            self._put(namespace, place, index)
        return index

    def _put(self, namespace: str, place: _Place, index: NamespaceIndex) -> None:
        """Enter an index that is in RAM. The table's lock is held."""
        place.index = index
        self._in_ram[namespace] = place
        self._weigh(place)

    def _weigh(self, place: _Place) -> None:
        if place.index is not None:
            memories, weight_bytes = len(place.index), place.index.nbytes
            self._memories += memories - place.memories
            self._weight_bytes += weight_bytes - place.weight_bytes
            place.memories, place.weight_bytes = memories, weight_bytes

    def add_spilled(self, namespace: str, spilled: Spilled) -> None:
        """Enter a namespace that nobody knows yet and that waits on disk."""
        with self._table:
            self._places[namespace] = place = _Place()
            place.spilled, place.memories = spilled, spilled.memories
            self._memories += spilled.memories

    def add(self, namespace: str, index: NamespaceIndex) -> None:
        """Enter the index of a namespace that nobody knows yet."""
        with self._table:
            self._places[namespace] = place = _Place()
            self._put(namespace, place, index)

    def to_change(self, namespace: str) -> NamespaceIndex | None:
        """A namespace's index, a new one if need be, that is about to change. The writing lock is held.

        Returns:
            None when it cannot be read back. The change is durable by then and must not stop the changes of other
            namespaces, so this one is lost for this process: whoever asks for it is told to start again, and no
            snapshot is taken without it.
        """
        held = None
        try:
            held = self.get(namespace)
            if held is None:
                self.add(namespace, NamespaceIndex(GroupIndex(self._dim)))
        except Unavailable:
            pass  # unless another's attempt succeeds
        with self._table:
            place = self._places[namespace]
            index = self._found(namespace, place)  # that is `held`, even if it was evicted since
            place.is_lost = index is None
            place.changes += 1
            for announced in self._watching:
                announced.add(namespace)
            old, place.spilled = place.spilled, None
        del held, old  # a file goes when no lock is held
        return index

    def changed(self, namespaces: Collection[str]) -> None:
        """Weigh what was changed."""
        with self._table:
            for namespace in namespaces:
                self._weigh(self._places[namespace])

    @contextmanager
    def frozen(self, writing: threading.Lock) -> Iterator[dict[str, FrozenIndex | Spilled]]:
        """Every namespace's index, of one moment. Inside, the writing lock is held, and it still is that moment.

        Raises:
            Unavailable: one is lost.
        """
        announced: set[str] = set()
        with self._table:
            self._watching.append(announced)
            namespaces = list(self._places)
        try:
            indexes = {namespace: self._frozen(namespace, writing) for namespace in namespaces}
            with writing:
                indexes |= {namespace: self._frozen(namespace, nullcontext()) for namespace in announced}
                yield indexes
        finally:
            with self._table:  # by identity: sets that are equal may be of others
                self._watching = [other for other in self._watching if other is not announced]

    def _frozen(self, namespace: str, writing: AbstractContextManager[object]) -> FrozenIndex | Spilled:
        """One index, of a moment inside `writing`, when nobody writes."""
        with self._table:
            if (spilled := self._places[namespace].spilled) is not None:
                return spilled
        with writing:
            with self._table:
                index, spilled = self._places[namespace].index, self._places[namespace].spilled
            if spilled is not None:
                return spilled
            if index is None:
                raise _lost(namespace)
            return index.freeze()

    def fit(self, writing: threading.Lock, at_once: int = AT_ONCE) -> None:
        """Evict what was not used longest until the budget is kept; costs a comparison when it is.

        What was changed since it was written last is evicted only while nobody writes. Whoever comes next goes on.

        Args:
            writing: the writing lock, which the caller does not hold.
            at_once: evict at most so many.
        """
        if self._weight_bytes <= self._limit_bytes or not self._evicting.acquire(blocking=False):
            return
        try:
            if self._not_before is None or self._not_before.is_older_than(RETRY_S):
                self._evict(writing, at_once)
        finally:
            self._evicting.release()

    def _evict(self, writing: threading.Lock, at_once: int) -> None:
        self._limit_bytes = self.spill.budget_bytes * KEPT_SHARE
        with self._table:
            longest_ago = list(islice(self._in_ram, min(at_once, len(self._in_ram) - 1)))
        for namespace in longest_ago:
            if self._weight_bytes <= self._limit_bytes:
                break
            try:
                self._evict_one(namespace, writing)
            except Unspillable as error:
                if self._not_before is None:
                    log.warning("index.kept", extra={"reason": str(error)})
                self._not_before = Moment.now()
                return
        self._not_before = None
        if self._weight_bytes <= self._limit_bytes:
            self._limit_bytes = self.spill.budget_bytes

    def _evict_one(self, namespace: str, writing: threading.Lock) -> None:
        place = self._places[namespace]
        changes, spilled = place.changes, place.spilled
        if spilled is None:
            if not writing.acquire(blocking=False):
                return
            try:
                index, changes = place.index, place.changes
                if index is None:
                    return
                frozen = index.freeze()
            finally:
                writing.release()
            spilled = self.spill.write(frozen)
        with self._table:
            index = place.index
            if index is None or place.changes != changes:
                return
            place.spilled, place.index = spilled, None
            del self._in_ram[namespace]
            self._weight_bytes -= place.weight_bytes
            place.weight_bytes = 0
            self._still_held[namespace] = index


def _lost(namespace: str) -> Unavailable:
    shown = repr(namespace if len(namespace) <= 80 else namespace[:79] + "…")
    return Unavailable(
        f"The index of namespace {shown} cannot be read back from this worker's local disk (MEMORY_CACHE_DIR). Nothing "
        "is lost: the data folder holds it all. Restart the worker, which reads it from there."
    )
