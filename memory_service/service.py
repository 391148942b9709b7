"""The service: store, update, delete, retrieve, get and list memories.

Every door (HTTP, jobs, MCP, the command line) is a translation of this one object. Its methods are synchronous and
thread-safe. They check their arguments, so no door has to.
"""

from collections.abc import Mapping, Sequence

from memory_service import checks
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Embedder
from memory_service.embedding.queue import EmbeddingQueue
from memory_service.filters.grammar import EVERYTHING, parse
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.writer import storage_unavailable
from memory_service.metadata import canonical
from memory_service.model import DeleteOutcome
from memory_service.projection.compacting import Compactor
from memory_service.projection.following import Follower
from memory_service.projection.receipts import redeem
from memory_service.projection.recovery import recover
from memory_service.projection.snapshotting import Snapshotter
from memory_service.reading import MemoryReader, no_such_memory
from memory_service.settings import MemorySettings
from memory_service.writing.committing import Committer
from memory_service.writing.idempotency import idempotency
from memory_service.writing.preparing import PreparedMemory, Preparer
from memory_service.writing.requests import (
    DeleteRequest,
    Idempotency,
    Stale,
    StoreRequest,
    UpdateRequest,
    WriteOutcome,
    WriteRequest,
)
from vector_memory.administration import Compacted
from vector_memory.errors import InvalidInput, Unavailable
from vector_memory.fields import JSON
from vector_memory.memories import (
    BATCH,
    CONTENT,
    DEFAULT_NAMESPACE,
    TTL_SECONDS,
    Consistency,
    Metadata,
    NewMemory,
    Receipt,
    Refused,
    Stored,
)


