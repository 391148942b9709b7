"""The catalog: texts, metadata and times of all memories, in SQLite on local disk.

It is a projection of the journal: it can be deleted at any time, so it trades durability for speed. It lives in a
private folder on local disk, never on the volume. One thread writes at a time. Readers have connections of their own;
with write-ahead logging they neither block the writer nor wait for it.

Ids belong to one life of the catalog. Every version of a memory gets a new id, which is never used again, so a reader
that still has the id of an older version finds nothing instead of another text.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.filters.sql import attributes
from memory_service.journal.records import Put, RememberedReply
from memory_service.private_folder import PrivateFolder
from memory_service.projection import catalog_schema as schema
from memory_service.projection.catalog_reading import CatalogReader
from memory_service.projection.catalog_schema import Tombstone, Version


class UnsoundCatalog(Exception):
    """A file is not a catalog, or SQLite finds an error in it."""


class Catalog(CatalogReader):
    """SQLite over a private file. `transaction` and what is called inside it belong to one writer at a time.

    with catalog.transaction():
        catalog.put(id, put, stamp)
        catalog.commit()
    """

    def __init__(self, cache_dir: Path | None = None, source: Path | None = None) -> None:
        """Make a catalog in a fresh folder under `cache_dir` (default: the system's temporary folder).

        Args:
            cache_dir: a folder on local disk.
            source: a file that `FrozenCatalog.write` made, to start from; None starts empty.

        Raises:
            sqlite3.DatabaseError: the source is not a catalog.
        """
        self._private = PrivateFolder(cache_dir)
        self.folder = self._private.path
        super().__init__(lambda: _connect(self.folder / schema.FILE_NAME))
        self._changed: set[str] = set()
        try:
            if source is not None:
                shutil.copyfile(source, self.folder / schema.FILE_NAME)
            self._writer = self._connect()
            # Write-ahead logging lets readers go on while the writer is in a transaction.
            self._writer.execute("PRAGMA journal_mode = WAL")
            if source is None:
                self._writer.executescript(schema.SCHEMA + schema.SUPERSEDED_SCHEMA)
            elif self._writer.execute("PRAGMA user_version").fetchone()[0] < schema.SCHEMA_VERSION:
                self._writer.executescript(schema.UPGRADE_FROM_1)
        except BaseException:
            self._private.close()
            raise

    def close(self) -> None:
        """Close every connection and remove the files. No thread may be reading."""
        for connection in [*self._idle, self._writer]:
            connection.close()
        self._private.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make writes visible to readers together, by `commit`. Without a commit they are rolled back."""
        self._writer.execute("BEGIN IMMEDIATE")
        self._changed = set()
        try:
            yield
        finally:
            # An error before the commit ends up here, too.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def commit(self) -> None:
        """Make the transaction's changes visible."""
        self._writer.execute("COMMIT")
        # After the commit: a reader that asked before it must not keep its result (`RecentIds`).
        self._recent.forget(self._changed)

    # -- current versions ------------------------------------------------------------------------------------------

    def version(self, namespace: str, key: str) -> Version | None:
        """Return the memory under a key, as the writer sees it; an expired one that is not removed yet counts."""
        sql = f"SELECT {schema.VERSION_COLUMNS} FROM memory WHERE namespace = ? AND key = ?"
        row = self._writer.execute(sql, (namespace, key)).fetchone()
        return schema.version_of(row) if row else None

    def newest(self, namespace: str, key: str) -> tuple[int, Stamp] | None:
        """Return id and stamp of the memory under a key, as the writer sees it, without reading its content."""
        sql = f"SELECT id, {schema.STAMP_COLUMNS} FROM memory WHERE namespace = ? AND key = ?"
        row = self._writer.execute(sql, (namespace, key)).fetchone()
        return (row[0], Stamp(*row[1:])) if row else None

    def put(self, id: int, put: Put, stamp: Stamp) -> None:
        """Add a memory under an id that was never used."""
        self._writer.execute("INSERT INTO memory VALUES (?,?,?,?,?,?,?,?,?,?)", schema.row_of(id, put, stamp))
        self._changed.add(put.namespace)
        self._put_attributes("attribute", id, put)

    def remove(self, id: int) -> None:
        """Remove one version of a memory."""
        removed = self._writer.execute("DELETE FROM memory WHERE id = ? RETURNING namespace", (id,))
        self._changed.update(namespace for (namespace,) in removed)
        self._writer.execute("DELETE FROM attribute WHERE id = ?", (id,))

    def _put_attributes(self, table: str, id: int, put: Put) -> None:
        self._writer.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES (?,?,?,?,?,?)",  # equal elements of an array are one attribute
            [(put.namespace, *attribute, id) for attribute in attributes(json.loads(put.metadata))],
        )

    def expired(self, now_ms: int) -> list[tuple[str, str, Stamp, int, int | None]]:
        """Return (namespace, key, stamp, expires_at_ms, id) of what has expired; a superseded version's id is None."""
        columns = f"namespace, key, {schema.STAMP_COLUMNS}, expires_at_ms"
        rows = self._writer.execute(
            f"SELECT {columns}, id FROM memory WHERE expires_at_ms <= ?1"
            f" UNION ALL SELECT {columns}, NULL FROM superseded WHERE expires_at_ms <= ?1",
            (now_ms,),
        )
        return [(row[0], row[1], Stamp(*row[2:5]), row[5], row[6]) for row in rows]

    # -- superseded versions and tombstones ------------------------------------------------------------------------

    def supersede(self, id: int, until_ms: int, vectors: Vectors) -> None:
        """Move a memory to the superseded versions. `until_ms` is the stamp of its successor."""
        row = (*schema.superseded_columns(until_ms, vectors), id)
        self._writer.execute("INSERT INTO superseded SELECT *, ?, ?, ? FROM memory WHERE id = ?", row)
        self._writer.execute("INSERT INTO superseded_attribute SELECT * FROM attribute WHERE id = ?", (id,))
        self.remove(id)

    def put_superseded(self, id: int, put: Put, stamp: Stamp, newest_ms: int) -> None:
        """Add a version that is superseded already, unless the catalog has it.

        Such a version comes from a journal that is read late. `newest_ms` is the stamp of the current memory.
        """
        key_and_stamp = (put.namespace, put.key, *stamp)
        # The version was in force until its successor, which is the next superseded one or the current memory.
        successor = self._writer.execute(
            "SELECT stamp_ms, (stamp_ms, stamp_counter, stamp_writer) = (?3,?4,?5) FROM superseded"
            " WHERE namespace = ?1 AND key = ?2 AND (stamp_ms, stamp_counter, stamp_writer) >= (?3,?4,?5)"
            " ORDER BY stamp_ms, stamp_counter, stamp_writer LIMIT 1",
            key_and_stamp,
        ).fetchone()
        until_ms, is_known = successor or (newest_ms, False)
        if is_known:
            return
        # The version before this one was in force until now only because this one was not known.
        self._writer.execute(
            "UPDATE superseded SET until_ms = ?3 WHERE namespace = ?1 AND key = ?2 AND until_ms > ?3"
            " AND (stamp_ms, stamp_counter, stamp_writer) < (?3,?4,?5)",
            key_and_stamp,
        )
        row = (*schema.row_of(id, put, stamp), *schema.superseded_columns(until_ms, put.vectors))
        self._writer.execute("INSERT INTO superseded VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
        self._put_attributes("superseded_attribute", id, put)

    def tombstone(self, namespace: str, key: str) -> Tombstone | None:
        """Return the tombstone of a key, as the writer sees it."""
        row = self._writer.execute(schema.TOMBSTONE, (namespace, key)).fetchone()
        return schema.tombstone_of(row) if row else None

    def bury(self, namespace: str, key: str, tombstone: Tombstone) -> None:
        """Set the tombstone of a key, and erase its superseded versions up to then.

        The tombstone stays when the key is stored again, so no older record that is read later brings a text back.
        """
        stamp, times = tombstone.stamp, (tombstone.expired_at_ms, tombstone.deleted_at_ms)
        self._writer.execute(
            "INSERT OR REPLACE INTO tombstone VALUES (?,?,?,?,?,?,?)", (namespace, key, *stamp, *times)
        )
        self._remove_superseded(
            "namespace = ? AND key = ? AND (stamp_ms, stamp_counter, stamp_writer) <= (?,?,?)", (namespace, key, *stamp)
        )

    def forget_superseded(self, before_ms: int) -> None:
        """Remove the versions that were superseded before a time."""
        self._remove_superseded("until_ms < ?", (before_ms,))

    def _remove_superseded(self, condition: str, parameters: Sequence[Any]) -> None:
        sql = f"DELETE FROM superseded_attribute WHERE id IN (SELECT id FROM superseded WHERE {condition})"
        self._writer.execute(sql, parameters)
        self._writer.execute(f"DELETE FROM superseded WHERE {condition}", parameters)

    # -- replies and watermarks ------------------------------------------------------------------------------------

    def remember(self, reply: RememberedReply, stamp: Stamp) -> None:
        """Keep the answer given under an idempotency key."""
        row = (reply.namespace, reply.idempotency_key, reply.digest, msgpack.packb(reply.result), stamp.ms)
        self._writer.execute("INSERT OR REPLACE INTO reply VALUES (?,?,?,?,?)", row)

    def forget_replies(self, before_ms: int) -> None:
        """Remove the answers older than a time."""
        self._writer.execute("DELETE FROM reply WHERE stamp_ms < ?", (before_ms,))

    def set_watermark(self, writer: str, end: int) -> None:
        """Note how many bytes of a journal have been applied."""
        self._writer.execute("INSERT OR REPLACE INTO journal VALUES (?,?)", (writer, end))

    # -- the whole file --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Have SQLite check the whole file.

        Raises:
            UnsoundCatalog: the message names the first error.
        """
        result = self._all("PRAGMA integrity_check(1)")[0][0]
        if result != "ok":
            raise UnsoundCatalog(result)

    def freeze(self) -> "FrozenCatalog":
        """Return the catalog of this moment. The caller makes sure that nothing is written until this returns."""
        return FrozenCatalog(self._connect())


class FrozenCatalog:
    """A catalog as it was at one moment: an open read transaction, whose state write-ahead logging preserves."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM journal").fetchone()  # a transaction begins with its first read

    def write(self, path: Path) -> None:
        """Write the catalog to a new file on local disk. The file holds no rest of what was deleted."""
        target = sqlite3.connect(path, isolation_level=None)
        try:
            target.execute("PRAGMA synchronous = OFF")
            self._connection.backup(target)
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("VACUUM")  # free pages still hold what was deleted
        finally:
            target.close()

    def watermarks(self) -> dict[str, int]:
        """Return how many bytes of each journal had been applied."""
        return dict(self._connection.execute("SELECT writer, end FROM journal").fetchall())

    def close(self) -> None:
        """End the transaction."""
        self._connection.close()


@contextmanager
def open_copy(source: Path, cache_dir: Path | None = None) -> Iterator[Catalog]:
    """Open a checked copy of a catalog file that may be damaged, and close it at the end.

    Raises:
        UnsoundCatalog: the file is damaged or has other tables. Reads inside the block may raise it, too.
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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # A crash may lose the file, which is derived from the journal anyway.
    connection.execute("PRAGMA synchronous = OFF")
    return connection
