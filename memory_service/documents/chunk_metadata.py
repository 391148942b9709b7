"""Writes the metadata of chunks, and reads documents back from them.

The first chunk of a document, its *head*, also has the field `document`, which lists the other chunks by a digest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.documents import names
from memory_service.documents.model import Chunk, Extracted, NewDocument, PlacedChunk
from vector_memory.documents import TITLE, Document
from vector_memory.fields import JSON
from vector_memory.memories import Memory

HEADINGS_MAX, HEADING_CHARS_MAX = 6, 200
"""Most headings kept with a chunk, the innermost ones, and most characters of each. They keep metadata small."""


def common_metadata(document: NewDocument, id: str, extracted: Extracted) -> dict[str, JSON]:
    """Return the metadata that all chunks of a document have."""
    title = document.title or " ".join((extracted.title or "").split())[: TITLE.chars_max] or id
    # As one session, chunks of a document are neighbours to the ranking; chunks of others are not (docs/documents.md).
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


def chunk_metadata(chunk: Chunk, number: int, overlap: int, page: int | None) -> dict[str, JSON]:
    """Return the metadata of one chunk.

    Nothing in it depends on how much text comes before the chunk. Otherwise a change in the first paragraph would write
    every chunk again. `place_chunks` computes positions from it.
    """
    own: dict[str, JSON] = {"chunk": number, "overlap": overlap}
    if chunk.headings:
        own["headings"] = [heading[:HEADING_CHARS_MAX] for heading in chunk.headings[-HEADINGS_MAX:]]
    if page is not None:
        own["page"] = page
    return own


def head_entry(document: NewDocument, data: bytes, keys: Sequence[str]) -> dict[str, JSON]:
    """Return the field `document` of the head, which is written once all other chunks are stored."""
    entry: dict[str, JSON] = {
        "form": document.form.value,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "chunks": len(keys),
        "keys_sha256": _keys_sha256(keys),
    }
    if document.library is not None:
        entry |= {"library": names.library_id(document.library), "library_name": document.library.strip()}
    return entry


def number_of(memory: Memory) -> int:
    """Return the number that orders a chunk in its document; 0 if a caller replaced it with something else."""
    number = memory.metadata.get("chunk")
    return number if isinstance(number, int) else 0


def place_chunks(chunks: Sequence[Memory]) -> list[PlacedChunk]:
    """Return chunks, which are in reading order, with their positions in the text."""
    placed = []
    end = 0
    for number, memory in enumerate(chunks, 1):
        # A caller may have changed the metadata, so the type is checked.
        overlap = memory.metadata.get("overlap")
        start = end - (overlap if isinstance(overlap, int) else 0)
        end = start + len(memory.content)
        placed.append(PlacedChunk(number, memory, start, end))
    return placed


def updated_at_ms(memory: Memory) -> int:
    """Return the time at which a memory was written last. `max` and `sorted` use it as a key."""
    return memory.updated_at_ms


def document_of_chunks(id: str, namespace: str, chunks: Sequence[Memory]) -> Document:
    """Read a document from all of its chunks."""
    head = max((memory for memory in chunks if _entry(memory.metadata)), key=updated_at_ms, default=None)
    if head is None:
        return document_of(id, namespace, chunks[0].metadata, len(chunks), None, is_complete=False)
    # The head lists the keys of all chunks by their digest. Another set of chunks has another digest.
    is_complete = _entry(head.metadata).get("keys_sha256") == _keys_sha256([memory.key for memory in chunks])
    return document_of(id, namespace, head.metadata, len(chunks), head.updated_at_ms, is_complete=is_complete)


def document_of_head(id: str, namespace: str, count: int, head: Memory | None) -> Document:
    """Read a document from its head and the number of its chunks. Without a head, no upload of it was completed."""
    if head is None:
        return document_of(id, namespace, {}, count, None, is_complete=False)
    # A listing does not read the chunks, so only their number is compared.
    is_complete = _entry(head.metadata).get("chunks") == count
    return document_of(id, namespace, head.metadata, count, head.updated_at_ms, is_complete=is_complete)


def document_of(
    id: str, namespace: str, metadata: Mapping[str, Any], chunks: int, updated_at_ms: int | None, *, is_complete: bool
) -> Document:
    """Read a document from the metadata of its head."""
    entry = _entry(metadata)
    return Document(
        id=id,
        namespace=namespace,
        title=metadata.get("title", id),
        **{name: metadata.get(name) for name in ("library", "topic")},
        **{name: entry.get(name) for name in ("form", "bytes", "sha256")},
        chunks=chunks,
        state="complete" if is_complete else "partial",
        updated_at_ms=updated_at_ms,
    )


def _entry(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = metadata.get("document")
    return entry if isinstance(entry, Mapping) else {}


def _keys_sha256(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
