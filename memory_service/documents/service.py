"""Uploads, gets, lists and deletes documents, which are kept as memories.

A document consists of its chunks, which are ordinary memories under keys made of their text. The metadata of the first
chunk, its *head*, also list the other chunks. (A separate memory with the list would be found by retrieve, ahead of the
chunks of a short document.) An upload stores new chunks first, then the head, and then deletes the chunks that are no
longer part of the document. So a reader in between gets the old text and a part of the new one, never a gap. If an
upload breaks off, the chunks are not the ones that the head lists. `Document.is_complete` says so, and the same upload
completes it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memory_service import checks
from memory_service.cursors import decode_cursor, encode_cursor
from memory_service.digests import request_digest
from memory_service.documents import names
from memory_service.documents.chunk_metadata import (
    chunk_metadata,
    common_metadata,
    document_of,
    document_of_chunks,
    document_of_head,
    head_entry,
    number_of,
    place_chunks,
    updated_at_ms,
)
from memory_service.documents.chunking import Chunker, page_of
from memory_service.documents.model import Chunk, Extracted, NewDocument, PlacedChunk
from memory_service.documents.ordering import number_keys
from memory_service.documents.reading import read
from memory_service.embedding.embedder import Embedder
from memory_service.model import DeleteOutcome
from memory_service.service import MemoryService
from vector_memory.documents import LIBRARY, Document, DocumentsPage, Uploaded
from vector_memory.errors import LimitExceeded, NotFound, Unavailable
from vector_memory.fields import JSON
from vector_memory.memories import (
    BATCH,
    DEFAULT_NAMESPACE,
    LIMIT,
    Consistency,
    Memory,
    NewMemory,
    Refused,
    Stored,
    StoreStatus,
)

CHUNKS_MAX = 5_000
"""Most chunks of one document. Embedding them takes about three minutes on two cores, and a RunPod job may take ten."""

BATCH_CHUNKS = 64
"""Chunks stored at once. An upload that breaks off loses at most this many."""

UPLOADS_MAX = 4
"""Most concurrent uploads of one worker. More would only wait for the model, and each occupies a thread."""


class DocumentService:
    """Keeps documents in the memories of one service."""

    def __init__(self, memories: MemoryService, embedder: Embedder) -> None:
        """Args:
        memories: the service that keeps everything.
        embedder: the embedder of these memories. Its tokens decide where texts are cut.
        """
        self._memories = memories
        self._chunker = Chunker(embedder)
        self._busy: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def store(self, document: NewDocument) -> Uploaded:
        """Read a document, cut it into chunks, and keep them in place of its earlier chunks.

        Chunks that the document had before are not embedded again. Everything is durable when this returns.

        Raises:
            InvalidInput: the message names the field and the remedy; also for a source that cannot be read.
            LimitExceeded: the document is too long, or reading it takes too much time or memory.
            Unavailable: another call stores or deletes the document, or too many uploads are running.
            StorageUnavailable: the data folder takes no writes. What is stored stays, and the same upload completes it.
        """
        names.check(document)
        data = _bytes(document.source)
        id = document.id if document.id is not None else names.derived_id(data)
        with self._exclusively(document.namespace, id):
            extracted = read(data, document.form)
            chunks = self._chunker.chunks(extracted)
            if len(chunks) > CHUNKS_MAX:
                raise LimitExceeded(
                    f"The document makes {len(chunks)} chunks; at most {CHUNKS_MAX} fit, split it.", field="content"
                )
            return self._keep(document, id, data, extracted, chunks)

    def _keep(
        self, document: NewDocument, id: str, data: bytes, extracted: Extracted, chunks: Sequence[Chunk]
    ) -> Uploaded:
        namespace = document.namespace
        memories = self._memories_of(document, id, extracted, chunks)
        keys = [memory.key or "" for memory in memories]
        first = memories[0]
        metadata = {**(first.metadata or {}), "document": head_entry(document, data, keys)}
        head = NewMemory(content=first.content, key=first.key, namespace=namespace, metadata=metadata)
        # The head is stored by itself and last, because it says that all other chunks are there.
        stored = [*self._store(memories[1:]), *self._store([head])]
        # All chunks that are there now: of this version, of earlier ones, and of uploads that broke off.
        present = [memory.key for memory in self._chunks(namespace, id, Consistency.STRONG)]
        removed = sorted(set(present).difference(keys))
        for start in range(0, len(removed), BATCH.most):
            self._memories.delete_keys(removed[start : start + BATCH.most], namespace=namespace)
        counts = {status.value: sum(item.status is status for item in stored) for status in StoreStatus}
        is_complete = set(keys).issubset(present)  # another worker may have deleted the document since
        now = document_of(id, namespace, metadata, len(keys), stored[-1].updated_at_ms, is_complete=is_complete)
        return Uploaded(**dict(now), **counts, deleted=len(removed))

    def _memories_of(
        self, document: NewDocument, id: str, extracted: Extracted, chunks: Sequence[Chunk]
    ) -> list[NewMemory]:
        common = common_metadata(document, id, extracted)
        contents = [extracted.text[chunk.start : chunk.end] for chunk in chunks]
        keys = names.chunk_keys(id, contents)
        # Chunks that are stored already keep their numbers, so an unchanged chunk is not written again.
        held = {memory.key: number_of(memory) for memory in self._chunks(document.namespace, id, Consistency.STRONG)}
        memories = []
        end = 0
        for key, content, chunk, number in zip(keys, contents, chunks, number_keys(keys, held), strict=True):
            metadata = {**common, **chunk_metadata(chunk, number, end - chunk.start, page_of(extracted.pages, chunk))}
            memories.append(NewMemory(content=content, key=key, namespace=document.namespace, metadata=metadata))
            end = chunk.end
        return memories

    def _store(self, memories: Sequence[NewMemory]) -> list[Stored]:
        stored: list[Stored] = []
        for start in range(0, len(memories), BATCH_CHUNKS):
            for item in self._memories.store_batch(memories[start : start + BATCH_CHUNKS]):
                if isinstance(item, Refused):
                    raise item.error
                stored.append(item)
        return stored

    def get(
        self, id: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency = Consistency.EVENTUAL
    ) -> tuple[Document, list[PlacedChunk]]:
        """Return a document and its chunks, in reading order.

        Raises:
            NotFound: there is no such document.
        """
        names.check_id(id)
        chunks = sorted(self._chunks(namespace, id, consistency), key=number_of)
        if not chunks:
            raise _no_such_document(id, namespace)
        return document_of_chunks(id, namespace, chunks), place_chunks(chunks)

    def delete(
        self, id: str, *, namespace: str = DEFAULT_NAMESPACE, idempotency_key: str | None = None
    ) -> DeleteOutcome:
        """Delete a document with all its chunks, at once.

        Raises:
            NotFound: there is no such document.
            Unavailable: another call stores the document.
        """
        names.check_id(id)
        with self._exclusively(namespace, id):
            deleted = self._memories.delete_matching(
                names.keys_of(id), namespace=namespace, idempotency_key=idempotency_key
            )
        if not deleted.keys:
            raise _no_such_document(id, namespace)
        return deleted

    def _chunks(self, namespace: str, id: str, consistency: Consistency) -> list[Memory]:
        chunks: list[Memory] = []
        filter: dict[str, JSON] = {"document_id": id}
        cursor = None
        while True:
            page = self._memories.list(
                namespace=namespace, filter=filter, limit=LIMIT.most, cursor=cursor, consistency=consistency
            )
            # Other memories may have the same metadata; only a chunk has such a key.
            chunks += [memory for memory in page.memories if names.is_chunk_key(id, memory.key)]
            cursor = page.cursor
            if cursor is None:
                return chunks

    @contextmanager
    def _exclusively(self, namespace: str, id: str) -> Iterator[None]:
        """Keep other calls of this worker away from a document. `is_complete` detects a conflict of several workers."""
        with self._lock:
            if (namespace, id) in self._busy:
                raise Unavailable("The document is being stored or deleted by another request; try again after it.")
            if len(self._busy) >= UPLOADS_MAX:
                raise Unavailable(f"{UPLOADS_MAX} documents are being stored already; try again in a moment.")
            self._busy.add((namespace, id))
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove((namespace, id))

    def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> DocumentsPage:
        """Return one page of the documents in order of their ids, with those whose upload broke off.

        Raises:
            InvalidInput: the message names the field, the bound and the remedy.
        """
        checks.namespace(namespace)
        LIMIT.check(limit, "limit")
        filter = names.is_any_chunk()
        if library is not None:
            LIBRARY.check(library, "library")
            filter = {**filter, "library": names.library_id(library)}
        scope = request_digest("list_documents", {"namespace": namespace, "filter": filter})
        after = decode_cursor(cursor, scope)[1] if cursor is not None else ""
        # One id more than asked for tells whether there is a next page.
        ids = self._memories.values(
            "document_id", namespace=namespace, filter=filter, after=after, limit=limit + 1, consistency=consistency
        )
        page = ids[:limit]
        heads = self._heads(namespace, [id for id, _ in page]) if page else {}
        documents = tuple(document_of_head(id, namespace, count, heads.get(id)) for id, count in page)
        next_cursor = encode_cursor(0, page[-1][0], scope) if len(ids) > limit else None
        return DocumentsPage(documents=documents, cursor=next_cursor)

    def _heads(self, namespace: str, ids: Sequence[str]) -> dict[JSON, Memory]:
        # Only heads have the field `document`.
        of_heads: dict[str, JSON] = {"document_id": {"$in": ids}, "document": {"$exists": True}}
        filter = {**names.is_any_chunk(), **of_heads}
        heads = self._memories.list(namespace=namespace, filter=filter, limit=LIMIT.most).memories
        # While an upload replaces a head, a document has two; the later one counts.
        return {memory.metadata["document_id"]: memory for memory in sorted(heads, key=updated_at_ms)}


def _bytes(source: str | bytes) -> bytes:
    # Reading refuses halves of surrogate pairs, with a message of its own.
    return source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source


def _no_such_document(id: str, namespace: str) -> NotFound:
    return NotFound(f"There is no document {id!r} in namespace {namespace!r}.")
