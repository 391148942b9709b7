"""The projection: catalog and vector indexes together, derived from the journal by applying records.

Reading the journals at start and writing a memory both end in `apply`; there is no other way in. The last stamp wins
for each (namespace, key), so the outcome does not depend on the order in which journals are read.

Catalog and indexes change one right after the other. A reader in between may hold ids that only one of the two knows;
it sees that by their number and looks again under `publish_lock`.
"""

import contextlib
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from indexes.group_index import GroupIndex, Groups
from memory_service.clock import HybridClock, Stamp
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import DamagedJournal, journal_paths, read_tail
from memory_service.journal.records import Deletion, Header, Put, Record, RememberedReply
from memory_service.namespaces.conversation import Text
from memory_service.namespaces.index import Entry, NamespaceIndex
from memory_service.namespaces.resident import AT_ONCE, Residents
from memory_service.namespaces.spilling import Spill
from memory_service.projection import snapshots
from memory_service.projection.catalog import Catalog, Tombstone
from memory_service.projection.snapshots import FrozenProjection, Snapshot

log = logging.getLogger(__name__)

REPLY_KEPT_MS = 24 * 3600 * 1000
"""How long an idempotency key is remembered: a day, as is usual for HTTP APIs."""

SUPERSEDED_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a version that was superseded can be looked back at."""

FORGETTING_SLACK_MS = 3600 * 1000
"""What is old is forgotten an hour late, many at once, rather than one by one."""

MERGE_RECORDS = 1_000
"""Records of one transaction while a snapshot is merged: writers wait for one at most."""


class OtherEmbedder(Exception):
    """A journal holds vectors of another embedding model."""

    def __init__(self, path: Path, found: Fingerprint) -> None:
        self.path, self.found = path, found
        super().__init__(f"{path} holds vectors of {found.model} (revision {found.revision[:12]})")


class _Changes:
    """What a run of records changes in the indexes, gathered while the catalog's transaction is open."""

    def __init__(self) -> None:
        self.added: dict[str, dict[int, Entry]] = defaultdict(dict)
        self.removed: dict[str, list[int]] = defaultdict(list)

    def add(self, id: int, put: Put, stamp: Stamp) -> None:
        text = Text(put.content, json.loads(put.metadata), put.created_at_ms, stamp)
        self.added[put.namespace][id] = Entry(text, put.vectors)

    def namespaces(self) -> set[str]:
        """Those whose index changes."""
        return {namespace for changed in (self.added, self.removed) for namespace, of_it in changed.items() if of_it}

    def remove(self, namespace: str, id: int) -> None:
        if self.added[namespace].pop(id, None) is None:
            self.removed[namespace].append(id)


