"""Documents over memories: upload, get, list and delete.

A document is its chunks, ordinary memories under keys made of their text. The first of them, its *head*, also says in
its metadata which chunks there are, and so vouches for them. (A memory of its own for that would be found by retrieve,
ahead of the chunks of a short document.) An upload stores new chunks first, then the head, and then deletes the chunks
that vanished: so a reader meanwhile finds the old text and part of the new one, never a hole. Where an upload breaks
off, what is there is not what the head names, which `Document.is_complete` tells, and the same upload goes on.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from memory_service import checks
from memory_service.cursors import decode_cursor, encode_cursor
from memory_service.digests import request_digest
from memory_service.documents import names
from memory_service.documents.chunking import Chunker, page_of
from memory_service.documents.model import (
    Chunk,
    Document,
    DocumentsPage,
    Extracted,
    NewDocument,
    PlacedChunk,
    Uploaded,
)
from memory_service.documents.ordering import ordered
from memory_service.documents.reading import read
from memory_service.embedding.embedder import Embedder
from memory_service.model import (
    DEFAULT_NAMESPACE,
    JSON,
    Consistency,
    Deleted,
    Memory,
    NewMemory,
    Refused,
    Stored,
    StoreStatus,
)
from memory_service.service import MemoryService
from vector_memory.errors import LimitExceeded, NotFound, Unavailable

CHUNKS_MAX = 5_000
"""Of one document: about three minutes of embedding on two cores, within the ten that RunPod gives a job."""

BATCH_CHUNKS = 64
"""Stored at once: what an upload that breaks off loses at most."""

UPLOADS_MAX = 4
"""At once in one worker. More would only wait for the model, and hold up a thread each."""

HEADINGS_MAX, HEADING_CHARS_MAX = 6, 200


class DocumentService:
    """Documents in the memories of one service."""

    def __init__(self, memories: MemoryService, embedder: Embedder) -> None:
        """Args:
        memories: where everything is kept.
        embedder: the one that embeds them, whose tokens decide where texts are cut.
        """
        self._memories = memories
        self._chunker = Chunker(embedder)
        self._in_hand: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def store(self, document: NewDocument) -> Uploaded:
        """Read a document, cut it into chunks and keep them in place of those it had before.

        Chunks that it had already are not embedded again. When this returns, all is durable.

        Raises:
            InvalidInput: naming the field and the remedy; also a source that cannot be read.
            LimitExceeded: it is too long, or reading takes too much.
            Unavailable: it is being stored or deleted by another call, or too many uploads are running.
            StorageUnavailable: the data folder takes no writes; what was stored stays, and the same upload goes on.
        """
        names.check(document)
        data = _bytes(document.source)
        id = document.id if document.id is not None else names.derived_id(data)
        with self._alone(document.namespace, id):
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
        common = _common(document, id, extracted)
        contents = [extracted.text[chunk.start : chunk.end] for chunk in chunks]
        keys = names.chunk_keys(id, contents)
        held = {memory.key: _number(memory) for memory in self._chunks(namespace, id, Consistency.STRONG)}
        numbers = ordered(keys, held)
        memories = []
        end = 0
        for key, content, chunk, number in zip(keys, contents, chunks, numbers, strict=True):
            metadata = {**common, **_own(chunk, number, end - chunk.start, page_of(extracted.pages, chunk))}
            memories.append(NewMemory(content=content, key=key, namespace=namespace, metadata=metadata))
            end = chunk.end
        first = memories[0]
        head = {**(first.metadata or {}), "document": _vouching(document, data, keys)}
        stored = self._store(memories[1:])
        stored += self._store([NewMemory(content=first.content, key=first.key, namespace=namespace, metadata=head)])
        present = [memory.key for memory in self._chunks(namespace, id, Consistency.STRONG)]
        vanished = sorted(set(present).difference(keys))
        for at in range(0, len(vanished), checks.BATCH_ITEMS_MAX):
            self._memories.delete_keys(vanished[at : at + checks.BATCH_ITEMS_MAX], namespace=namespace)
        counts = {status: sum(item.status is status for item in stored) for status in StoreStatus}
        is_complete = set(keys).issubset(present)  # another worker may have deleted the document meanwhile
        return Uploaded(
            document=_document(id, namespace, head, len(keys), stored[-1].updated_at_ms, is_complete=is_complete),
            stored=counts[StoreStatus.STORED],
            updated=counts[StoreStatus.UPDATED],
            unchanged=counts[StoreStatus.UNCHANGED],
            deleted=len(vanished),
        )

    def _store(self, memories: Sequence[NewMemory]) -> list[Stored]:
        done: list[Stored] = []
        for at in range(0, len(memories), BATCH_CHUNKS):
            for item in self._memories.store_batch(memories[at : at + BATCH_CHUNKS]):
                if isinstance(item, Refused):
                    raise item.error
                done.append(item)
        return done

    def get(
        self, id: str, *, namespace: str = DEFAULT_NAMESPACE, consistency: Consistency = Consistency.EVENTUAL
    ) -> tuple[Document, list[PlacedChunk]]:
        """A document and its chunks, in reading order.

        Raises:
            NotFound: there is none.
        """
        names.check_id(id)
        chunks = sorted(self._chunks(namespace, id, consistency), key=_number)
        if not chunks:
            raise _missing(id, namespace)
        return _seen(id, namespace, chunks), _placed(chunks)

    def delete(self, id: str, *, namespace: str = DEFAULT_NAMESPACE, idempotency_key: str | None = None) -> Deleted:
        """Delete a document with all its chunks, at once.

        Raises:
            NotFound: there is none.
            Unavailable: it is being stored by another call.
        """
        names.check_id(id)
        with self._alone(namespace, id):
            deleted = self._memories.delete_matching(
                names.keys_of(id), namespace=namespace, idempotency_key=idempotency_key
            )
        if not deleted.keys:
            raise _missing(id, namespace)
        return deleted

    def _chunks(self, namespace: str, id: str, consistency: Consistency) -> list[Memory]:
        found: list[Memory] = []
        cursor = None
        while True:
            page = self._memories.list(
                namespace=namespace,
                filter={"document_id": id},
                limit=checks.LIMIT_MAX,
                cursor=cursor,
                consistency=consistency,
            )
            found += [memory for memory in page.memories if names.is_chunk_key(id, memory.key)]
            cursor = page.cursor
            if cursor is None:
                return found

    @contextmanager
    def _alone(self, namespace: str, id: str) -> Iterator[None]:
        """Keep other calls off a document. In this worker: several workers at once are told by `is_complete`."""
        with self._lock:
            if (namespace, id) in self._in_hand:
                raise Unavailable("The document is being stored or deleted by another request; try again after it.")
            if len(self._in_hand) >= UPLOADS_MAX:
                raise Unavailable(f"{UPLOADS_MAX} documents are being stored already; try again in a moment.")
            self._in_hand.add((namespace, id))
        try:
            yield
        finally:
            with self._lock:
                self._in_hand.remove((namespace, id))

    def list(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        library: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> DocumentsPage:
        """Documents in order of their ids, page by page, those included whose upload broke off.

        Raises:
            InvalidInput: naming the field, the bound and the remedy.
        """
        checks.namespace(namespace)
        checks.limit(limit)
        filter = names.is_any_chunk()
        if library is not None:
            checks.text(library, "library", names.LIBRARY_CHARS_MAX, "use a shorter one")
            filter = {**filter, "library": names.library_id(library)}
        scope = request_digest("list_documents", {"namespace": namespace, "filter": filter})
        after = decode_cursor(cursor, scope)[1] if cursor is not None else ""
        found = self._memories.values(
            "document_id", namespace=namespace, filter=filter, after=after, limit=limit + 1, consistency=consistency
        )
        page = found[:limit]
        heads = {}
        if page:
            of_page: Mapping[str, JSON] = {
                **names.is_any_chunk(),
                "document_id": {"$in": [id for id, _ in page]},
                "document": {"$exists": True},
            }
            found_heads = self._memories.list(namespace=namespace, filter=of_page, limit=checks.LIMIT_MAX).memories
            heads = {memory.metadata["document_id"]: memory for memory in sorted(found_heads, key=_updated_at_ms)}
        documents = tuple(_listed(id, namespace, count, heads.get(id)) for id, count in page)
        return DocumentsPage(documents, encode_cursor(0, page[-1][0], scope) if len(found) > limit else None)


def _bytes(source: str | bytes) -> bytes:
    # halves of surrogate pairs are refused where it is read
    return source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source


def _common(document: NewDocument, id: str, extracted: Extracted) -> dict[str, JSON]:
    """The metadata that all memories of a document have."""
    title = document.title or " ".join((extracted.title or "").split())[: names.TITLE_CHARS_MAX] or id
    # Chunks of a document are neighbours to the ranking, and those of different documents are not (docs/documents.md).
    common: dict[str, JSON] = {
        "session_id": id,
        "provenance": "document",
        **document.metadata,
        "document_id": id,
        "title": title,
    }
    if document.library is not None:
        common["library"] = names.library_id(document.library)
    if document.topic is not None:
        common["topic"] = document.topic
    return common


def _vouching(document: NewDocument, data: bytes, keys: Sequence[str]) -> dict[str, JSON]:
    """What a head says of a finished upload."""
    told: dict[str, JSON] = {
        "form": document.form.value,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "chunks": len(keys),
        "keys_sha256": _digest(keys),
    }
    if document.library is not None:
        told |= {"library": names.library_id(document.library), "library_name": document.library.strip()}
    return told


def _own(chunk: Chunk, number: int, overlap: int, page: int | None) -> dict[str, JSON]:
    """The metadata of one chunk. Nothing in it depends on how much text stands before it.

    Otherwise a change in the first paragraph would write every chunk again; `_placed` adds up what is here.
    """
    own: dict[str, JSON] = {"chunk": number, "overlap": overlap}
    if chunk.headings:
        own["headings"] = [heading[:HEADING_CHARS_MAX] for heading in chunk.headings[-HEADINGS_MAX:]]
    if page is not None:
        own["page"] = page
    return own


def _placed(chunks: Sequence[Memory]) -> list[PlacedChunk]:
    """Chunks in reading order with their spans."""
    placed = []
    end = 0
    for number, memory in enumerate(chunks, 1):
        overlap = memory.metadata.get("overlap")
        start = end - (overlap if isinstance(overlap, int) else 0)
        end = start + len(memory.content)
        placed.append(PlacedChunk(number, memory, start, end))
    return placed


def _number(memory: Memory) -> int:
    number = memory.metadata.get("chunk")
    return number if isinstance(number, int) else 0


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _told(memory: Memory) -> Mapping[str, Any]:
    return _told_in(memory.metadata)


def _told_in(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    told = metadata.get("document")
    return told if isinstance(told, Mapping) else {}


def _updated_at_ms(memory: Memory) -> int:
    return memory.updated_at_ms


def _seen(id: str, namespace: str, chunks: Sequence[Memory]) -> Document:
    """A document by all of its chunks."""
    head = max((memory for memory in chunks if _told(memory)), key=_updated_at_ms, default=None)
    if head is None:
        return _document(id, namespace, chunks[0].metadata, len(chunks), None, is_complete=False)
    is_complete = _told(head).get("keys_sha256") == _digest([memory.key for memory in chunks])
    return _document(id, namespace, head.metadata, len(chunks), head.updated_at_ms, is_complete=is_complete)


def _listed(id: str, namespace: str, count: int, head: Memory | None) -> Document:
    """A document by its head and the number of its chunks; without a head its first upload did not come to an end."""
    if head is None:
        return _document(id, namespace, {}, count, None, is_complete=False)
    is_complete = _told(head).get("chunks") == count
    return _document(id, namespace, head.metadata, count, head.updated_at_ms, is_complete=is_complete)


def _document(
    id: str, namespace: str, metadata: Mapping[str, Any], chunks: int, updated_at_ms: int | None, *, is_complete: bool
) -> Document:
    told = _told_in(metadata)
    return Document(
        id=id,
        namespace=namespace,
        title=metadata.get("title", id),
        library=metadata.get("library"),
        topic=metadata.get("topic"),
        form=told.get("form"),
        bytes=told.get("bytes"),
        sha256=told.get("sha256"),
        chunks=chunks,
        is_complete=is_complete,
        updated_at_ms=updated_at_ms,
    )


def _missing(id: str, namespace: str) -> NotFound:
    return NotFound(f"There is no document {id!r} in namespace {namespace!r}.")
