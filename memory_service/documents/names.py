"""Makes ids of documents and libraries and keys of chunks, and checks what callers send about a document."""

import hashlib
from collections.abc import Mapping

from memory_service import checks
from memory_service.documents.model import NewDocument
from memory_service.metadata import canonical
from vector_memory.documents import ID, LIBRARY, METADATA_BYTES_MAX, TITLE, TOPIC
from vector_memory.errors import InvalidInput
from vector_memory.fields import JSON

RESERVED = frozenset({"document_id", "document", "title", "library", "topic", "headings", "chunk", "overlap", "page"})
"""Metadata fields that uploads write themselves."""

PREFIX = "doc:"


def check(document: NewDocument) -> None:
    """Check everything about a new document but its source.

    Raises:
        InvalidInput: the message names the field, the bound and the remedy.
    """
    checks.namespace(document.namespace)
    if document.id is not None:
        check_id(document.id)
    for field, bound in (("title", TITLE), ("library", LIBRARY), ("topic", TOPIC)):
        if (value := getattr(document, field)) is not None:
            bound.check(value, field)
    if document.library is not None:
        LIBRARY.check(library_id(document.library) or " ", "library")  # lower case may be longer, or empty
    reserved = sorted(RESERVED.intersection(document.metadata))
    if reserved:
        raise InvalidInput(
            f"metadata.{reserved[0]} is written by the service itself; use another name.",
            field=f"metadata.{reserved[0]}",
        )
    if len(canonical(document.metadata).encode()) > METADATA_BYTES_MAX:
        raise InvalidInput(f"metadata of a document is at most {METADATA_BYTES_MAX} bytes of JSON.", field="metadata")


def check_id(id: str) -> None:
    """Check an id: 1 to 200 characters without `#`, which separates the id from the chunk in a key."""
    ID.check(id, "id")
    if "#" in id or not id.isprintable() or not id.strip():
        raise InvalidInput("id must be printable text without #.", field="id")


def derived_id(data: bytes) -> str:
    """Return the id of a document that was sent without one."""
    return f"sha256-{hashlib.sha256(data).hexdigest()[:32]}"


def library_id(name: str) -> str:
    """Return a library's name in lower case, with `-` for spaces and without slashes at its ends."""
    return "-".join(name.casefold().split()).strip("/")


def chunk_keys(id: str, contents: list[str]) -> list[str]:
    """Return a key for each chunk, made of its text. The same text gets the same key at any position."""
    seen: dict[str, int] = {}
    keys = []
    for content in contents:
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        # A text that occurs again gets a number, since keys are unique.
        seen[digest] = seen.get(digest, 0) + 1
        keys.append(f"{PREFIX}{id}#{digest}" + (f".{seen[digest]}" if seen[digest] > 1 else ""))
    return keys


def is_chunk_key(id: str, key: str) -> bool:
    """Return whether a key belongs to one of the document's chunks."""
    return key.startswith(f"{PREFIX}{id}#")


def is_any_chunk() -> Mapping[str, JSON]:
    """Return a filter for the chunks of all documents (`;` follows `:`). Metadata would match other memories, too."""
    return {"key": {"$gte": PREFIX, "$lt": f"{PREFIX[:-1]};"}}


def keys_of(id: str) -> Mapping[str, JSON]:
    """Return a filter for all chunks of a document: the range of their keys (`$` follows `#`)."""
    return {"key": {"$gte": f"{PREFIX}{id}#", "$lt": f"{PREFIX}{id}$"}}