class Projection:
    """The state that reads are answered from. `apply`, `pull` and `expire` exclude one another; reads are free."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Fingerprint,
        clock: HybridClock,
        superseded_kept_ms: int = SUPERSEDED_KEPT_MS,
        spill: Spill | None = None,
    ) -> None:
        self.catalog = catalog
        self.superseded_kept_ms = superseded_kept_ms
        self.records_since_freeze = 0
        self.skipped: list[DamagedJournal] = []
        self.embedder = embedder
        self._clock = clock
        self._indexes = Residents(embedder.dim, spill or Spill(catalog.folder.parent))
        self._headers: dict[str, Header] = {}
        self._applied: dict[str, int] = {}
        self._torn: dict[str, int] = {}
        self._coverage: dict[str, dict[str, int] | None] = {}
        self._next_id = 1
        self._next_expiry_ms: int | None = None
        self.apply_lock = threading.Lock()
        self.publish_lock = threading.Lock()

    def restore(self, snapshot: Snapshot) -> None:
        """Begin with a snapshot, whose catalog is the one that this projection was made with."""
        for namespace, (groups, rows) in snapshot.indexes.items():
            dense = GroupIndex.over(self.embedder.dim, groups, rows)
            self._indexes.add(namespace, NamespaceIndex(dense, snapshot.texts.get(namespace)))
            if namespace not in snapshot.texts:
                self._restore_texts(namespace)
        for namespace, spilled in snapshot.spilled.items():
            self._indexes.add_spilled(namespace, spilled)
            if spilled.texts is None:
                self._restore_texts(namespace)
        self._next_id = snapshot.next_id
        self._applied = self.catalog.watermarks()
        self._next_expiry_ms = self._next_due_ms()
        last = self.catalog.last_stamp()
        if last is not None:
            self._clock.observe(last)

    def _restore_texts(self, namespace: str) -> None:
        """Index the words of a namespace anew, since another version did it."""
        index = self._indexes.to_change(namespace)
        if index is not None:
            for id, text in self.catalog.texts(namespace):
                index.add_text(id, text)
        self._indexes.changed([namespace])
        self._indexes.fit(self.apply_lock)

    def merge_compacted_snapshots(self, folder: DataFolder) -> list[str]:
        """Merge the snapshots that hold what was never applied here and whose journal is gone by now.

        A worker that slept while others compacted, or began with a snapshot that one of them wrote, needs this.

        Returns:
            The names of snapshots that are, or may be, needed and cannot be used.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._lacking(folder):
            return []
        for snapshot in snapshots.usable(folder.snapshots, self.embedder, self._indexes.spill):
            if snapshot.path.name in self._lacking(folder):
                log.info("snapshot.merged", extra={"snapshot": snapshot.path.name})
                with contextlib.suppress(FileNotFoundError):  # newer ones took its place
                    self.merge(snapshot)
        return self._lacking(folder)

    def _lacking(self, folder: DataFolder) -> list[str]:
        """The snapshots that hold what was never applied here, as far as can be told.

        Where journals were removed and no snapshot can be looked into, each may.
        """
        names = snapshots.names(folder.snapshots)
        for name in names:
            if self._coverage.get(name) is None:
                self._coverage[name] = snapshots.coverage(folder.snapshots / name)
        known = {name: covered for name in names if (covered := self._coverage[name]) is not None}
        if names and not known and folder.is_compacted:
            return list(names)
        return [
            name
            for name, covered in known.items()
            if snapshots.is_gone(snapshots.uncovered(covered, self._applied), folder.journal)
        ]

    def merge(self, snapshot: Snapshot) -> None:
        """Apply a snapshot's contents as records: for a worker that slept while journals were removed."""
        held = Catalog(self.catalog.folder.parent, snapshot.catalog)
        try:
            records = held.records(snapshot.vectors)
            while batch := list(islice(records, MERGE_RECORDS)):
                self.apply(batch, {})
        finally:
            held.close()
        self.apply([], {writer: max(end, self._applied.get(writer, 0)) for writer, end in snapshot.journals.items()})

    def freeze(self) -> FrozenProjection:
        """The projection of this moment, to be written as a snapshot while this one goes on.

        Raises:
            Unavailable: an index is lost (`resident.py`).
        """
        with self._indexes.frozen(self.apply_lock) as indexes:
            self.records_since_freeze = 0
            return FrozenProjection(self.catalog.freeze(), indexes, self._next_id)

    def close(self) -> None:
        """Close the catalog, and remove what is on local disk, when no thread is writing to it."""
        with self.apply_lock:
            self.catalog.close()
            self._indexes.close()

    def index(self, namespace: str) -> NamespaceIndex | None:
        """What a namespace is searched by, by the catalog's ids; None when it never had a memory.

        Raises:
            Unavailable: it was evicted and cannot be read back.
        """
        return self._indexes.get(namespace)

    def memories_held(self) -> int:
        """How many memories there are."""
        return self._indexes.memories

    def torn_bytes(self) -> dict[str, int]:
        """Bytes behind the last valid frame of each journal that has any: unacknowledged rests of a crash."""
        return {writer: count for writer, count in self._torn.items() if count}

    def pull(self, journal_folder: Path) -> int:
        """Apply what the journals hold beyond the watermarks; the number of records read.

        Raises:
            DamagedJournal, OtherEmbedder: as of the first such file; what was read before stays applied.
            OSError: a journal cannot be read.
        """
        count = 0
        for path in journal_paths(journal_folder):
            with contextlib.suppress(FileNotFoundError):  # a compaction took it away
                count += self.pull_one(path)
        return count

    def pull_one(self, path: Path, *, skip_damage: bool = False, trust_size: bool = True) -> int:
        """Apply what one journal holds beyond its watermark; the number of records read.

        Args:
            path: of the journal.
            skip_damage: pass over what is damaged and apply the valid records behind it; `skipped` tells of it.
            trust_size: do not open a journal that has not grown. A network file system may show a size of a second
                ago, but reads what is there.

        Raises:
            DamagedJournal: its valid records before the damage are applied.
            OtherEmbedder, OSError: nothing of what is new was applied.
        """
        applied = self._applied.get(path.stem, 0)
        if trust_size and path.stat().st_size == applied:
            return 0
        past_damage = Header(path.stem, self.embedder) if skip_damage else None
        tail = read_tail(path, applied, self._headers.get(path.stem), past_damage=past_damage)
        self._torn[path.stem] = tail.torn_bytes
        if tail.header is not None:
            self._check_header(path, tail.header)
            if tail.end > applied:
                self.apply(tail.records, {path.stem: tail.end})
        if skip_damage:
            self.skipped += tail.damage
        elif tail.damage:
            raise tail.damage[0]
        return len(tail.records)

    def _check_header(self, path: Path, header: Header) -> None:
        if header.embedder != self.embedder:
            raise OtherEmbedder(path, header.embedder)
        if header.writer != path.stem:
            raise DamagedJournal(path, 0, f"its header names another writer, {header.writer}")
        self._headers[path.stem] = header

    def apply(self, records: Sequence[Record], applied: Mapping[str, int]) -> None:
        """Apply records, and note how far journals are applied by that."""
        changes = _Changes()
        with self.apply_lock, self.catalog.transaction():
            for record in records:
                self._apply_one(record, changes)
                self._clock.observe(record.stamp)
            for writer, end in applied.items():
                self.catalog.set_watermark(writer, end)
            self._publish(changes)
        self._applied |= applied
        self.records_since_freeze += len(records)
        self._indexes.fit(self.apply_lock, max(AT_ONCE, 2 * len(changes.namespaces())))

    def expire(self, now_ms: int) -> None:
        """Drop the memories whose time is over, and old replies. Cheap when nothing is due.

        What expires is buried under its own stamp, so that an older record of the key, read later, stays dead. Every
        call comes by here, so this is also where indexes are evicted that are beyond the budget.
        """
        self._indexes.fit(self.apply_lock)
        due = self._next_expiry_ms
        if due is None or now_ms < due:
            return
        changes = _Changes()
        with self.apply_lock, self.catalog.transaction():
            for namespace, key, stamp, expires_at_ms, id in self.catalog.expired(now_ms):
                if id is not None:
                    self.catalog.remove(id)
                    changes.remove(namespace, id)
                self._bury(namespace, key, stamp, expires_at_ms)
            self.catalog.forget_replies(now_ms - REPLY_KEPT_MS)
            self.catalog.forget_superseded(now_ms - self.superseded_kept_ms)
            self._publish(changes)
            self._next_expiry_ms = self._next_due_ms()

    def nearest_then(self, namespace: str, vector: Vectors, k: int, among: Groups | None) -> list[tuple[int, float]]:
        """The k nearest of memories and superseded versions, by (id, score), best first.

        Args:
            namespace: in which.
            vector: (dim,).
            k: at least 1.
            among: ids of the candidates; None finds nothing.
        """
        if among is None:
            return []
        index = self.index(namespace)
        found = list(_pairs(index.dense.search(vector, k, among))) if index is not None else []
        if past := self.catalog.superseded_vectors(among.tolist()):
            then = GroupIndex(self.embedder.dim)
            then.add(*_rows(past))
            found = sorted([*found, *_pairs(then.search(vector, k))], key=lambda pair: (-pair[1], pair[0]))
        return [(id, max(-1.0, min(1.0, score))) for id, score in found[:k]]

    def _apply_one(self, record: Record, changes: _Changes) -> None:
        match record.mutation:
            case Put() as put:
                self._apply_put(put, record.stamp, changes)
            case Deletion() as delete:
                self._apply_delete(delete, record.stamp, changes)
            case RememberedReply() as reply:
                self.catalog.remember(reply, record.stamp)
                self._note_expiry(record.stamp.ms + REPLY_KEPT_MS + FORGETTING_SLACK_MS)

    def _apply_put(self, put: Put, stamp: Stamp, changes: _Changes) -> None:
        """The newest becomes the memory; an older one that was not known yet is a superseded version."""
        tombstone = self.catalog.tombstone(put.namespace, put.key)
        if tombstone is not None and tombstone.stamp >= stamp:
            return
        newest = self.catalog.newest(put.namespace, put.key)
        if newest is None or newest[1] < stamp:
            if newest is not None:
                self._supersede(put.namespace, newest[0], stamp.ms, changes)
            id = self._fresh_id()
            self.catalog.put(id, put, stamp)
            changes.add(id, put, stamp)
        elif newest[1] > stamp and self._is_kept(newest[1].ms):
            self.catalog.put_superseded(self._fresh_id(), put, stamp, newest[1].ms)
        if put.expires_at_ms is not None:
            self._note_expiry(put.expires_at_ms)

    def _apply_delete(self, delete: Deletion, stamp: Stamp, changes: _Changes) -> None:
        """The memory goes if it is older, and so do all older versions, known or still to be read."""
        newest = self.catalog.newest(delete.namespace, delete.key)
        if newest is not None and newest[1] <= stamp:
            self.catalog.remove(newest[0])
            changes.remove(delete.namespace, newest[0])
        self._bury(delete.namespace, delete.key, stamp, delete.expired_at_ms)

    def _bury(self, namespace: str, key: str, stamp: Stamp, expired_at_ms: int | None) -> None:
        """The later of two ends counts, and the later of two deletes is remembered."""
        found = Tombstone(stamp, expired_at_ms, stamp.ms if expired_at_ms is None else None)
        if (known := self.catalog.tombstone(namespace, key)) is not None:
            deletes = [at for at in (known.deleted_at_ms, found.deleted_at_ms) if at is not None]
            last = max(known, found, key=lambda tombstone: tombstone.stamp)
            found = replace(last, deleted_at_ms=max(deletes, default=None))
        if found != known:
            self.catalog.bury(namespace, key, found)

    def _supersede(self, namespace: str, id: int, until_ms: int, changes: _Changes) -> None:
        vectors = self._vectors(namespace, id, changes) if self._is_kept(until_ms) else None
        if vectors is not None:
            self.catalog.supersede(id, until_ms, vectors)
        else:
            self.catalog.remove(id)
        changes.remove(namespace, id)

    def _vectors(self, namespace: str, id: int, changes: _Changes) -> Vectors | None:
        """The vectors of a memory that is about to be superseded; None when its namespace's index is lost."""
        if (added := changes.added[namespace].get(id)) is not None:
            return added.vectors
        index = self._indexes.to_change(namespace)
        return None if index is None else index.dense.vectors(id)

    def _is_kept(self, until_ms: int) -> bool:
        """Whether a version superseded then can still be looked back at."""
        is_kept = until_ms + self.superseded_kept_ms > self._clock.now_ms()
        if is_kept:
            self._note_expiry(until_ms + self.superseded_kept_ms + FORGETTING_SLACK_MS)
        return is_kept

    def _fresh_id(self) -> int:
        id, self._next_id = self._next_id, self._next_id + 1
        return id

    def _next_due_ms(self) -> int | None:
        return self.catalog.next_expiry_ms(
            REPLY_KEPT_MS + FORGETTING_SLACK_MS, self.superseded_kept_ms + FORGETTING_SLACK_MS
        )

    def _note_expiry(self, at_ms: int) -> None:
        self._next_expiry_ms = at_ms if self._next_expiry_ms is None else min(self._next_expiry_ms, at_ms)

    def _publish(self, changes: _Changes) -> None:
        changing = {namespace: self._indexes.to_change(namespace) for namespace in changes.namespaces()}
        with self.publish_lock:
            self.catalog.commit()
            _apply_to_indexes(changes, {namespace: index for namespace, index in changing.items() if index is not None})
        self._indexes.changed(changing)


def _apply_to_indexes(changes: _Changes, indexes: Mapping[str, NamespaceIndex]) -> None:
    """Add first: a reader in between meets ids too many, which it notices, never too few, which it could not."""
    for namespace, index in indexes.items():
        if added := changes.added.get(namespace):
            index.add(list(added.items()))
    for namespace, index in indexes.items():
        if ids := changes.removed.get(namespace):
            index.remove(np.array(ids, dtype=np.int64))


def _pairs(found: tuple[Groups, Vectors]) -> Iterable[tuple[int, float]]:
    return zip(found[0].tolist(), found[1].tolist(), strict=True)


def _rows(added: Iterable[tuple[int, Vectors]]) -> tuple[Groups, Vectors]:
    """The rows of an index for (id, vectors) in ascending order of id."""
    ids, vectors = zip(*added, strict=True)
    counts = [len(windows) for windows in vectors]
    return np.repeat(np.array(ids, dtype=np.int64), counts), np.concatenate(vectors)
