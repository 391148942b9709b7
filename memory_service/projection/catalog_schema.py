"""The tables of the catalog, and how rows become values."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.journal.records import Put, Record
from vector_memory.memories import Memory

FILE_NAME = "catalog.sqlite"

_VERSION_TABLE = """
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL,
    stamp_ms INTEGER NOT NULL,
    stamp_counter INTEGER NOT NULL,
    stamp_writer TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER"""

_ATTRIBUTE_TABLE = """
    namespace TEXT NOT NULL,
    path TEXT NOT NULL,
    element INTEGER NOT NULL,
    type TEXT NOT NULL,
    value NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (namespace, path, element, type, value, id)
"""

SCHEMA = f"""
CREATE TABLE memory ({_VERSION_TABLE},
    UNIQUE (namespace, key)
);
CREATE INDEX memory_by_age ON memory (namespace, created_at_ms DESC, key);
CREATE INDEX memory_by_expiry ON memory (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE attribute ({_ATTRIBUTE_TABLE}) WITHOUT ROWID;
CREATE INDEX attribute_by_id ON attribute (id);
CREATE TABLE tombstone (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    stamp_ms INTEGER NOT NULL,
    stamp_counter INTEGER NOT NULL,
    stamp_writer TEXT NOT NULL,
    expired_at_ms INTEGER,
    deleted_at_ms INTEGER,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;
CREATE TABLE reply (
    namespace TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request TEXT NOT NULL,
    result BLOB NOT NULL,
    stamp_ms INTEGER NOT NULL,
    PRIMARY KEY (namespace, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX reply_by_age ON reply (stamp_ms);
CREATE TABLE journal (writer TEXT PRIMARY KEY, end INTEGER NOT NULL) WITHOUT ROWID;
"""

SUPERSEDED_SCHEMA = f"""
CREATE TABLE superseded ({_VERSION_TABLE},
    until_ms INTEGER NOT NULL,
    windows INTEGER NOT NULL,
    vectors BLOB NOT NULL
);
CREATE INDEX superseded_by_key ON superseded (namespace, key, stamp_ms, stamp_counter, stamp_writer);
CREATE INDEX superseded_by_age ON superseded (until_ms);
CREATE INDEX superseded_by_expiry ON superseded (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE superseded_attribute ({_ATTRIBUTE_TABLE}) WITHOUT ROWID;
CREATE INDEX superseded_attribute_by_id ON superseded_attribute (id);
PRAGMA user_version = 2;
"""

UPGRADE_FROM_1 = (
    "ALTER TABLE tombstone ADD COLUMN expired_at_ms INTEGER; ALTER TABLE tombstone ADD COLUMN deleted_at_ms INTEGER;"
    "UPDATE tombstone SET deleted_at_ms = stamp_ms;" + SUPERSEDED_SCHEMA
)

SCHEMA_VERSION = 2
"""Version of the tables above; SQLite's `user_version`."""

SCHEMAS_READ = (1, 2)
"""Versions that a snapshot may have. A catalog of version 1 is upgraded when it is opened."""

COLUMNS = "id, namespace, key, content, metadata, stamp_ms, created_at_ms, expires_at_ms"
VERSION_COLUMNS = "id, content, metadata, stamp_ms, stamp_counter, stamp_writer, created_at_ms, expires_at_ms"
MEMORY_COLUMNS = "m.namespace, m.key, m.content, m.metadata, m.created_at_ms, m.stamp_ms, m.expires_at_ms"
_MEMORY_FIELDS = ("namespace", "key", "content", "metadata", "created_at_ms", "updated_at_ms", "expires_at_ms")
STAMP_COLUMNS = "stamp_ms, stamp_counter, stamp_writer"
TOMBSTONE = f"SELECT {STAMP_COLUMNS}, expired_at_ms, deleted_at_ms FROM tombstone WHERE namespace = ? AND key = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a memory.

    Attributes:
        id: the catalog's number of it; None for one that is planned and not yet committed.
        metadata: canonical JSON text.
        vectors: (windows, dim) of a planned one; the vectors of the others are in the namespace's index.
    """

    id: int | None
    content: str
    metadata: str
    stamp: Stamp
    created_at_ms: int
    expires_at_ms: int | None
    vectors: Vectors | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The end of a key's earlier versions: no record up to its stamp can bring one back.

    Attributes:
        stamp: of the delete, or of the put that expired.
        expired_at_ms: when that put expired; None for a delete.
        deleted_at_ms: when the key was last deleted, which may be before `stamp`; None if it never was.
    """

    stamp: Stamp
    expired_at_ms: int | None
    deleted_at_ms: int | None


def version_of(row: Sequence[Any]) -> Version:
    """Read a row of `VERSION_COLUMNS`."""
    id, content, metadata, ms, counter, writer, created_at_ms, expires_at_ms = row
    return Version(
        id=id,
        content=content,
        metadata=metadata,
        stamp=Stamp(ms, counter, writer),
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
    )


def memory_of(row: Sequence[Any]) -> Memory:
    """Read a row of `MEMORY_COLUMNS`."""
    fields = dict(zip(_MEMORY_FIELDS, row, strict=True))
    return Memory(**{**fields, "metadata": json.loads(fields["metadata"])})


def tombstone_of(row: Sequence[Any]) -> Tombstone:
    """Read a row of `TOMBSTONE`."""
    return Tombstone(Stamp(*row[:3]), row[3], row[4])


def record_of(row: Sequence[Any], vectors: Vectors) -> Record:
    """Make the record that leads to a row of the memory or the superseded table."""
    _, namespace, key, content, metadata, ms, counter, writer, created_at_ms, expires_at_ms = row
    put = Put(
        namespace=namespace,
        key=key,
        content=content,
        metadata=metadata,
        vectors=vectors,
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
    )
    return Record(Stamp(ms, counter, writer), put)


def row_of(id: int, put: Put, stamp: Stamp) -> tuple[Any, ...]:
    """Return the columns of a version, in the order of the tables."""
    return (id, put.namespace, put.key, put.content, put.metadata, *stamp, put.created_at_ms, put.expires_at_ms)


def superseded_columns(until_ms: int, vectors: Vectors) -> tuple[int, int, bytes]:
    """Return the columns that only a superseded version has; vectors are (windows, dim)."""
    return until_ms, len(vectors), vectors.astype("<f2").astype("<f4").tobytes()  # with the digits that an index keeps


def vectors_of(windows: int, data: bytes) -> Vectors:
    """Read the vectors (windows, dim) of a superseded version."""
    return np.frombuffer(data, dtype="<f4").reshape(windows, -1)


def with_time(as_of_ms: int | None) -> str:
    """Return SQL that makes a query see the memories and attributes of a past time; nothing for the present.

    The tables `memory` and `attribute` of the query become the union of the current and the superseded versions.
    """
    if as_of_ms is None:
        return ""
    was_there = f"stamp_ms <= {as_of_ms:d} AND (expires_at_ms IS NULL OR expires_at_ms > {as_of_ms:d})"
    return (
        f"WITH memory AS (SELECT {COLUMNS} FROM main.memory WHERE {was_there} UNION ALL"
        f" SELECT {COLUMNS} FROM main.superseded WHERE {was_there} AND until_ms > {as_of_ms:d}),"
        " attribute AS (SELECT * FROM main.attribute UNION ALL SELECT * FROM main.superseded_attribute) "
    )
