"""A cache of the namespaces' indexes: those used last are in RAM, within a budget; the others wait on local disk.

A namespace has at most one index object at a time. Eviction takes it out of the table. A reader that still holds the
object goes on with it, and while any reader does, a load returns that same object. So a writer always changes the
object that all readers look at, and the cache need not know its readers.

Files on disk never change (`spilling.py`). An entry is *clean* while its file holds the same as its index, and evicting
a clean entry drops the object. `get_to_change` ends that before anything is changed, under the writing lock, and counts
the change. An entry that is not clean is evicted in three steps: its index is frozen under the writing lock, so that no
change is half done; it is written with no lock held; it is dropped, unless a change was announced since.

The races:

- Load and load: the second waits at the namespace's own lock and finds the index in RAM.
- Load and evict: the table changes under one lock, which is held for that change alone.
- Evict and change: a change announced first spoils the eviction, and its file is removed. A change announced later
  loads what was written, which lacks nothing.
- Freeze and all others: freezing goes from namespace to namespace and lets writers in between. At the end, under the
  writing lock, it freezes again what was announced to change, so that all are of one moment. For each namespace it
  takes the file or the frozen index in one step; both outlive later evictions and changes while they are held.

Locks are taken in this order: writing, publishing, a namespace's loading, the table's. Files are written while none of
them is held. Files are read under a namespace's loading lock: also by the writer, before it publishes, and by a reader
that searches again while nothing is published and whose index was evicted since.

An index that cannot be read back is an error for its callers and is not rebuilt here. Nothing is lost, since the data
folder holds it all, and a local disk that forgets takes the catalog along. `get_to_change` says what becomes of writes.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from weakref import WeakValueDictionary

from indexes.group_index import GroupIndex
from memory_service.clock import Moment
from memory_service.namespaces.index import FrozenIndex, NamespaceIndex
from memory_service.namespaces.spilling import Spill, Spilled, SpillFailed
from vector_memory.errors import Unavailable

log = logging.getLogger(__name__)

KEPT_SHARE = 0.9
"""Eviction goes on until this share of the budget is in use, so that not every load evicts."""

AT_ONCE = 8
"""Indexes evicted by one call. Writing a small one takes some 0.3 ms; the next call goes on."""

RETRY_S = 60.0
"""Seconds between two attempts while local disk takes no writes."""


class _Entry:
    """The cache's entry of a namespace.

    Attributes:
        index: the index if it is in RAM.
        spilled: the file on disk if it holds the same as the index.
        memories: number of memories when the index was weighed last.
        weight_bytes: memory of the index when it was weighed last.
        changes: number of changes announced.
        is_lost: whether changes are missing, so that nobody may have the index.
        loading: held while the index is loaded.
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


