"""Collections of Chroma: the JSON that `collection.get()` returns, or its data folder.

Vectors are not imported: another embedder made them, and Chroma does not keep its name with them. The folder's tables
are those of Chroma 0.4 to 1.5 (chroma-core/chroma, `chromadb/migrations/`). Reading them writes and locks nothing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.exchange.items import ItemOrProblem, Problem, item_of
from vector_memory.errors import InvalidInput

FILE = "chroma.sqlite3"
_DOCUMENT = "chroma:document"

_ENTRIES = """
SELECT c.name, e.id, e.embedding_id, 0 AS is_part, m.key, m.string_value, m.int_value, m.float_value, m.bool_value
FROM embeddings e
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA'
JOIN collections c ON c.id = s.collection
LEFT JOIN embedding_metadata m ON m.id = e.id
"""
_PARTS = """
UNION ALL
SELECT c.name, e.id, e.embedding_id, 1, m.key, m.string_value, m.int_value, m.float_value, m.bool_value
FROM embedding_metadata_array m
JOIN embeddings e ON e.id = m.id
JOIN segments s ON s.id = e.segment_id AND s.scope = 'METADATA'
JOIN collections c ON c.id = s.collection
"""
"""Selects the elements of lists, which newer versions of Chroma allow as metadata."""

_ORDER = "ORDER BY 1, 2"


def is_collection(value: Any) -> bool:
    """Return whether a value is what `collection.get()` returns."""
    return isinstance(value, dict) and isinstance(value.get("ids"), list) and "documents" in value


def read_collection(value: dict[str, Any], name: str, namespace: str) -> Iterator[ItemOrProblem]:
    """Yield the entries of what `collection.get()` returned."""
    ids, documents, metadatas = value["ids"], value.get("documents"), value.get("metadatas")
    for at, id in enumerate(ids):
        where = f"{name}: ids[{at}]"
        metadata = metadatas[at] if isinstance(metadatas, list) and at < len(metadatas) else None
        document = documents[at] if isinstance(documents, list) and at < len(documents) else None
        if metadata is not None and not isinstance(metadata, dict):
            yield Problem(where, "The metadata of this entry is not an object.")
        else:
            yield _entry(id, document, metadata or {}, where, namespace)


def read_folder(path: Path, namespace: str | None) -> Iterator[ItemOrProblem]:
    """Yield the entries of all collections; without a namespace, each collection becomes one.

    Raises:
        InvalidInput: the folder is not Chroma's, or its version has other tables.
    """
    uri = f"file:{quote(str(path / FILE))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            has_lists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedding_metadata_array'")
            parts = _PARTS if has_lists.fetchone() else ""
            yield from _entries(connection.execute(_ENTRIES + parts + _ORDER), namespace)
    except sqlite3.Error as error:
        raise InvalidInput(f"{path / FILE} cannot be read as a database of Chroma: {error}.", field="path") from error


def _entries(rows: Any, namespace: str | None) -> Iterator[ItemOrProblem]:
    # The rows of one entry follow each other, one for each field of its metadata.
    for (collection, _, id), entry in groupby(rows, key=lambda row: row[:3]):
        fields: dict[str, Any] = {}
        for _, _, _, is_part, name, *typed in entry:
            if is_part:
                fields.setdefault(name, []).append(_value(*typed))
            elif name is not None:
                fields[name] = _value(*typed)
        yield _document(collection, id, fields, namespace)


def _document(collection: str, id: str, fields: dict[str, Any], namespace: str | None) -> ItemOrProblem:
    document = fields.pop(_DOCUMENT, None)
    return _entry(id, document, fields, f"{collection}: {id}", namespace or collection)


def _value(text: str | None, whole: int | None, number: float | None, truth: int | None) -> Any:
    if truth is not None:
        return bool(truth)
    return next((value for value in (text, whole, number) if value is not None), None)


def _entry(id: object, document: object, metadata: dict[str, Any], where: str, namespace: str) -> ItemOrProblem:
    if not isinstance(id, str):
        return Problem(where, "This entry has no id.")
    if not isinstance(document, str) or not document.strip():
        return Problem(where, "This entry has no document, only a vector; there is no text to remember.")
    return item_of(where, content=document, key=id, namespace=namespace, metadata=metadata)