class MemoryService(MemoryReader):
    """The memories of one data folder. Close it with `close`."""

    def __init__(
        self,
        folder: DataFolder,
        embedder: Embedder,
        settings: MemorySettings | None = None,
        clock: HybridClock | None = None,
    ) -> None:
        """Read the folder's newest snapshot and what its journals hold beyond it.

        Raises:
            StartupError: the folder is damaged or belongs to another embedder; the message says what to do.
        """
        self.is_closed = False
        settings = settings or MemorySettings()
        clock = clock or HybridClock()
        recovered = recover(
            folder,
            embedder.fingerprint,
            clock,
            settings.cache_dir,
            superseded_kept_ms=round(settings.versions_kept_days * checks.DAY_MS),
            skip_damage=settings.skip_damaged,
            index_budget_bytes=settings.index_budget_mb * 1e6,
        )
        projection = recovered.projection
        super().__init__(projection, EmbeddingQueue(embedder), embedder.fingerprint, clock, self._bring_up_to_date)
        self._folder = folder
        self._preparer = Preparer(self._catalog, self._embedding, self.fingerprint, clock.now_ms)
        self._committer = Committer(projection, folder.journal, self.fingerprint, clock)
        self._follower = Follower(
            projection,
            folder,
            settings.follow_interval_ms,
            own_writer=lambda: self._committer.writer,
            damaged=recovered.damaged,
        )
        self._snapshotter = Snapshotter(
            projection,
            folder,
            lambda: self._follower.follow(strong=True),
            every_records=settings.snapshot_records,
            every_s=settings.snapshot_interval_s,
        )
        self._compactor = Compactor(folder, self._snapshotter, self._committer.seal, lambda: self._committer.sealed)
        self._snapshotter.after_background = self._compactor.remove_quietly

    def close(self) -> None:
        """Finish what was accepted, then release everything."""
        # In the order of a write: embedding, commit, snapshot. Each one finishes what it has accepted.
        self.is_closed = True
        self._embedding.close()
        self._committer.close()
        self._snapshotter.close()
        self._projection.close()

    # -- store and update ------------------------------------------------------------------------------------------

    def store(self, memory: NewMemory, *, idempotency_key: str | None = None) -> Stored:
        """Store one memory. It is durable and can be retrieved when this returns.

        Raises:
            InvalidInput: the message names the field, the bound and the remedy.
            Conflict: the idempotency key was used for another request.
            StorageUnavailable: the data folder takes no writes.
        """
        result = self.store_batch([memory], idempotency_key=idempotency_key)[0]
        if isinstance(result, Refused):
            raise result.error
        return result

    def store_batch(
        self, memories: Sequence[NewMemory], *, idempotency_key: str | None = None
    ) -> list[Stored | Refused]:
        """Store up to 1,000 memories. Each is checked on its own; the results are in their order.

        Raises:
            InvalidInput: the batch as a whole is wrong; nothing is stored.
            Conflict: the idempotency key was used for another request.
        """
        BATCH.check(memories, "memories")
        checked = [self._preparer.check(memory) for memory in memories]
        accepted = [item for item in checked if not isinstance(item, Refused)]
        # Refused memories are no part of the request that the idempotency key names: a reply holds what was stored.
        sent = [memory for memory, item in zip(memories, checked, strict=True) if not isinstance(item, Refused)]
        named = idempotency(idempotency_key, "store", {"memories": sent})
        stored = iter(self._store(accepted, named) if accepted else [])
        return [item if isinstance(item, Refused) else next(stored) for item in checked]

    def _store(self, items: Sequence[PreparedMemory], named: Idempotency | None) -> list[Stored | Refused]:
        self._refresh_to_write()
        outcome = self._commit(StoreRequest(self._preparer.embed(items), named))
        if isinstance(outcome, Stale):
            outcome = self._commit(StoreRequest(self._preparer.embed(items, reuse=False), named))
        assert isinstance(outcome, list), "a store with all its vectors is never stale"
        return outcome

    def update(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        content: str | None = None,
        metadata: Metadata | None = None,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Change an existing memory. What is not given stays as it is.

        Writers of this process never lose each other's changes. Changes of other workers are seen once they were
        answered; if two workers update a memory at the same time, the later update wins as a whole.

        Args:
            key: of the memory.
            namespace: of the memory.
            content: replaces the text.
            metadata: merged key by key at the top level; null removes a key.
            ttl_seconds: a new lifetime from now.
            idempotency_key: a name for this request; its repetition gets the same answer.

        Raises:
            InvalidInput: the message names the field; also for metadata that would become too large.
            NotFound: there is no such memory (any more).
        """
        checks.namespace(namespace)
        checks.key(key)
        if content is None and metadata is None and ttl_seconds is None:
            raise InvalidInput("There is nothing to update; send content, metadata or ttl_seconds.", field="content")
        if content is not None:
            CONTENT.check(content, "content")
        if ttl_seconds is not None:
            TTL_SECONDS.check(ttl_seconds, "ttl_seconds")
        canonical(metadata)
        request = {"key": key, "content": content, "metadata": metadata, "ttl_seconds": ttl_seconds}
        named = idempotency(idempotency_key, "update", {"namespace": namespace, **request})
        self._refresh_to_write()
        self._refresh(Consistency.STRONG)  # every answered write comes first, above all a delete
        current = self._content(namespace, key)
        if current is None and named is None:
            raise no_such_memory(namespace, key)
        text = None if content == current else content  # the text to embed; None reuses the vectors
        while True:
            request_now = UpdateRequest(
                namespace=namespace,
                key=key,
                content=content,
                embedded=None if text is None else (text, self._embedding.windows([text])[0]),
                metadata=metadata,
                ttl_ms=None if ttl_seconds is None else ttl_seconds * 1000,
                idempotency=named,
            )
            outcome = self._commit(request_now)
            if not isinstance(outcome, Stale):
                break
            # The text has changed since, or its vectors are lost. Embed the text that is there now, and try again.
            text = content or self._content(namespace, key)
            if text is None:
                raise no_such_memory(namespace, key)
        assert isinstance(outcome, list), "an update is answered like a store"
        [result] = outcome
        if isinstance(result, Refused):
            raise result.error
        return result

    def _content(self, namespace: str, key: str) -> str | None:
        return self._catalog.contents({(namespace, key)}).get((namespace, key))

    # -- delete ----------------------------------------------------------------------------------------------------

    def delete(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, idempotency_key: str | None = None
    ) -> DeleteOutcome:
        """Delete one memory.

        Raises:
            NotFound: there is no such memory.
        """
        deleted = self.delete_keys([key], namespace=namespace, idempotency_key=idempotency_key)
        if not deleted.keys and idempotency_key is None:  # with a key, the commit has read the other journals already
            self._refresh(Consistency.STRONG)
            deleted = self.delete_keys([key], namespace=namespace)
        if not deleted.keys:
            raise no_such_memory(namespace, key)
        return deleted

    def delete_keys(
        self,
        keys: Sequence[str],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> DeleteOutcome:
        """Delete up to 1,000 memories by key. Keys without a memory are reported as missing."""
        checks.namespace(namespace)
        BATCH.check(keys, "keys")
        for position, key in enumerate(keys):
            checks.key(key, f"keys[{position}]")
        if dry_run:
            self._refresh(Consistency.EVENTUAL)
            present = self._catalog.ids(namespace, keys).keys()
            missing = tuple(sorted(set(keys) - present))
            return DeleteOutcome(namespace=namespace, keys=tuple(sorted(present)), missing=missing, dry_run=True)
        named = idempotency(idempotency_key, "delete_keys", {"namespace": namespace, "keys": keys})
        return self._delete(DeleteRequest(namespace, tuple(keys), None, named))

    def delete_matching(
        self,
        filter: Mapping[str, JSON],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> DeleteOutcome:
        """Delete every memory of the namespace that matches the filter.

        Raises:
            InvalidInput: also for an empty filter, which would match everything.
        """
        checks.namespace(namespace)
        wanted = parse(filter)
        if wanted == EVERYTHING:
            raise InvalidInput(
                'An empty filter would delete the whole namespace; if that is meant, send {"key": {"$exists": true}}.',
                field="filter",
            )
        if dry_run:
            self._refresh(Consistency.EVENTUAL)
            keys = tuple(self._catalog.matching_keys(namespace, wanted))
            return DeleteOutcome(namespace=namespace, keys=keys, missing=(), dry_run=True)
        named = idempotency(idempotency_key, "delete_matching", {"namespace": namespace, "filter": filter})
        return self._delete(DeleteRequest(namespace, None, wanted, named))

    def _delete(self, request: DeleteRequest) -> DeleteOutcome:
        self._refresh_to_write()
        outcome = self._commit(request)
        assert isinstance(outcome, DeleteOutcome), "a delete is answered with what it deleted"
        return outcome

    def receipt(self, id: str) -> Receipt:
        """Return the files that still hold bytes of what a delete removed.

        Args:
            id: `DeleteOutcome.receipt`.

        Raises:
            InvalidInput: the id is not a receipt.
            NotFound: the receipt belongs to another data folder.
            StorageUnavailable: the data folder cannot be read.
        """
        try:
            return redeem(id, self._folder)
        except OSError as error:
            raise storage_unavailable(error) from error

    # -- operation -------------------------------------------------------------------------------------------------

    def snapshot(self) -> str:
        """Take a snapshot now, so that the next start is quick, and return its name.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        return self._snapshotter.take().name

    def compact(self) -> Compacted:
        """Take snapshots and remove the journals that they cover, so that no file holds a deleted text any more.

        A journal that another worker may still append to is kept until it has been quiet for a day.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        return self._compactor.compact()

    def problems(self) -> Sequence[str]:
        """Return what keeps this worker from seeing all writes; empty when nothing does."""
        return [*self._follower.problems.values(), *(f"passed over: {error}" for error in self._projection.skipped)]

    def write_problem(self) -> str | None:
        """Return why the data folder takes no writes at the moment, found by a trial write; None when it takes them."""
        self._refresh(Consistency.EVENTUAL)
        if self._follower.damage is not None:
            return self._follower.damage
        try:
            self._folder.probe()
        except OSError as error:
            return storage_unavailable(error).message
        return None

    def _commit(self, request: WriteRequest) -> WriteOutcome:
        if request.idempotency is not None:
            # The request may repeat one that another worker has answered.
            self._refresh(Consistency.STRONG)
        return self._committer.commit(request)

    def _refresh_to_write(self) -> None:
        """Bring the projection up to date, and refuse if this worker is read-only.

        Raises:
            Unavailable: a journal was found damaged at the start and still is.
        """
        self._refresh(Consistency.EVENTUAL)
        if damage := self._follower.damage:
            raise Unavailable(
                f"This worker is read-only: the {damage}. Restore the file from a backup, move it away to do without "
                "its memories, or start with MEMORY_SKIP_DAMAGED=true to go on with what is readable behind the damage."
            )

    def _bring_up_to_date(self, consistency: Consistency) -> None:
        self._follower.follow(strong=consistency is Consistency.STRONG)
        self._snapshotter.take_if_due()
        self._projection.expire(self._clock.now_ms())