class IndexCache:
    """The index of each namespace. The writer alone calls `get_to_change` and `reweigh`; any thread calls the others.

    Example:
        with writing:
            index = cache.get_to_change("default")
            index.add([(7, entry)])
            cache.reweigh(["default"])
        cache.evict_excess(writing)
    """

    def __init__(self, dim: int, spill: Spill) -> None:
        """Args:
        dim: dimension of the vectors.
        spill: where to evict to, and the budget of RAM. Closing the cache closes it.
        """
        self.spill = spill
        self._dim = dim
        self._entries: dict[str, _Entry] = {}
        self._in_ram: OrderedDict[str, _Entry] = OrderedDict()
        self._still_held: WeakValueDictionary[str, NamespaceIndex] = WeakValueDictionary()
        self._memories = 0
        self._weight_bytes = 0
        self._limit_bytes = spill.budget_bytes
        self._watching: list[set[str]] = []
        self._table = threading.Lock()
        self._evicting = threading.Lock()
        self._not_before: Moment | None = None

    def close(self) -> None:
        """Remove the files on disk. No thread may be loading."""
        self.spill.close()

    @property
    def memories(self) -> int:
        """Number of memories in all namespaces."""
        return self._memories

    @property
    def weight_bytes(self) -> int:
        """Memory of the indexes in RAM in bytes, estimated."""
        return self._weight_bytes

    def in_ram(self) -> list[str]:
        """Return the namespaces whose index is in RAM, the least recently used first."""
        with self._table:
            return list(self._in_ram)

    def get(self, namespace: str) -> NamespaceIndex | None:
        """Return a namespace's index, loaded if it was evicted; None when the namespace never had a memory.

        Raises:
            Unavailable: it cannot be read back.
        """
        with self._table:
            entry = self._entries.get(namespace)
            if entry is None:
                return None
            found = self._get_resident(namespace, entry)
            if found is not None:
                return found
            if entry.is_lost:
                raise _lost(namespace)
            entry.loading = loading = entry.loading or threading.Lock()
        with loading:
            return self._load(namespace, entry)

    def _get_resident(self, namespace: str, entry: _Entry) -> NamespaceIndex | None:
        """Return the index if any thread holds it. The caller holds the table's lock."""
        if entry.index is None:
            held = self._still_held.pop(namespace, None)
            if held is not None:
                self._put(namespace, entry, held)
        else:
            self._in_ram.move_to_end(namespace)
        return entry.index

    def _load(self, namespace: str, entry: _Entry) -> NamespaceIndex:
        with self._table:
            found, spilled = self._get_resident(namespace, entry), entry.spilled
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
            if entry.is_lost:
                raise _lost(namespace)
            self._put(namespace, entry, index)
        return index

    def _put(self, namespace: str, entry: _Entry, index: NamespaceIndex) -> None:
        """Enter an index that is in RAM. The caller holds the table's lock."""
        entry.index = index
        self._in_ram[namespace] = entry
        self._weigh(entry)

    def _weigh(self, entry: _Entry) -> None:
        if entry.index is not None:
            memories, weight_bytes = len(entry.index), entry.index.nbytes
            self._memories += memories - entry.memories
            self._weight_bytes += weight_bytes - entry.weight_bytes
            entry.memories, entry.weight_bytes = memories, weight_bytes

    def add_spilled(self, namespace: str, spilled: Spilled) -> None:
        """Enter a new namespace whose index is on disk."""
        with self._table:
            self._entries[namespace] = entry = _Entry()
            entry.spilled, entry.memories = spilled, spilled.memories
            self._memories += spilled.memories

    def add(self, namespace: str, index: NamespaceIndex) -> None:
        """Enter a new namespace with its index."""
        with self._table:
            self._entries[namespace] = entry = _Entry()
            self._put(namespace, entry, index)

    def get_to_change(self, namespace: str) -> NamespaceIndex | None:
        """Announce a change of a namespace and return its index, which may be new. The caller holds the writing lock.

        Returns:
            None when the index cannot be read back. The change is durable by then and must not stop the changes of
            other namespaces, so the index is lost for this process: callers that ask for it are told to restart the
            worker, and no snapshot is taken without it.
        """
        held = None
        with suppress(Unavailable):  # another thread's attempt may succeed
            held = self.get(namespace)
            if held is None:
                self.add(namespace, NamespaceIndex(GroupIndex(self._dim)))
        with self._table:
            entry = self._entries[namespace]
            index = self._get_resident(namespace, entry)  # the same as `held`, even if it was evicted since
            entry.is_lost = index is None
            entry.changes += 1
            for announced in self._watching:
                announced.add(namespace)
            old, entry.spilled = entry.spilled, None
        del held, old  # a file goes when no lock is held
        return index

    def reweigh(self, namespaces: Collection[str]) -> None:
        """Weigh the indexes that were changed."""
        with self._table:
            for namespace in namespaces:
                self._weigh(self._entries[namespace])

    @contextmanager
    def freeze(self, writing: threading.Lock) -> Iterator[dict[str, FrozenIndex | Spilled]]:
        """Freeze every namespace's index at one moment. The writing lock is held until the block ends.

        Raises:
            Unavailable: an index is lost.
        """
        announced: set[str] = set()
        with self._table:
            self._watching.append(announced)
            namespaces = list(self._entries)
        try:
            indexes = {namespace: self._freeze_one(namespace, writing) for namespace in namespaces}
            with writing:
                indexes |= {namespace: self._freeze_one(namespace, nullcontext()) for namespace in announced}
                yield indexes
        finally:
            with self._table:  # by identity: sets that are equal may be of others
                self._watching = [other for other in self._watching if other is not announced]

    def _freeze_one(self, namespace: str, writing: AbstractContextManager[object]) -> FrozenIndex | Spilled:
        """Freeze one index under the writing lock."""
        with self._table:
            if (spilled := self._entries[namespace].spilled) is not None:
                return spilled
        with writing:
            with self._table:
                index, spilled = self._entries[namespace].index, self._entries[namespace].spilled
            if spilled is not None:
                return spilled
            if index is None:
                raise _lost(namespace)
            return index.freeze()

    def evict_excess(self, writing: threading.Lock, at_once: int = AT_ONCE) -> None:
        """Evict the least recently used indexes until the budget is kept; a comparison when it is.

        An index that changed since it was written is evicted only while no thread writes.

        Args:
            writing: the writing lock, which the caller does not hold.
            at_once: the most indexes to evict; the next call goes on.
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
            except SpillFailed as error:
                if self._not_before is None:
                    log.warning("index.kept", extra={"reason": str(error)})
                self._not_before = Moment.now()
                return
        self._not_before = None
        if self._weight_bytes <= self._limit_bytes:
            self._limit_bytes = self.spill.budget_bytes

    def _evict_one(self, namespace: str, writing: threading.Lock) -> None:
        entry = self._entries[namespace]
        changes, spilled = entry.changes, entry.spilled
        if spilled is None:
            if not writing.acquire(blocking=False):
                return
            try:
                index, changes = entry.index, entry.changes
                if index is None:
                    return
                frozen = index.freeze()
            finally:
                writing.release()
            spilled = self.spill.write(frozen)
        with self._table:
            index = entry.index
            if index is None or entry.changes != changes:
                return
            entry.spilled, entry.index = spilled, None
            del self._in_ram[namespace]
            self._weight_bytes -= entry.weight_bytes
            entry.weight_bytes = 0
            self._still_held[namespace] = index


def _lost(namespace: str) -> Unavailable:
    shown = repr(namespace if len(namespace) <= 80 else namespace[:79] + "…")
    return Unavailable(
        f"The index of namespace {shown} cannot be read back from this worker's local disk (MEMORY_CACHE_DIR). Nothing "
        "is lost: the data folder holds it all. Restart the worker, which reads it from there."
    )
