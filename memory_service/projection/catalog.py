"""The catalog: texts, metadata and times of all memories, in SQLite on local disk.

A projection of the journal: it can be thrown away at any time, so it trades durability for speed. It lives in a
private folder on local disk, never on the volume. One thread writes at a time; readers have a connection each and,
by write-ahead logging, are neither blocked nor blocking.

Ids are local to one life of the catalog: every version of a memory gets a new one, never used again, so whoever still
holds the id of an older version finds nothing instead of something else.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.filters.grammar import EVERYTHING, Filter
from memory_service.filters.ids import Ids, RecentIds, matching_ids, read_ids
from memory_service.filters.sql import attributes, condition
from memory_service.journal.records import Deletion, Put, Record, RememberedReply
from memory_service.model import Memory
from memory_service.namespaces.conversation import Text
from memory_service.private_folder import PrivateFolder

FILE_NAME = "catalog.sqlite"

_OF_A_VERSION = """
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

_OF_AN_ATTRIBUTE = """
    namespace TEXT NOT NULL,
    path TEXT NOT NULL,
    element INTEGER NOT NULL,
    type TEXT NOT NULL,
    value NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (namespace, path, element, type, value, id)
"""

SCHEMA = f"""
CREATE TABLE memory ({_OF_A_VERSION},
    UNIQUE (namespace, key)
);
CREATE INDEX memory_by_age ON memory (namespace, created_at_ms DESC, key);
CREATE INDEX memory_by_expiry ON memory (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE attribute ({_OF_AN_ATTRIBUTE}) WITHOUT ROWID;
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
CREATE TABLE superseded ({_OF_A_VERSION},
    until_ms INTEGER NOT NULL,
    windows INTEGER NOT NULL,
    vectors BLOB NOT NULL
);
CREATE INDEX superseded_by_key ON superseded (namespace, key, stamp_ms, stamp_counter, stamp_writer);
CREATE INDEX superseded_by_age ON superseded (until_ms);
CREATE INDEX superseded_by_expiry ON superseded (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE superseded_attribute ({_OF_AN_ATTRIBUTE}) WITHOUT ROWID;
CREATE INDEX superseded_attribute_by_id ON superseded_attribute (id);
PRAGMA user_version = 2;
"""

UPGRADE_FROM_1 = (
    "ALTER TABLE tombstone ADD COLUMN expired_at_ms INTEGER; ALTER TABLE tombstone ADD COLUMN deleted_at_ms INTEGER;"
    "UPDATE tombstone SET deleted_at_ms = stamp_ms;" + SUPERSEDED_SCHEMA
)

SCHEMA_VERSION = 2
SCHEMAS_READ = (1, 2)
"""Of the tables above, and those that a snapshot may have; another one is not used."""

