"""The projection: catalog and vector indexes together, derived from the journal by applying records.

Reading the journals at start and writing a memory both end in `apply`; nothing else changes the state.

Catalog and indexes change one right after the other. A reader in between may get ids that only one of the two knows. It
notices by their number, and reads again under `publish_lock`.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from indexes.group_index import GroupIndex, Groups
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import DamagedJournal, journal_paths, read_tail
from memory_service.journal.records import Header, Record
from memory_service.namespaces.index import NamespaceIndex
from memory_service.namespaces.index_cache import AT_ONCE, IndexCache
from memory_service.namespaces.spilling import Spill
from memory_service.projection import snapshots
from memory_service.projection.catalog import Catalog
from memory_service.projection.changes import IndexChanges
from memory_service.projection.resolving import Resolver
from memory_service.projection.snapshots import FrozenProjection, Snapshot

log = logging.getLogger(__name__)

SUPERSEDED_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a superseded version can be looked back at, unless `MEMORY_VERSIONS_KEPT_DAYS` says otherwise."""

MERGE_RECORDS = 1_000
"""Records of one transaction while a snapshot is merged. A writer waits for one transaction at most."""


class OtherEmbedder(Exception):
    """A journal holds vectors of another embedding model."""

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path, self.fingerprint = path, fingerprint
        super().__init__(f"{path} holds vectors of {fingerprint.model} (revision {fingerprint.revision[:12]})")


