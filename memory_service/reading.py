"""Reading memories: retrieve, get, history, list and reports, each from the projection.

`MemoryService` adds the writes. Every read first brings the projection up to date with other workers' journals.
"""

from collections.abc import Callable, Mapping, Sequence

from memory_service import checks
from memory_service.clock import HybridClock
from memory_service.cursors import decode_cursor, encode_cursor
from memory_service.digests import request_digest
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.embedding.queue import EmbeddingQueue
from memory_service.filters.grammar import parse
from memory_service.portable_vectors import exported
from memory_service.projection.applying import Projection
from memory_service.retrieval.duplicates import near_duplicates
from memory_service.retrieval.retriever import Retriever
from memory_service.retrieval.searching import PreparedQuery
from vector_memory.errors import InvalidInput, NotFound
from vector_memory.fields import JSON
from vector_memory.memories import (
    DEFAULT_NAMESPACE,
    DUPLICATES_THRESHOLD,
    LIMIT,
    Consistency,
    DuplicatesPage,
    Event,
    EventKind,
    Memory,
    Page,
)
from vector_memory.retrieval import RETRIEVALS, Retrieval, Retrieved


class MemoryReader:
    """Reads the memories of one projection. Thread-safe."""

    def __init__(
        self,
        projection: Projection,
        embedding: EmbeddingQueue,
        fingerprint: Fingerprint,
        clock: HybridClock,
        refresh: Callable[[Consistency], None],
    ) -> None:
        """Args:
        refresh: brings the projection up to date. It is called before every read.
        """
        self.fingerprint = fingerprint
        self._projection = projection
        self._catalog = projection.catalog
        self._embedding = embedding
        self._clock = clock
        self._refresh = refresh
        self._retriever = Retriever(projection, embedding, clock)

    def retrieve(self, retrieval: Retrieval) -> Retrieved:
        """Find the memories that answer a query best, among those that match the filter.

        Raises:
            InvalidInput: the message names the field, the bound and the remedy.
            NotFound: there is no memory with the key of `like`.
        """
        self._refresh(retrieval.consistency)  # preparing a query already reads the namespace
        return self._retrieve([self._retriever.prepare(retrieval)])[0]

    def retrieve_batch(self, retrievals: Sequence[Retrieval]) -> list[Retrieved]:
        """Answer up to 100 retrievals in their order. Their queries share the model's runs.

        Raises:
            InvalidInput: a retrieval is wrong, or there are too many; nothing is searched.
            NotFound: there is no memory with the key of a `like`.
        """
        RETRIEVALS.check(retrievals, "queries")
        # One look at the journals serves all of them.
        is_strong = any(retrieval.consistency is Consistency.STRONG for retrieval in retrievals)
        self._refresh(Consistency.STRONG if is_strong else Consistency.EVENTUAL)
        queries = []
        for position, retrieval in enumerate(retrievals):
            try:
                queries.append(self._retriever.prepare(retrieval))
            except (InvalidInput, NotFound) as error:
                error.field = f"queries[{position}].{error.field}"
                raise
        return self._retrieve(queries)

    def _retrieve(self, queries: Sequence[PreparedQuery]) -> list[Retrieved]:
        return [self._retriever.retrieve(query) for query in self._retriever.embed(queries)]

    def state(self, namespace: str, *, consistency: Consistency = Consistency.EVENTUAL) -> tuple[str, int]:
        """Return a fingerprint of the namespace's contents and a change counter, for the keys of caches.

        Workers that hold the same memories return the same fingerprint; every store, delete and expiry changes it. An
        answer may be cached under a fingerprint if neither value changed while the answer was made.
        """
        checks.namespace(namespace)
        self._refresh(consistency)
        index = self._projection.index(namespace)
        return ("", 0) if index is None else index.state()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts. The vector of a text is the mean direction of its windows.

        Returns:
            float32 (len(texts), dim), unit rows.
        """
        return self._embedding.directions(texts)

    def tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens that `embed` reads; overlaps of windows and special tokens count too."""
        return self._embedding.tokens(texts)

    def get(
        self,
        key: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        as_of: str | None = None,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> Memory:
        """Return one memory by its key, as it is now or as it was at a time (ISO 8601).

        Raises:
            NotFound: there is no such memory.
        """
        checks.namespace(namespace)
        checks.key(key)
        as_of_ms = self._as_of_ms(as_of)
        self._refresh(consistency)
        memory = self._catalog.get(namespace, key, as_of_ms)
        if memory is None:
            raise no_such_memory(namespace, key)
        return memory

    def history(
        self, key: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency = Consistency.EVENTUAL
    ) -> list[Event]:
        """Return what happened to a memory since its last delete, newest first; the delete itself is the last event.

        A version that an update superseded is kept for `versions_kept_days`. A delete erases the versions before it,
        and so does the end of a version's lifetime.

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
        # A version that was stored after the expiry makes it history of an earlier memory.
        if tombstone is not None and tombstone.expired_at_ms is not None and not versions:
            events.append(Event(kind=EventKind.EXPIRED, at_ms=tombstone.expired_at_ms))
        if tombstone is not None and tombstone.deleted_at_ms is not None:
            events.append(Event(kind=EventKind.DELETED, at_ms=tombstone.deleted_at_ms))
        if not events:
            raise no_such_memory(namespace, key)
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
        """Return the texts that a metadata field has, in order of code points, each with its number of memories.

        Args:
            field: a path into the metadata, levels joined by dots. Values that are not text are left out.
            namespace: the one to read.
            filter: count only the memories that match.
            after: return only texts greater than this one, which is the last text of the page before.
            limit: how many texts, at least 1.
            consistency: what the call sees of other workers' writes.

        Raises:
            InvalidInput: the message names the field, the bound and the remedy.
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
        """Return one page of the memories that match, newest first.

        A memory that is there throughout is on exactly one page, whatever is stored or deleted between the pages.

        Args:
            namespace: the one to read.
            filter: list only the memories that match.
            limit: memories of a page, 1 to 1,000.
            cursor: `Page.cursor` of the page before; None starts at the newest memory.
            as_of: list the memories as they were at this time (ISO 8601).
            consistency: what the call sees of other workers' writes.
            embeddings: add the vectors, for an export; not together with `as_of`.
            take: gets the memories of the page and returns how many of them the caller takes, at least one. The next
                page begins after those.

        Raises:
            InvalidInput: the message names the field; also for a cursor of another namespace, filter or time.
        """
        if embeddings and as_of is not None:
            raise InvalidInput("embeddings cannot be used with as_of; leave one of them out.", field="embeddings")
        checks.namespace(namespace)
        LIMIT.check(limit, "limit")
        wanted = parse(filter)
        as_of_ms = self._as_of_ms(as_of)
        scope = request_digest("list", {"namespace": namespace, "filter": filter or None, "as_of_ms": as_of_ms})
        after = decode_cursor(cursor, scope) if cursor is not None else None
        self._refresh(consistency)
        # One memory more than asked for tells whether there is a next page.
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
        """Report the memories that say almost the same as an earlier one, newest first, page by page.

        Nothing is merged.

        Args:
            namespace: the one to read.
            filter: examine only the memories that match. The earlier ones need not match.
            threshold: least cosine, 0.5 to 1.
            limit: memories examined for a page, 1 to 1,000.
            cursor: `DuplicatesPage.cursor` of the page before.

        Raises:
            InvalidInput: the message names the field, the bound and the remedy.
        """
        DUPLICATES_THRESHOLD.check(threshold, "threshold")
        page = self.list(namespace=namespace, filter=filter, limit=limit, cursor=cursor)
        duplicates = near_duplicates(self._projection, namespace, page.memories, threshold)
        return DuplicatesPage(duplicates=duplicates, examined=len(page.memories), cursor=page.cursor)

    def counts(self) -> dict[str, int]:
        """Return the number of memories of each namespace that has any."""
        self._refresh(Consistency.EVENTUAL)
        return self._catalog.counts()

    def _as_of_ms(self, as_of: str | None) -> int | None:
        return checks.as_of(as_of, self._clock.now_ms(), self._projection.superseded_kept_ms)


def no_such_memory(namespace: str, key: str) -> NotFound:
    """Return the error for a key without a memory."""
    return NotFound(f"There is no memory with key {_quoted(key)} in namespace {_quoted(namespace)}.")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
