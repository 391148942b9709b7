"""The service: store, retrieve, delete, get and list memories.

Every door (HTTP, jobs, later others) is a translation of this one object. All methods are synchronous and thread-safe;
they check what they are given, so no door has to. Below: embedding and committing through batchers, reading from the
projection.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memory_service import checks
from memory_service.clock import HybridClock
from memory_service.cursors import decode_cursor, encode_cursor
from memory_service.embedding.embedder import Embedder, Vectors
from memory_service.embedding.queue import EmbeddingQueue
from memory_service.filters.grammar import EVERYTHING, parse
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import storage_unavailable
from memory_service.metadata import canonical
from memory_service.model import DeleteOutcome
from memory_service.portable_vectors import exported, imported
from memory_service.projection.compacting import Compactor
from memory_service.projection.following import Follower
from memory_service.projection.receipts import redeem
from memory_service.projection.recovery import recover
from memory_service.projection.snapshotting import Snapshotter
from memory_service.retrieval.duplicates import near_duplicates
from memory_service.retrieval.retriever import Retriever
from memory_service.retrieval.searching import Search
from memory_service.settings import MemorySettings
from memory_service.writing.committing import Committer
from memory_service.writing.planning import (
    DeleteRequest,
    Idempotency,
    Outcome,
    Prepared,
    Stale,
    StoreRequest,
    UpdateRequest,
    WriteRequest,
)
from vector_memory.administration import Compacted
from vector_memory.errors import InvalidInput, NotFound, Unavailable
from vector_memory.fields import JSON
from vector_memory.memories import (
    BATCH,
    CONTENT,
    DEFAULT_NAMESPACE,
    DUPLICATES_THRESHOLD,
    LIMIT,
    TTL_SECONDS,
    Consistency,
    DuplicatesPage,
    Event,
    EventKind,
    Memory,
    Metadata,
    NewMemory,
    Page,
    Receipt,
    Refused,
    Stored,
)
from vector_memory.retrieval import RETRIEVALS, Retrieval, Retrieved

log = logging.getLogger(__name__)


class MemoryService:
    """Memories in one data folder. Close it with `close`."""

    def __init__(
        self,
        folder: DataFolder,
        embedder: Embedder,
        settings: MemorySettings | None = None,
        clock: HybridClock | None = None,
    ) -> None:
        """Read the folder's newest snapshot and what its journals hold beyond it.

        Raises:
            StartupError: the folder is damaged or of another embedder; the message says what to do.
        """
        self.fingerprint = embedder.fingerprint
        self.is_closed = False
        settings = settings or MemorySettings()
        self._clock = clock or HybridClock()
        recovered = recover(
            folder,
            self.fingerprint,
            self._clock,
            settings.cache_dir,
            superseded_kept_ms=round(settings.versions_kept_days * checks.DAY_MS),
            skip_damage=settings.skip_damaged,
            index_budget_bytes=settings.index_budget_mb * 1e6,
        )
        self._folder = folder
        self._projection = recovered.projection
        self._catalog = self._projection.catalog
        self._embedding = EmbeddingQueue(embedder)
        self._retriever = Retriever(self._projection, self._embedding, self._clock)
        self._committer = Committer(self._projection, folder.journal, self.fingerprint, self._clock)
        self._follower = Follower(
            self._projection,
            folder,
            settings.follow_interval_ms,
            own_writer=lambda: self._committer.writer,
            damaged=recovered.damaged,
        )
        self._snapshotter = Snapshotter(
            self._projection,
            folder,
            lambda: self._follower.follow(strong=True),
            every_records=settings.snapshot_records,
            every_s=settings.snapshot_interval_s,
        )
        self._compactor = Compactor(
            folder, self._snapshotter, seal=self._committer.seal, sealed=lambda: self._committer.sealed
        )
        self._snapshotter.after_background = self._compactor.remove_quietly

    def close(self) -> None:
        """Finish what was accepted, then release everything."""
        self.is_closed = True
        self._embedding.close()
        self._committer.close()
        self._snapshotter.close()
        self._projection.close()

    # -- store -----------------------------------------------------------------------------------------------------

    def store(self, memory: NewMemory, *, idempotency_key: str | None = None) -> Stored:
        """Keep one memory: durable and retrievable when this returns.

        Raises:
            InvalidInput: naming the field, the bound and the remedy.
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
        """Keep up to 1,000 memories, each judged on its own; results in their order.

        Raises:
            InvalidInput: the batch as a whole is wrong; nothing is stored.
            Conflict: the idempotency key was used for another request.
        """
        BATCH.check(memories, "memories")
        idempotency = _idempotency(idempotency_key, "store", memories)
        checked = [self._checked(memory) for memory in memories]
        accepted = [item for item in checked if not isinstance(item, Refused)]
        stored = iter(self._store_checked(accepted, idempotency) if accepted else [])
        return [item if isinstance(item, Refused) else next(stored) for item in checked]

    def _checked(self, memory: NewMemory) -> tuple[checks.CheckedMemory, Vectors | None] | Refused:
        """What is to be stored, with the vectors that it brings along, if they are of this embedder."""
        try:
            item = checks.new_memory(memory, self._clock.now_ms())
            return item, imported(memory.embedding, self.fingerprint)
        except InvalidInput as error:
            return Refused(namespace=memory.namespace, key=memory.key, error=error)

    def _store_checked(
        self, items: Sequence[tuple[checks.CheckedMemory, Vectors | None]], idempotency: Idempotency | None
    ) -> list[Stored | Refused]:
        self._refresh_to_write()
        held = self._catalog.contents({(item.namespace, item.key) for item, _ in items})
        outcome = self._commit(StoreRequest(self._prepared(items, held), idempotency))
        if isinstance(outcome, Stale):
            outcome = self._commit(StoreRequest(self._prepared(items, {}), idempotency))
        assert isinstance(outcome, list), "a store with all its vectors is never stale"
        return outcome

    def _prepared(
        self, items: Sequence[tuple[checks.CheckedMemory, Vectors | None]], held: dict[tuple[str, str], str]
    ) -> tuple[Prepared, ...]:
        """Items with their vectors, embedding only contents that bring none and are not held under their key already.

        A key that comes again in the same batch is always embedded, because the first may change what is held.
        """
        known = [held.pop((item.namespace, item.key), None) == item.content for item, _ in items]
        has_vectors = [is_known or own is not None for is_known, (_, own) in zip(known, items, strict=True)]
        fresh = [item.content for (item, _), has in zip(items, has_vectors, strict=True) if not has]
        embedded = iter(self._embedding.windows(fresh))
        return tuple(
            Prepared(
                item.namespace,
                item.key,
                item.content,
                item.metadata,
                item.ttl_ms,
                (None if is_known else own) if has else next(embedded),
                item.created_at_ms,
                item.expires_at_ms,
            )
            for (item, own), is_known, has in zip(items, known, has_vectors, strict=True)
        )

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
        """Change a memory that is there; what is not given stays as it is.

        Given content replaces the text; metadata are merged key by key at the top level, where null removes a key;
        `ttl_seconds` is a new lifetime from now. Writers of this process never lose each other's changes. Those of
        another worker are seen once they were answered; of two that write at the same time in two workers the later
        one wins as a whole.

        Raises:
            InvalidInput: naming the field, the bound and the remedy; also for metadata that would become too large.
            NotFound: there is none, or not any more.
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
        ttl_ms = None if ttl_seconds is None else ttl_seconds * 1000
        request = namespace, key, content, metadata, ttl_seconds
        idempotency = _idempotency(idempotency_key, "update", *request)
        self._refresh_to_write()
        self._refresh(Consistency.STRONG)  # whatever was answered, a delete above all, comes before this
        held = self._catalog.contents({(namespace, key)}).get((namespace, key))
        if held is None and idempotency is None:
            raise _missing(namespace, key)
        text = None if content == held else content
        while True:
            embedded = None if text is None else (text, self._embedding.windows([text])[0])
            outcome = self._commit(UpdateRequest(namespace, key, content, embedded, metadata, ttl_ms, idempotency))
            if not isinstance(outcome, Stale):
                break
            # The text is another by now, or its vectors are out of reach.
            text = content or self._catalog.contents({(namespace, key)}).get((namespace, key))
            if text is None:
                raise _missing(namespace, key)
        assert isinstance(outcome, list), "an update is answered as a store is"
        [result] = outcome
        if isinstance(result, Refused):
            raise result.error
        return result

    # -- retrieve --------------------------------------------------------------------------------------------------

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """Find the memories that answer a query best, among those that match.

        Raises:
            InvalidInput: naming the field, the bound and the remedy.
            NotFound: there is no memory with the key of `like`.
        """
        self._refresh(retrieval.consistency)  # a query is understood by what is held
        return self._retrieved([self._retriever.understood(retrieval)])[0]

    def retrieve_batch(self, retrievals: Sequence[Retrieval]) -> list[Retrieved]:
        """Answer up to 100 retrievals, whose queries share the model's runs; results in their order.

        Raises:
            InvalidInput: one of them is wrong, or there are too many; nothing is searched.
            NotFound: there is no memory with the key of a `like`.
        """
        RETRIEVALS.check(retrievals, "queries")
        is_strong = any(retrieval.consistency is Consistency.STRONG for retrieval in retrievals)
        self._refresh(Consistency.STRONG if is_strong else Consistency.EVENTUAL)
        searches = []
        for at, retrieval in enumerate(retrievals):
            try:
                searches.append(self._retriever.understood(retrieval))
            except (InvalidInput, NotFound) as error:
                error.field = f"queries[{at}].{error.field}"
                raise
        return self._retrieved(searches)

    def _retrieved(self, searches: Sequence[Search]) -> list[Retrieved]:
        return [self._retriever.retrieve(search) for search in self._retriever.embedded(searches)]

    def state(self, namespace: str, *, consistency: Consistency = Consistency.EVENTUAL) -> tuple[str, int]:
        """A name for what the namespace holds, and how often that changed here: for caches of answers.

        Workers that hold the same memories give the same name; another one follows every store, delete and expiry. An
        answer belongs to a name if neither it nor the number changed meanwhile.
        """
        checks.namespace(namespace)
        self._refresh(consistency)
        index = self._projection.index(namespace)
        return ("", 0) if index is None else index.state()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, one vector each (the mean direction of its windows).

        Returns:
            float32 (len(texts), dim), unit rows.
        """
        return self._embedding.directions(texts)

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `embed` reads of texts; overlaps of windows and special tokens count too."""
        return self._embedding.tokens(texts)

    # -- get, list, delete -----------------------------------------------------------------------------------------

    def get(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        as_of: str | None = None,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> Memory:
        """One memory by its key, as it is or as it was at a time (ISO 8601).

        Raises:
            NotFound: there is none.
        """
        checks.namespace(namespace)
        checks.key(key)
        as_of_ms = self._as_of_ms(as_of)
        self._refresh(consistency)
        memory = self._catalog.get(namespace, key, as_of_ms)
        if memory is None:
            raise _missing(namespace, key)
        return memory

    def history(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency = Consistency.EVENTUAL
    ) -> list[Event]:
        """What happened to a memory since it was last deleted, and when that was; newest first.

        A version that an update superseded is kept for `versions_kept_days`. A delete, or the end of a version's time,
        erases the versions before it.

        Raises:
            NotFound: nothing is known of the key.
        """
        checks.namespace(namespace)
        checks.key(key)
        self._refresh(consistency)
        versions, tombstone = self._catalog.history(
            namespace, key, self._clock.now_ms() - self._projection.superseded_kept_ms
        )
        events = [Event.of(memory) for memory in versions]
        if tombstone is not None and tombstone.expired_at_ms is not None and not versions:
            events.append(Event(kind=EventKind.EXPIRED, at_ms=tombstone.expired_at_ms))
        if tombstone is not None and tombstone.deleted_at_ms is not None:
            events.append(Event(kind=EventKind.DELETED, at_ms=tombstone.deleted_at_ms))
        if not events:
            raise _missing(namespace, key)
        return events

    def values(
        self,
        field: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        after: str = "",
        limit: int = 100,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> list[tuple[str, int]]:
        """The texts that a field of the metadata has, in order of code points, and how many memories have each.

        Args:
            field: a path into the metadata, levels joined by dots; values that are no text are passed over.
            namespace: in which.
            filter: count those that match.
            after: only texts behind this one, the last of the page before.
            limit: how many texts, at least 1.
            consistency: what is seen of other workers' writes.

        Raises:
            InvalidInput: naming the field, the bound and the remedy.
        """
        checks.namespace(namespace)
        wanted = parse(filter)
        self._refresh(consistency)
        return self._catalog.values(namespace, field, wanted, after, limit)

    def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        as_of: str | None = None,
        consistency: Consistency = Consistency.EVENTUAL,
        embeddings: bool = False,
        take: Callable[[Sequence[Memory]], int] | None = None,
    ) -> Page:
        """Memories that match, as they are or as they were at a time (ISO 8601), newest first, page by page.

        A memory that is there throughout is on exactly one page, whatever is stored or deleted meanwhile. With
        `embeddings` their vectors are there too, for an export of the present. A caller who has room for less than a
        whole page says by `take` how many of its first memories it takes, at least one; the next page begins behind
        them.

        Raises:
            InvalidInput: also for a cursor of another namespace, filter or time.
        """
        if embeddings and as_of is not None:
            raise InvalidInput("embeddings cannot be used with as_of; leave one of them out.", field="embeddings")
        checks.namespace(namespace)
        LIMIT.check(limit, "limit")
        wanted = parse(filter)
        as_of_ms = self._as_of_ms(as_of)
        scope = _digest([namespace, filter or {}, as_of_ms])
        after = decode_cursor(cursor, scope) if cursor is not None else None
        self._refresh(consistency)
        memories = self._catalog.page(namespace, wanted, limit + 1, after, as_of_ms)
        page = tuple(memories[:limit])
        if take is not None and page:
            page = page[: take(page)]
        is_last = len(page) == len(memories)
        next_cursor = None if is_last else encode_cursor(page[-1].created_at_ms, page[-1].key, scope)
        if embeddings:
            vectors = exported(self._projection, namespace, page, self.fingerprint)
            pairs = zip(page, vectors, strict=True)
            page = tuple(memory.model_copy(update={"embedding": embedding}) for memory, embedding in pairs)
        return Page(memories=page, cursor=next_cursor)

    def near_duplicates(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        filter: Mapping[str, JSON] | None = None,
        threshold: float = 0.95,
        limit: int = 200,
        cursor: str | None = None,
    ) -> DuplicatesPage:
        """Report which memories say almost the same as an earlier one, newest first, page by page; nothing is merged.

        Args:
            namespace: in which.
            filter: look at those that match; what they are like need not match.
            threshold: least cosine, .5 to 1.
            limit: memories looked at for a page, 1 to 1,000.
            cursor: of the page before.

        Raises:
            InvalidInput: naming the field, the bound and the remedy.
        """
        DUPLICATES_THRESHOLD.check(threshold, "threshold")
        page = self.list(namespace=namespace, filter=filter, limit=limit, cursor=cursor)
        found = near_duplicates(self._projection, namespace, page.memories, threshold)
        return DuplicatesPage(duplicates=found, examined=len(page.memories), cursor=page.cursor)

    def delete(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, idempotency_key: str | None = None
    ) -> DeleteOutcome:
        """Delete one memory.

        Raises:
            NotFound: there is none.
        """
        deleted = self.delete_keys([key], namespace=namespace, idempotency_key=idempotency_key)
        if not deleted.keys and idempotency_key is None:  # with one, all that others wrote was read already
            self._refresh(Consistency.STRONG)
            deleted = self.delete_keys([key], namespace=namespace)
        if not deleted.keys:
            raise _missing(namespace, key)
        return deleted

    def delete_keys(
        self,
        keys: Sequence[str],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> DeleteOutcome:
        """Delete up to 1,000 memories by key; keys that are not there are reported as missing."""
        checks.namespace(namespace)
        BATCH.check(keys, "keys")
        for at, key in enumerate(keys):
            checks.key(key, f"keys[{at}]")
        if dry_run:
            return self._would_delete_keys(namespace, keys)
        idempotency = _idempotency(idempotency_key, "delete_keys", namespace, keys)
        return self._deleted(DeleteRequest(namespace, tuple(keys), None, idempotency))

    def delete_matching(
        self,
        filter: Mapping[str, JSON],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> DeleteOutcome:
        """Delete every memory of the namespace that matches, however many.

        Raises:
            InvalidInput: also for an empty filter, which would mean everything.
        """
        checks.namespace(namespace)
        wanted = parse(filter)
        if wanted == EVERYTHING:
            raise InvalidInput(
                'An empty filter would delete the whole namespace; if that is meant, send {"key": {"$exists": true}}.',
                field="filter",
            )
        if dry_run:
            self._refresh()
            return DeleteOutcome(
                namespace=namespace,
                keys=tuple(self._catalog.matching_keys(namespace, wanted)),
                missing=(),
                dry_run=True,
            )
        idempotency = _idempotency(idempotency_key, "delete_matching", namespace, filter)
        return self._deleted(DeleteRequest(namespace, None, wanted, idempotency))

    def receipt(self, id: str) -> Receipt:
        """In which files the bytes of what a delete removed still are.

        Args:
            id: `DeleteOutcome.receipt`.

        Raises:
            InvalidInput: that is no receipt.
            NotFound: it is not of this data folder.
            StorageUnavailable: the data folder cannot be read.
        """
        try:
            return redeem(id, self._folder)
        except OSError as error:
            raise storage_unavailable(error) from error

    def snapshot(self) -> str:
        """Take a snapshot now, so that the next start is quick; its name.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        return self._snapshotter.take().name

    def compact(self) -> Compacted:
        """Take snapshots and remove the journals that they cover, so that deleted texts are in no file any more.

        Journals that another worker may still append to are kept until they have been quiet for a day.

        Raises:
            StorageUnavailable: the data folder takes no writes.
        """
        return self._compactor.compact()

    def problems(self) -> Sequence[str]:
        """What keeps this worker from seeing all that was written; empty when nothing does."""
        return [*self._follower.problems.values(), *(f"passed over: {error}" for error in self._projection.skipped)]

    def write_problem(self) -> str | None:
        """Why the data folder takes no writes at the moment, found out by writing; None when it does."""
        self._refresh()
        if self._follower.damage is not None:
            return self._follower.damage
        try:
            self._folder.probe()
        except OSError as error:
            return storage_unavailable(error).message
        return None

    def counts(self) -> dict[str, int]:
        """Number of memories in each namespace that has any."""
        self._refresh()
        return self._catalog.counts()

    def _as_of_ms(self, as_of: str | None) -> int | None:
        return checks.as_of(as_of, self._clock.now_ms(), self._projection.superseded_kept_ms)

    def _would_delete_keys(self, namespace: str, keys: Sequence[str]) -> DeleteOutcome:
        self._refresh()
        present = {key for _, key in self._catalog.contents({(namespace, key) for key in keys})}
        return DeleteOutcome(
            namespace=namespace,
            keys=tuple(sorted(present)),
            missing=tuple(sorted(set(keys) - present)),
            dry_run=True,
        )

    def _deleted(self, request: DeleteRequest) -> DeleteOutcome:
        self._refresh_to_write()
        outcome = self._commit(request)
        assert isinstance(outcome, DeleteOutcome), "a delete is answered with what it deleted"
        return outcome

    def _commit(self, request: WriteRequest) -> Outcome:
        """Commit; a request that may be a repetition first sees all that was answered, by whichever worker."""
        if request.idempotency is not None:
            self._refresh(Consistency.STRONG)
        return self._committer.commit(request)

    def _refresh_to_write(self) -> None:
        """As `_refresh`, unless this worker is read-only.

        Raises:
            Unavailable: a journal was found damaged at the start and still is.
        """
        self._refresh()
        if damage := self._follower.damage:
            raise Unavailable(
                f"This worker is read-only: the {damage}. Restore the file from a backup, move it away to do without "
                "its memories, or start with MEMORY_SKIP_DAMAGED=true to go on with what is readable behind the damage."
            )

    def _refresh(self, consistency: Consistency = Consistency.EVENTUAL) -> None:
        """Bring the projection up to date before it is used."""
        self._follower.follow(strong=consistency is Consistency.STRONG)
        self._snapshotter.take_if_due()
        self._projection.expire(self._clock.now_ms())


def _idempotency(key: str | None, operation: str, *request: Any) -> Idempotency | None:
    if key is None:
        return None
    checks.IDEMPOTENCY_KEY.check(key, "Idempotency-Key")
    return Idempotency(key, _digest([operation, *request]))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()


def _missing(namespace: str, key: str) -> NotFound:
    return NotFound(f"There is no memory with key {_shown(key)} in namespace {_shown(namespace)}.")


def _shown(text: str) -> str:
    """A caller's text for a message: quoted, and short."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