class Projection:
    """The state that reads are answered from.

    Attributes:
        apply_lock: hold it to plan writes against a state that does not change. `apply` and `expire` hold it, too.
        publish_lock: hold it to read catalog and indexes in the same state. Keep it under 2 ms.
        records_since_freeze: records applied since the last snapshot.
        skipped: damage in journals that was passed over.
    """

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
        self.apply_lock = threading.Lock()
        self.publish_lock = threading.Lock()
        self._clock = clock
        self._indexes = IndexCache(embedder.dim, spill or Spill(catalog.folder.parent))
        self._resolver = Resolver(catalog, self._indexes, clock, superseded_kept_ms)
        self._headers: dict[str, Header] = {}  # of each journal, by writer
        self._applied: dict[str, int] = {}  # bytes of each journal that are applied
        self._torn: dict[str, int] = {}  # bytes of each journal's torn tail
        self._coverage: dict[str, dict[str, int] | None] = {}  # bytes of journals that each snapshot covers

    def close(self) -> None:
        """Close the catalog and remove the files on local disk, once no thread writes to them."""
        with self.apply_lock:
            self.catalog.close()
            self._indexes.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def index(self, namespace: str) -> NamespaceIndex | None:
        """Return the index of a namespace, by the catalog's ids; None if it never had a memory.

        Raises:
            Unavailable: the index was evicted and cannot be read back.
        """
        return self._indexes.get(namespace)

    def memories_held(self) -> int:
        """Return the number of memories."""
        return self._indexes.memories

    def nearest_at(self, namespace: str, vector: Vectors, k: int, among: Groups | None) -> list[tuple[int, float]]:
        """Return the k nearest of current and superseded versions as (id, score), best first.

        Args:
            namespace: the one to search.
            vector: (dim,).
            k: at least 1.
            among: ids of the candidates; None finds nothing.
        """
        if among is None:
            return []
        index = self.index(namespace)
        hits = list(_pairs(index.dense.search(vector, k, among))) if index is not None else []
        if superseded := self.catalog.superseded_vectors(among.tolist()):
            # Superseded versions are in no index, so one is made for this search.
            past = GroupIndex(self.embedder.dim)
            past.add(*_rows(superseded))
            hits = sorted([*hits, *_pairs(past.search(vector, k))], key=lambda hit: (-hit[1], hit[0]))
        return [(id, max(-1.0, min(1.0, score))) for id, score in hits[:k]]

    # -- applying --------------------------------------------------------------------------------------------------

    def apply(self, records: Sequence[Record], applied: Mapping[str, int]) -> None:
        """Apply records, and note how many bytes of each journal are applied by them."""
        changes = IndexChanges()
        with self.apply_lock, self.catalog.transaction():
            for record in records:
                self._resolver.apply(record, changes)
                self._clock.observe(record.stamp)
            for writer, end in applied.items():
                self.catalog.set_watermark(writer, end)
            self._publish(changes)
        # Only now: if the transaction had failed, the next pull would have to read these records again.
        self._applied |= applied
        self.records_since_freeze += len(records)
        self._indexes.evict_excess(self.apply_lock, max(AT_ONCE, 2 * len(changes.namespaces())))

    def expire(self, now_ms: int) -> None:
        """Remove what has expired, and evict indexes beyond the budget. This is cheap when nothing is due."""
        self._indexes.evict_excess(self.apply_lock)
        due = self._resolver.next_expiry_ms
        if due is None or now_ms < due:
            return
        changes = IndexChanges()
        with self.apply_lock, self.catalog.transaction():
            self._resolver.expire(now_ms, changes)
            self._publish(changes)
            self._resolver.note_next_expiry()

    def _publish(self, changes: IndexChanges) -> None:
        # Reading evicted indexes back takes long, so it comes before the lock that readers wait for.
        changing = {namespace: self._indexes.get_to_change(namespace) for namespace in changes.namespaces()}
        with self.publish_lock:
            self.catalog.commit()
            changes.apply({namespace: index for namespace, index in changing.items() if index is not None})
        self._indexes.reweigh(changing)

    # -- journals --------------------------------------------------------------------------------------------------

    def pull(self, journal_folder: Path) -> int:
        """Apply what the journals hold beyond the watermarks, and return the number of records read.

        Raises:
            DamagedJournal, OtherEmbedder: about the first such file; what was read before it stays applied.
            OSError: a journal cannot be read.
        """
        count = 0
        for path in journal_paths(journal_folder):
            with contextlib.suppress(FileNotFoundError):  # another worker compacted it away
                count += self.pull_one(path)
        return count

    def pull_one(self, path: Path, *, skip_damage: bool = False, trust_size: bool = True) -> int:
        """Apply what one journal holds beyond its watermark, and return the number of records read.

        Args:
            path: of the journal.
            skip_damage: pass over damage and apply the valid records behind it; `skipped` lists what was passed over.
            trust_size: do not open a journal that has not grown. A network file system may show the size of a second
                ago, but a read gets what is there.

        Raises:
            DamagedJournal: the valid records before the damage are applied.
            OtherEmbedder, OSError: nothing new was applied.
        """
        applied = self._applied.get(path.stem, 0)
        if trust_size and path.stat().st_size == applied:
            return 0
        # A journal with a damaged header is read as if this embedder had made its vectors.
        past_damage = Header(path.stem, self.embedder) if skip_damage else None
        tail = read_tail(path, applied, self._headers.get(path.stem), past_damage=past_damage)
        self._torn[path.stem] = tail.torn_bytes
        if tail.header is not None:
            self._check_header(path, tail.header)
            # Records before damage are applied even if the damage is raised below.
            if tail.end > applied:
                self.apply(tail.records, {path.stem: tail.end})
        if skip_damage:
            self.skipped += tail.damage
        elif tail.damage:
            raise tail.damage[0]
        return len(tail.records)

    def torn_bytes(self) -> dict[str, int]:
        """Return the bytes after the last valid frame of each journal that has any; a crash leaves such a tail."""
        return {writer: count for writer, count in self._torn.items() if count}

    def _check_header(self, path: Path, header: Header) -> None:
        if header.embedder != self.embedder:
            raise OtherEmbedder(path, header.embedder)
        if header.writer != path.stem:
            raise DamagedJournal(path, 0, f"its header names another writer, {header.writer}")
        self._headers[path.stem] = header

    # -- snapshots -------------------------------------------------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """Start from a snapshot. The catalog of this projection must be the snapshot's."""
        for namespace, dense in snapshot.indexes.items():
            self._indexes.add(namespace, NamespaceIndex(dense, snapshot.texts.get(namespace)))
            if namespace not in snapshot.texts:
                self._restore_texts(namespace)
        for namespace, spilled in snapshot.spilled.items():
            self._indexes.add_spilled(namespace, spilled)
            if spilled.texts is None:
                self._restore_texts(namespace)
        self._resolver.resume(snapshot.next_id)
        self._applied = self.catalog.watermarks()
        # New stamps must be later than everything in the snapshot.
        last = self.catalog.last_stamp()
        if last is not None:
            self._clock.observe(last)

    def _restore_texts(self, namespace: str) -> None:
        """Index the words of a namespace again, because another version of this program indexed them."""
        index = self._indexes.get_to_change(namespace)
        if index is not None:
            for id, text in self.catalog.texts(namespace):
                index.add_text(id, text)
        self._indexes.reweigh([namespace])
        self._indexes.evict_excess(self.apply_lock)

    def freeze(self) -> FrozenProjection:
        """Return the projection of this moment, to be written as a snapshot while this one goes on.

        Raises:
            Unavailable: an index is lost (`index_cache.py`).
        """
        with self._indexes.freeze(self.apply_lock) as indexes:
            self.records_since_freeze = 0
            return FrozenProjection(self.catalog.freeze(), indexes, self._resolver.next_id)

    def merge_compacted_snapshots(self, folder: DataFolder) -> list[str]:
        """Apply snapshots that cover journals which compaction has removed before they were applied here.

        This happens to a worker that slept while others compacted, or that started from a snapshot of one of them.

        Returns:
            The names of snapshots that are, or may be, needed and cannot be used.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._missing_snapshots(folder):
            return []
        for snapshot in snapshots.usable(folder.snapshots, self.embedder, self._indexes.spill):
            if snapshot.path.name in self._missing_snapshots(folder):
                log.info("snapshot.merged", extra={"snapshot": snapshot.path.name})
                with contextlib.suppress(FileNotFoundError):  # newer snapshots replaced it
                    self.merge(snapshot)
        return self._missing_snapshots(folder)

    def _missing_snapshots(self, folder: DataFolder) -> list[str]:
        """Return the snapshots that hold records which were never applied here and which no journal has any more."""
        names = snapshots.names(folder.snapshots)
        # A manifest never changes, so it is read once. One that could not be read is tried again.
        for name in names:
            if self._coverage.get(name) is None:
                self._coverage[name] = snapshots.coverage(folder.snapshots / name)
        known = {name: covered for name in names if (covered := self._coverage[name]) is not None}
        if names and not known and folder.is_compacted:
            # Journals were removed, and no manifest can be read: any of the snapshots may hold what is missing.
            return list(names)
        return [
            name
            for name, covered in known.items()
            if snapshots.is_gone(snapshots.uncovered(covered, self._applied), folder.journal)
        ]

    def merge(self, snapshot: Snapshot) -> None:
        """Apply a snapshot's contents as records."""
        source = Catalog(self.catalog.folder.parent, snapshot.catalog)
        try:
            records = source.records(snapshot.vectors)
            while batch := list(islice(records, MERGE_RECORDS)):
                self.apply(batch, {})
        finally:
            source.close()
        # A watermark never goes back: this worker may have applied more of a journal than the snapshot covers.
        self.apply([], {writer: max(end, self._applied.get(writer, 0)) for writer, end in snapshot.journals.items()})


def _pairs(hits: tuple[Groups, Vectors]) -> Iterable[tuple[int, float]]:
    return zip(hits[0].tolist(), hits[1].tolist(), strict=True)


def _rows(versions: Iterable[tuple[int, Vectors]]) -> tuple[Groups, Vectors]:
    """Return the ids (n,) and rows (n, dim) of an index, for (id, vectors) in ascending order of id."""
    ids, vectors = zip(*versions, strict=True)
    counts = [len(windows) for windows in vectors]
    return np.repeat(np.array(ids, dtype=np.int64), counts), np.concatenate(vectors)