_COLUMNS = "id, namespace, key, content, metadata, stamp_ms, created_at_ms, expires_at_ms"
_VERSION_COLUMNS = "id, content, metadata, stamp_ms, stamp_counter, stamp_writer, created_at_ms, expires_at_ms"
_HERE = "m.namespace = ?1"
_MEMORY_COLUMNS = "m.namespace, m.key, m.content, m.metadata, m.created_at_ms, m.stamp_ms, m.expires_at_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a memory.

    Attributes:
        id: the catalog's number of it; None for one that is planned and not yet committed.
        metadata: canonical JSON text.
        vectors: (windows, dim) of a planned one; those of the others are in the namespace's index.
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
        stamp: of the delete, or of the put whose time was over.
        expired_at_ms: when that was; None for a delete.
        deleted_at_ms: when the key was last deleted, be it before `stamp`; None if never.
    """

    stamp: Stamp
    expired_at_ms: int | None
    deleted_at_ms: int | None


class UnsoundCatalog(Exception):
    """A file is no catalog, or SQLite finds fault with it."""


class Catalog:
    """SQLite over a private file. `transaction` and what is called inside it belong to one writer at a time."""

    def __init__(self, cache_dir: Path | None = None, source: Path | None = None) -> None:
        """Make a catalog in a fresh folder under `cache_dir` (default: the system's temporary folder).

        Args:
            cache_dir: on local disk.
            source: a file that `FrozenCatalog.write` made, to start from; None starts empty.

        Raises:
            sqlite3.DatabaseError: the source is no catalog.
        """
        self._private = PrivateFolder(cache_dir)
        self.folder = self._private.path
        self._idle: list[sqlite3.Connection] = []
        self._changed: set[str] = set()
        self._recent = RecentIds()
        try:
            if source is not None:
                shutil.copyfile(source, self.folder / FILE_NAME)
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            if source is None:
                self._writer.executescript(SCHEMA + SUPERSEDED_SCHEMA)
            elif self._writer.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                self._writer.executescript(UPGRADE_FROM_1)
        except BaseException:
            self._private.close()
            raise

    def close(self) -> None:
        """Close every connection and remove the files. Nobody may be reading."""
        for connection in [*self._idle, self._writer]:
            connection.close()
        self._private.close()

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside becomes visible to readers together, by `commit`, or not at all."""
        self._writer.execute("BEGIN IMMEDIATE")
        self._changed = set()
        try:
            yield
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def commit(self) -> None:
        """Make the transaction's changes visible."""
        self._writer.execute("COMMIT")
        self._recent.forget(self._changed)

    def put(self, id: int, put: Put, stamp: Stamp) -> None:
        """Add a memory under an id that was never used."""
        self._writer.execute("INSERT INTO memory VALUES (?,?,?,?,?,?,?,?,?,?)", _row(id, put, stamp))
        self._changed.add(put.namespace)
        self._put_attributes("attribute", id, put)

    def remove(self, id: int) -> None:
        """Remove one version of a memory."""
        removed = self._writer.execute("DELETE FROM memory WHERE id = ? RETURNING namespace", (id,))
        self._changed.update(namespace for (namespace,) in removed)
        self._writer.execute("DELETE FROM attribute WHERE id = ?", (id,))

    def supersede(self, id: int, until_ms: int, vectors: Vectors) -> None:
        """Move a memory to the versions that are superseded, as of the stamp of the next one."""
        row = (*_superseded(until_ms, vectors), id)
        self._writer.execute("INSERT INTO superseded SELECT *, ?, ?, ? FROM memory WHERE id = ?", row)
        self._writer.execute("INSERT INTO superseded_attribute SELECT * FROM attribute WHERE id = ?", (id,))
        self.remove(id)

    def put_superseded(self, id: int, put: Put, stamp: Stamp, newest_ms: int) -> None:
        """Add a version that is superseded already, unless it is there; `newest_ms` is the stamp of the memory."""
        at = (put.namespace, put.key, *stamp)
        later = self._writer.execute(
            "SELECT stamp_ms, (stamp_ms, stamp_counter, stamp_writer) = (?3,?4,?5) FROM superseded"
            " WHERE namespace = ?1 AND key = ?2 AND (stamp_ms, stamp_counter, stamp_writer) >= (?3,?4,?5)"
            " ORDER BY stamp_ms, stamp_counter, stamp_writer LIMIT 1",
            at,
        ).fetchone()
        until_ms, is_there = later or (newest_ms, False)
        if is_there:
            return
        self._writer.execute(
            "UPDATE superseded SET until_ms = ?3 WHERE namespace = ?1 AND key = ?2 AND until_ms > ?3"
            " AND (stamp_ms, stamp_counter, stamp_writer) < (?3,?4,?5)",
            at,
        )
        row = (*_row(id, put, stamp), *_superseded(until_ms, put.vectors))
        self._writer.execute("INSERT INTO superseded VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
        self._put_attributes("superseded_attribute", id, put)

    def _put_attributes(self, table: str, id: int, put: Put) -> None:
        self._writer.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES (?,?,?,?,?,?)",  # equal elements of an array are one attribute
            [(put.namespace, *attribute, id) for attribute in attributes(json.loads(put.metadata))],
        )

    def bury(self, namespace: str, key: str, tombstone: Tombstone) -> None:
        """Remember when a key was deleted or expired, and erase its superseded versions up to then.

        A tombstone stays when the key is stored again, so that no older record, read later, can bring a text back.
        """
        stamp, times = tombstone.stamp, (tombstone.expired_at_ms, tombstone.deleted_at_ms)
        self._writer.execute(
            "INSERT OR REPLACE INTO tombstone VALUES (?,?,?,?,?,?,?)", (namespace, key, *stamp, *times)
        )
        self._remove_superseded(
            "namespace = ? AND key = ? AND (stamp_ms, stamp_counter, stamp_writer) <= (?,?,?)", (namespace, key, *stamp)
        )

    def forget_superseded(self, before_ms: int) -> None:
        """Drop the versions that were superseded before a time."""
        self._remove_superseded("until_ms < ?", (before_ms,))

    def _remove_superseded(self, condition: str, parameters: Sequence[Any]) -> None:
        sql = f"DELETE FROM superseded_attribute WHERE id IN (SELECT id FROM superseded WHERE {condition})"
        self._writer.execute(sql, parameters)
        self._writer.execute(f"DELETE FROM superseded WHERE {condition}", parameters)

    def remember(self, reply: RememberedReply, stamp: Stamp) -> None:
        """Keep the answer given under an idempotency key."""
        row = (reply.namespace, reply.idempotency_key, reply.request, msgpack.packb(reply.result), stamp.ms)
        self._writer.execute("INSERT OR REPLACE INTO reply VALUES (?,?,?,?,?)", row)

    def forget_replies(self, before_ms: int) -> None:
        """Drop answers older than a time."""
        self._writer.execute("DELETE FROM reply WHERE stamp_ms < ?", (before_ms,))

    def set_watermark(self, writer: str, end: int) -> None:
        """Note how far a journal has been applied."""
        self._writer.execute("INSERT OR REPLACE INTO journal VALUES (?,?)", (writer, end))

    def version(self, namespace: str, key: str) -> Version | None:
        """The memory under a key, as the writer sees it (expired ones included)."""
        row = self._writer.execute(
            f"SELECT {_VERSION_COLUMNS} FROM memory WHERE namespace = ? AND key = ?", (namespace, key)
        ).fetchone()
        return _version(row) if row else None

    def newest(self, namespace: str, key: str) -> tuple[int, Stamp] | None:
        """Return id and stamp of the memory under a key, as the writer sees it, without reading its content."""
        sql = "SELECT id, stamp_ms, stamp_counter, stamp_writer FROM memory WHERE namespace = ? AND key = ?"
        row = self._writer.execute(sql, (namespace, key)).fetchone()
        return (row[0], Stamp(*row[1:])) if row else None

    def tombstone(self, namespace: str, key: str) -> Tombstone | None:
        """The end of the key's earlier versions, as the writer sees it, if there was one."""
        row = self._writer.execute(f"{_TOMBSTONE} WHERE namespace = ? AND key = ?", (namespace, key)).fetchone()
        return _tombstone(row) if row else None

    def expired(self, now_ms: int) -> list[tuple[str, str, Stamp, int, int | None]]:
        """(namespace, key, stamp, expires_at_ms, id) of what is over; the id is None for a superseded version."""
        columns = "namespace, key, stamp_ms, stamp_counter, stamp_writer, expires_at_ms"
        rows = self._writer.execute(
            f"SELECT {columns}, id FROM memory WHERE expires_at_ms <= ?1"
            f" UNION ALL SELECT {columns}, NULL FROM superseded WHERE expires_at_ms <= ?1",
            (now_ms,),
        )
        return [(row[0], row[1], Stamp(*row[2:5]), row[5], row[6]) for row in rows]

    def freeze(self) -> "FrozenCatalog":
        """The catalog of this moment; the caller sees to it that nothing is written meanwhile."""
        return FrozenCatalog(self._connect())

    # -- reading ---------------------------------------------------------------------------------------------------

    def next_expiry_ms(self, reply_kept_ms: int, superseded_kept_ms: int) -> int | None:
        """When the next memory expires, or the oldest reply or superseded version is to be forgotten."""
        found: int | None = self._all(
            "SELECT min(at) FROM (SELECT min(expires_at_ms) AS at FROM memory WHERE expires_at_ms IS NOT NULL"
            " UNION ALL SELECT min(expires_at_ms) FROM superseded WHERE expires_at_ms IS NOT NULL"
            " UNION ALL SELECT min(until_ms) + ? FROM superseded"
            " UNION ALL SELECT min(stamp_ms) + ? FROM reply)",
            (superseded_kept_ms, reply_kept_ms),
        )[0][0]
        return found

    def last_stamp(self) -> Stamp | None:
        """The latest stamp of anything held or buried."""
        columns = "stamp_ms, stamp_counter, stamp_writer"
        rows = self._all(
            f"SELECT {columns} FROM memory UNION ALL SELECT {columns} FROM tombstone ORDER BY 1 DESC, 2 DESC LIMIT 1"
        )
        return Stamp(*rows[0]) if rows else None

    def watermarks(self) -> dict[str, int]:
        """How far each journal has been applied."""
        return dict(self._all("SELECT writer, end FROM journal"))

    def reply(self, namespace: str, idempotency_key: str) -> tuple[str, Any] | None:
        """The request and result remembered under an idempotency key."""
        sql = "SELECT request, result FROM reply WHERE namespace = ? AND idempotency_key = ?"
        rows = self._all(sql, (namespace, idempotency_key))
        return (rows[0][0], msgpack.unpackb(rows[0][1])) if rows else None

    def get(self, namespace: str, key: str, as_of_ms: int | None = None) -> Memory | None:
        """One memory by its key."""
        sql = f"{_then(as_of_ms)}SELECT {_MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ? AND m.key = ?"
        rows = self._all(sql, (namespace, key))
        return _memory(rows[0]) if rows else None

    def find(self, namespace: str, key: str) -> tuple[int, Memory] | None:
        """One memory by its key, with its id."""
        rows = self._all(
            f"SELECT m.id, {_MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ? AND m.key = ?", (namespace, key)
        )
        return (rows[0][0], _memory(rows[0][1:])) if rows else None

    def history(self, namespace: str, key: str, since_ms: int) -> tuple[list[Memory], Tombstone | None]:
        """The versions of a memory that were in force after a time, newest first, and the end of those before."""
        columns = _MEMORY_COLUMNS.replace("m.", "")
        order = "stamp_ms, stamp_counter, stamp_writer"
        versions = self._all(
            f"SELECT {columns} FROM (SELECT {columns}, {order} FROM memory WHERE namespace = ?1 AND key = ?2"
            f" UNION ALL SELECT {columns}, {order} FROM superseded"
            "  WHERE namespace = ?1 AND key = ?2 AND until_ms > ?3)"
            " ORDER BY stamp_ms DESC, stamp_counter DESC, stamp_writer DESC",
            (namespace, key, since_ms),
        )
        ended = self._all(f"{_TOMBSTONE} WHERE namespace = ? AND key = ?", (namespace, key))
        return [_memory(row) for row in versions], _tombstone(ended[0]) if ended else None

    def contents(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The contents held under these (namespace, key) pairs."""
        rows = ",".join(["(?,?)"] * len(keys))
        sql = f"SELECT namespace, key, content FROM memory WHERE (namespace, key) IN (VALUES {rows})"
        found = self._all(sql, [part for pair in keys for part in pair])
        return {(namespace, key): content for namespace, key, content in found}

    def ids(self, namespace: str, keys: Sequence[str]) -> dict[str, int]:
        """Return the ids of the memories under these keys."""
        marks = ",".join("?" * len(keys))  # and no json_each, which cuts a text at its first NUL
        sql = f"SELECT key, id FROM memory WHERE namespace = ? AND key IN ({marks})"
        return dict(self._all(sql, (namespace, *keys)))

    def by_ids(self, ids: Sequence[int], as_of_ms: int | None = None) -> dict[int, Memory]:
        """Memories by id; ids of other versions than those of that time are left out."""
        marks = ",".join("?" * len(ids))
        sql = f"{_then(as_of_ms)}SELECT m.id, {_MEMORY_COLUMNS} FROM memory m WHERE m.id IN ({marks})"
        return {row[0]: _memory(row[1:]) for row in self._all(sql, ids)}

    def matching_ids(self, namespace: str, filter: Filter, as_of_ms: int | None = None) -> Ids:
        """Ids of the memories of a namespace that match, ascending; not to be written to."""
        sql, parameters = condition(filter)
        if as_of_ms is not None:
            query = f"{_then(as_of_ms)}SELECT group_concat(m.id) FROM memory m WHERE m.namespace = ?1 AND ({sql})"
            return read_ids(self._all(query, (namespace, *parameters))[0][0])
        ids, epoch = self._recent.find(namespace, (sql, *parameters))
        if ids is None:
            with self._moment() as ask:
                ids = matching_ids(lambda query: ask(query[0], (namespace, *query[1])), filter)
            self._recent.keep(namespace, (sql, *parameters), ids, epoch)
        return ids

    def matching_keys(self, namespace: str, filter: Filter) -> list[str]:
        """Keys of the memories of a namespace that match, in order of key."""
        sql, parameters = condition(filter)
        query = f"SELECT m.key FROM memory m WHERE m.namespace = ?1 AND ({sql}) ORDER BY m.key"
        return [row[0] for row in self._all(query, (namespace, *parameters))]

    def page(
        self, namespace: str, filter: Filter, limit: int, after: tuple[int, str] | None, as_of_ms: int | None = None
    ) -> list[Memory]:
        """Matching memories, newest first, ties by key; `after` is the (created_at_ms, key) of the one before."""
        sql, parameters = condition(filter)
        beyond = ""
        if after is not None:
            beyond = "AND (m.created_at_ms < ? OR (m.created_at_ms = ? AND m.key > ?))"
            parameters = [*parameters, after[0], *after]
        rows = self._all(
            f"{_then(as_of_ms)}SELECT {_MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ?1 AND ({sql}) {beyond}"
            " ORDER BY m.created_at_ms DESC, m.key LIMIT ?",
            (namespace, *parameters, limit),
        )
        return [_memory(row) for row in rows]

    def values(self, namespace: str, path: str, filter: Filter, after: str, limit: int) -> list[tuple[str, int]]:
        """The texts behind `after` that stand at a path of the metadata, in order, and how many memories have each."""
        # Without a filter this reads a range of one index, which holds them in this order.
        sql, parameters = condition(filter)
        matching = "" if filter == EVERYTHING else f" AND id IN (SELECT m.id FROM memory m WHERE {_HERE} AND ({sql}))"
        query = (
            "SELECT value, count(*) FROM attribute WHERE namespace = ?1 AND path = ? AND element = 0 AND type = 's'"
            f" AND value > ?{matching} GROUP BY value ORDER BY value LIMIT ?"
        )
        return self._all(query, (namespace, path, after, *parameters, limit))

    def texts(self, namespace: str) -> list[tuple[int, Text]]:
        """All memories of a namespace by id, ascending."""
        columns = "id, content, metadata, created_at_ms, stamp_ms, stamp_counter, stamp_writer"
        rows = self._all(f"SELECT {columns} FROM memory WHERE namespace = ? ORDER BY id", (namespace,))
        return [
            (id, Text(content, json.loads(metadata), created_at_ms, Stamp(*stamp)))
            for id, content, metadata, created_at_ms, *stamp in rows
        ]

    def superseded_vectors(self, ids: Sequence[int]) -> list[tuple[int, Vectors]]:
        """Those of these ids that are of superseded versions, ascending, each with its vectors (windows, dim)."""
        sql = "SELECT id, windows, vectors FROM superseded WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [(id, _vectors(windows, data)) for id, windows, data in self._all(sql, (json.dumps(list(ids)),))]

    def records(self, vectors: Callable[[str, int], Vectors]) -> Iterator[Record]:
        """Everything held, as the records that would lead to it.

        Args:
            vectors: the vectors of a memory, by namespace and id.
        """
        for namespace, key, *stamp, expired_at_ms, deleted_at_ms in self._all("SELECT * FROM tombstone"):
            yield Record(Stamp(*stamp), Deletion(namespace, key, expired_at_ms))
            if expired_at_ms is not None and deleted_at_ms is not None:
                yield Record(Stamp(deleted_at_ms, 0, ""), Deletion(namespace, key))
        for *row, _, windows, data in self._all("SELECT * FROM superseded"):
            yield _record(row, _vectors(windows, data))
        for row in self._all("SELECT * FROM memory"):
            id, namespace, *_ = row
            yield _record(row, vectors(namespace, id))
        for namespace, key, request, result, stamp_ms in self._all("SELECT * FROM reply"):
            yield Record(Stamp(stamp_ms, 0, ""), RememberedReply(namespace, key, request, msgpack.unpackb(result)))

    def check(self) -> None:
        """Have SQLite check the whole file.

        Raises:
            UnsoundCatalog: naming the first fault.
        """
        found = self._all("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise UnsoundCatalog(found)

    def counts(self) -> dict[str, int]:
        """Number of memories in each namespace that has any."""
        return dict(self._all("SELECT namespace, count(*) FROM memory GROUP BY namespace"))

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reader() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    @contextmanager
    def _moment(self) -> Iterator[Callable[[str, Sequence[Any]], Any]]:
        """Queries for one value each, which all see one state."""
        with self._reader() as connection:
            connection.execute("BEGIN")
            try:
                yield lambda sql, parameters: connection.execute(sql, parameters).fetchone()[0]
            finally:
                connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / FILE_NAME, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = OFF")
        return connection


@contextmanager
def examined(source: Path, cache_dir: Path | None = None) -> Iterator[Catalog]:
    """A catalog over a copy of a file that may be damaged, closed in the end.

    Raises:
        UnsoundCatalog: it is damaged or of other tables; also from what is read inside.
    """
    try:
        catalog = Catalog(cache_dir, source)
        try:
            catalog.check()
            yield catalog
        finally:
            catalog.close()
    except sqlite3.DatabaseError as error:
        raise UnsoundCatalog(str(error)) from error


class FrozenCatalog:
    """A catalog as it was at one moment: an open read transaction, which write-ahead logging keeps from the writers."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM journal").fetchone()  # a transaction begins with its first read

    def write(self, path: Path) -> None:
        """Write it to a new file on local disk, without any rest of what was deleted."""
        target = sqlite3.connect(path, isolation_level=None)
        try:
            target.execute("PRAGMA synchronous = OFF")
            self._connection.backup(target)
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("VACUUM")  # free pages still hold what was deleted
        finally:
            target.close()

    def watermarks(self) -> dict[str, int]:
        """How far each journal had been applied."""
        return dict(self._connection.execute("SELECT writer, end FROM journal").fetchall())

    def close(self) -> None:
        """End the transaction."""
        self._connection.close()


def _then(as_of_ms: int | None) -> str:
    """What makes a query see the memories and attributes of a time, by the stamps; nothing for the present."""
    if as_of_ms is None:
        return ""
    was_there = f"stamp_ms <= {as_of_ms:d} AND (expires_at_ms IS NULL OR expires_at_ms > {as_of_ms:d})"
    return (
        f"WITH memory AS (SELECT {_COLUMNS} FROM main.memory WHERE {was_there} UNION ALL"
        f" SELECT {_COLUMNS} FROM main.superseded WHERE {was_there} AND until_ms > {as_of_ms:d}),"
        " attribute AS (SELECT * FROM main.attribute UNION ALL SELECT * FROM main.superseded_attribute) "
    )


def _version(row: Sequence[Any]) -> Version:
    id, content, metadata, ms, counter, writer, created_at_ms, expires_at_ms = row
    return Version(
        id=id,
        content=content,
        metadata=metadata,
        stamp=Stamp(ms, counter, writer),
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
    )


_TOMBSTONE = "SELECT stamp_ms, stamp_counter, stamp_writer, expired_at_ms, deleted_at_ms FROM tombstone"


def _tombstone(row: Sequence[Any]) -> Tombstone:
    return Tombstone(Stamp(*row[:3]), row[3], row[4])


def _record(row: Sequence[Any], vectors: Vectors) -> Record:
    """The record that leads to a version."""
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


def _row(id: int, put: Put, stamp: Stamp) -> tuple[Any, ...]:
    """The columns of a version, in the order of the tables."""
    return (id, put.namespace, put.key, put.content, put.metadata, *stamp, put.created_at_ms, put.expires_at_ms)


def _superseded(until_ms: int, vectors: Vectors) -> tuple[int, int, bytes]:
    """The columns that a superseded version has besides."""
    return until_ms, len(vectors), vectors.astype("<f4").tobytes()


def _vectors(windows: int, data: bytes) -> Vectors:
    return np.frombuffer(data, dtype="<f4").reshape(windows, -1)


def _memory(row: Sequence[Any]) -> Memory:
    namespace, key, content, metadata, created_at_ms, stamp_ms, expires_at_ms = row
    return Memory(
        namespace=namespace,
        key=key,
        content=content,
        metadata=json.loads(metadata),
        created_at_ms=created_at_ms,
        updated_at_ms=stamp_ms,
        expires_at_ms=expires_at_ms,
    )
