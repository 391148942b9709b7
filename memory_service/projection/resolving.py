"""Resolving: what a record changes, given what the catalog holds. The last stamp wins for each (namespace, key).

So the outcome does not depend on the order in which journals are read: an older put becomes a superseded version, and
a tombstone keeps away every put that is older than the delete.
"""

from dataclasses import replace

from memory_service.clock import HybridClock, Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.journal.records import Put, Record, RememberedReply, Removal
from memory_service.namespaces.index_cache import IndexCache
from memory_service.projection.catalog import Catalog
from memory_service.projection.catalog_schema import Tombstone
from memory_service.projection.changes import IndexChanges

REPLY_KEPT_MS = 24 * 3600 * 1000
"""How long an idempotency key is remembered. A day is usual for HTTP APIs."""

FORGETTING_SLACK_MS = 3600 * 1000
"""Replies and superseded versions are removed up to an hour late, so that many are removed in one transaction."""


class Resolver:
    """Applies records to the catalog, and gathers what changes in the indexes. Used inside the catalog's transaction.

    Attributes:
        next_id: id of the next version.
        next_expiry_ms: when `expire` has something to do next; None if nothing ever expires.
    """

    def __init__(self, catalog: Catalog, indexes: IndexCache, clock: HybridClock, superseded_kept_ms: int) -> None:
        self._catalog = catalog
        self._indexes = indexes
        self._clock = clock
        self._superseded_kept_ms = superseded_kept_ms
        self.next_id = 1
        self.next_expiry_ms: int | None = None

    def resume(self, next_id: int) -> None:
        """Continue with a catalog that holds something already."""
        self.next_id = next_id
        self.note_next_expiry()

    def apply(self, record: Record, changes: IndexChanges) -> None:
        """Apply one record."""
        match record.mutation:
            case Put() as put:
                self._apply_put(put, record.stamp, changes)
            case Removal() as removal:
                self._apply_removal(removal, record.stamp, changes)
            case RememberedReply() as reply:
                self._catalog.remember(reply, record.stamp)
                self._note_expiry(record.stamp.ms + REPLY_KEPT_MS + FORGETTING_SLACK_MS)

    def expire(self, now_ms: int, changes: IndexChanges) -> None:
        """Remove the memories that have expired, and old replies and versions.

        An expired memory gets a tombstone with its own stamp, so an older record of the key, read later, stays dead.
        """
        for namespace, key, stamp, expires_at_ms, id in self._catalog.expired(now_ms):
            if id is not None:
                self._catalog.remove(id)
                changes.remove(namespace, id)
            self._bury(namespace, key, stamp, expires_at_ms)
        self._catalog.forget_replies(now_ms - REPLY_KEPT_MS)
        self._catalog.forget_superseded(now_ms - self._superseded_kept_ms)

    def note_next_expiry(self) -> None:
        """Look up when the next thing expires. Readers of the catalog must see the changes of `expire` already."""
        self.next_expiry_ms = self._catalog.next_expiry_ms(
            REPLY_KEPT_MS + FORGETTING_SLACK_MS, self._superseded_kept_ms + FORGETTING_SLACK_MS
        )

    def _apply_put(self, put: Put, stamp: Stamp, changes: IndexChanges) -> None:
        tombstone = self._catalog.tombstone(put.namespace, put.key)
        if tombstone is not None and tombstone.stamp >= stamp:
            return  # the memory was deleted later
        newest = self._catalog.newest(put.namespace, put.key)
        if newest is None or newest[1] < stamp:
            if newest is not None:
                self._supersede(put.namespace, newest[0], stamp.ms, changes)
            id = self._fresh_id()
            self._catalog.put(id, put, stamp)
            changes.add(id, put, stamp)
        elif newest[1] > stamp and self._is_kept(newest[1].ms):
            # The journal of another worker brought an older version late.
            self._catalog.put_superseded(self._fresh_id(), put, stamp, newest[1].ms)
        if put.expires_at_ms is not None:
            self._note_expiry(put.expires_at_ms)

    def _apply_removal(self, removal: Removal, stamp: Stamp, changes: IndexChanges) -> None:
        newest = self._catalog.newest(removal.namespace, removal.key)
        # A version that is newer than the delete stays; its older versions go with `bury`.
        if newest is not None and newest[1] <= stamp:
            self._catalog.remove(newest[0])
            changes.remove(removal.namespace, newest[0])
        self._bury(removal.namespace, removal.key, stamp, removal.expired_at_ms)

    def _bury(self, namespace: str, key: str, stamp: Stamp, expired_at_ms: int | None) -> None:
        tombstone = Tombstone(stamp, expired_at_ms, stamp.ms if expired_at_ms is None else None)
        if (known := self._catalog.tombstone(namespace, key)) is not None:
            # The later of the two ends counts. The time of the later delete is kept even if an expiry is later.
            deletes = [ms for ms in (known.deleted_at_ms, tombstone.deleted_at_ms) if ms is not None]
            last = max(known, tombstone, key=lambda it: it.stamp)
            tombstone = replace(last, deleted_at_ms=max(deletes, default=None))
        if tombstone != known:
            self._catalog.bury(namespace, key, tombstone)

    def _supersede(self, namespace: str, id: int, until_ms: int, changes: IndexChanges) -> None:
        # Without vectors the version could not be searched, so it is not kept.
        vectors = self._vectors(namespace, id, changes) if self._is_kept(until_ms) else None
        if vectors is not None:
            self._catalog.supersede(id, until_ms, vectors)
        else:
            self._catalog.remove(id)
        changes.remove(namespace, id)

    def _vectors(self, namespace: str, id: int, changes: IndexChanges) -> Vectors | None:
        """The vectors (windows, dim) of a memory about to be superseded; None if its namespace's index is lost."""
        if (added := changes.added[namespace].get(id)) is not None:
            return added.vectors
        index = self._indexes.get_to_change(namespace)
        return None if index is None else index.dense.vectors(id)

    def _is_kept(self, until_ms: int) -> bool:
        """Return whether a version superseded at this time can still be looked back at."""
        is_kept = until_ms + self._superseded_kept_ms > self._clock.now_ms()
        if is_kept:
            self._note_expiry(until_ms + self._superseded_kept_ms + FORGETTING_SLACK_MS)
        return is_kept

    def _fresh_id(self) -> int:
        id, self.next_id = self.next_id, self.next_id + 1
        return id

    def _note_expiry(self, at_ms: int) -> None:
        self.next_expiry_ms = at_ms if self.next_expiry_ms is None else min(self.next_expiry_ms, at_ms)
