"""What readers ask of the catalog. Every thread reads through a connection of its own, and never waits for a writer."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgpack

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.filters.grammar import EVERYTHING, Filter
from memory_service.filters.ids import Ids, RecentIds, matching_ids, read_ids
from memory_service.filters.sql import condition
from memory_service.journal.records import Record, RememberedReply, Removal
from memory_service.namespaces.conversation import Text
from memory_service.projection.catalog_schema import (
    MEMORY_COLUMNS,
    STAMP_COLUMNS,
    TOMBSTONE,
    Tombstone,
    memory_of,
    record_of,
    tombstone_of,
    vectors_of,
    with_time,
)
from vector_memory.memories import Memory


class CatalogReader:
    """The reads of the catalog."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Args:
        connect: opens one more connection.
        """
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._recent = RecentIds()

    # -- memories --------------------------------------------------------------------------------------------------

    def get(self, namespace: str, key: str, as_of_ms: int | None = None) -> Memory | None:
        """Return one memory by its key."""
        sql = f"{with_time(as_of_ms)}SELECT {MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ? AND m.key = ?"
        rows = self._all(sql, (namespace, key))
        return memory_of(rows[0]) if rows else None

    def find(self, namespace: str, key: str) -> tuple[int, Memory] | None:
        """Return one memory by its key, with its id."""
        rows = self._all(
            f"SELECT m.id, {MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ? AND m.key = ?", (namespace, key)
        )
        return (rows[0][0], memory_of(rows[0][1:])) if rows else None

    def history(self, namespace: str, key: str, since_ms: int) -> tuple[list[Memory], Tombstone | None]:
        """Return the versions of a memory that were in force after a time, newest first, and the key's tombstone."""
        columns = MEMORY_COLUMNS.replace("m.", "")
        versions = self._all(
            f"SELECT {columns} FROM"
            f" (SELECT {columns}, {STAMP_COLUMNS} FROM memory WHERE namespace = ?1 AND key = ?2"
            f" UNION ALL SELECT {columns}, {STAMP_COLUMNS} FROM superseded"
            "  WHERE namespace = ?1 AND key = ?2 AND until_ms > ?3)"
            " ORDER BY stamp_ms DESC, stamp_counter DESC, stamp_writer DESC",
            (namespace, key, since_ms),
        )
        tombstones = self._all(TOMBSTONE, (namespace, key))
        return [memory_of(row) for row in versions], tombstone_of(tombstones[0]) if tombstones else None

    def contents(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the contents under these (namespace, key) pairs."""
        marks = ",".join(["(?,?)"] * len(keys))
        sql = f"SELECT namespace, key, content FROM memory WHERE (namespace, key) IN (VALUES {marks})"
        rows = self._all(sql, [part for pair in keys for part in pair])
        return {(namespace, key): content for namespace, key, content in rows}

    def ids(self, namespace: str, keys: Sequence[str]) -> dict[str, int]:
        """Return the ids of the memories under these keys."""
        marks = ",".join("?" * len(keys))  # and no json_each, which cuts a text at its first NUL
        sql = f"SELECT key, id FROM memory WHERE namespace = ? AND key IN ({marks})"
        return dict(self._all(sql, (namespace, *keys)))

    def by_ids(self, ids: Sequence[int], as_of_ms: int | None = None) -> dict[int, Memory]:
        """Return memories by id; ids that were not current at that time are left out."""
        marks = ",".join("?" * len(ids))
        sql = f"{with_time(as_of_ms)}SELECT m.id, {MEMORY_COLUMNS} FROM memory m WHERE m.id IN ({marks})"
        return {row[0]: memory_of(row[1:]) for row in self._all(sql, ids)}

    def texts(self, namespace: str) -> list[tuple[int, Text]]:
        """Return all memories of a namespace by id, ascending."""
        columns = f"id, content, metadata, created_at_ms, {STAMP_COLUMNS}"
        rows = self._all(f"SELECT {columns} FROM memory WHERE namespace = ? ORDER BY id", (namespace,))
        return [
            (id, Text(content, json.loads(metadata), created_at_ms, Stamp(*stamp)))
            for id, content, metadata, created_at_ms, *stamp in rows
        ]

    def superseded_vectors(self, ids: Sequence[int]) -> list[tuple[int, Vectors]]:
        """Return the vectors (windows, dim) of those ids that are superseded versions, ascending by id."""
        sql = "SELECT id, windows, vectors FROM superseded WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [(id, vectors_of(windows, data)) for id, windows, data in self._all(sql, (json.dumps(list(ids)),))]

    def counts(self) -> dict[str, int]:
        """Return the number of memories of each namespace that has any."""
        return dict(self._all("SELECT namespace, count(*) FROM memory GROUP BY namespace"))

    # -- memories that match a filter ------------------------------------------------------------------------------

    def matching_ids(self, namespace: str, filter: Filter, as_of_ms: int | None = None) -> Ids:
        """Return the ids of the memories that match, ascending. The array is shared: do not write to it."""
        sql, parameters = condition(filter)
        if as_of_ms is not None:
            query = f"{with_time(as_of_ms)}SELECT group_concat(m.id) FROM memory m WHERE m.namespace = ?1 AND ({sql})"
            return read_ids(self._all(query, (namespace, *parameters))[0][0])
        ids, epoch = self._recent.find(namespace, (sql, *parameters))
        if ids is None:
            # A filter becomes several queries, which must not see a write in between.
            with self._one_state() as ask:
                ids = matching_ids(lambda query: ask(query[0], (namespace, *query[1])), filter)
            self._recent.keep(namespace, (sql, *parameters), ids, epoch)
        return ids

    def matching_keys(self, namespace: str, filter: Filter) -> list[str]:
        """Return the keys of the memories that match, in order."""
        sql, parameters = condition(filter)
        query = f"SELECT m.key FROM memory m WHERE m.namespace = ?1 AND ({sql}) ORDER BY m.key"
        return [row[0] for row in self._all(query, (namespace, *parameters))]

    def page(
        self, namespace: str, filter: Filter, limit: int, after: tuple[int, str] | None, as_of_ms: int | None = None
    ) -> list[Memory]:
        """Return memories that match, newest first, ties by key.

        Args:
            namespace: the one to read.
            filter: what the memories match.
            limit: how many memories.
            after: (created_at_ms, key) of the last memory of the page before.
            as_of_ms: a past time; None is the present.
        """
        sql, parameters = condition(filter)
        beyond = ""
        if after is not None:
            # The page begins after a position and not after a number of rows, so writes in between shift nothing.
            beyond = "AND (m.created_at_ms < ? OR (m.created_at_ms = ? AND m.key > ?))"
            parameters = [*parameters, after[0], *after]
        rows = self._all(
            f"{with_time(as_of_ms)}SELECT {MEMORY_COLUMNS} FROM memory m WHERE m.namespace = ?1 AND ({sql}) {beyond}"
            " ORDER BY m.created_at_ms DESC, m.key LIMIT ?",
            (namespace, *parameters, limit),
        )
        return [memory_of(row) for row in rows]

    def values(self, namespace: str, path: str, filter: Filter, after: str, limit: int) -> list[tuple[str, int]]:
        """Return the texts greater than `after` at a path of the metadata, in order, each with its number of memories.

        Only memories that match the filter are counted.
        """
        # Without a filter this reads one range of the attribute table's key, which is in this order.
        sql, parameters = condition(filter)
        matching = ""
        if filter != EVERYTHING:
            matching = f" AND id IN (SELECT m.id FROM memory m WHERE m.namespace = ?1 AND ({sql}))"
        query = (
            "SELECT value, count(*) FROM attribute WHERE namespace = ?1 AND path = ? AND element = 0 AND type = 's'"
            f" AND value > ?{matching} GROUP BY value ORDER BY value LIMIT ?"
        )
        return self._all(query, (namespace, path, after, *parameters, limit))

    # -- for the projection ----------------------------------------------------------------------------------------

    def next_expiry_ms(self, reply_kept_ms: int, superseded_kept_ms: int) -> int | None:
        """Return when the next memory expires, or the oldest reply or superseded version is due to be removed."""
        next_ms: int | None = self._all(
            "SELECT min(at) FROM (SELECT min(expires_at_ms) AS at FROM memory WHERE expires_at_ms IS NOT NULL"
            " UNION ALL SELECT min(expires_at_ms) FROM superseded WHERE expires_at_ms IS NOT NULL"
            " UNION ALL SELECT min(until_ms) + ? FROM superseded"
            " UNION ALL SELECT min(stamp_ms) + ? FROM reply)",
            (superseded_kept_ms, reply_kept_ms),
        )[0][0]
        return next_ms

    def last_stamp(self) -> Stamp | None:
        """Return the latest stamp of all memories and tombstones."""
        rows = self._all(
            f"SELECT {STAMP_COLUMNS} FROM memory UNION ALL SELECT {STAMP_COLUMNS} FROM tombstone"
            " ORDER BY 1 DESC, 2 DESC LIMIT 1"
        )
        return Stamp(*rows[0]) if rows else None

    def watermarks(self) -> dict[str, int]:
        """Return how many bytes of each journal have been applied."""
        return dict(self._all("SELECT writer, end FROM journal"))

    def reply(self, namespace: str, idempotency_key: str) -> tuple[str, Any] | None:
        """Return the digest and the result remembered under an idempotency key."""
        sql = "SELECT request, result FROM reply WHERE namespace = ? AND idempotency_key = ?"
        rows = self._all(sql, (namespace, idempotency_key))
        return (rows[0][0], msgpack.unpackb(rows[0][1])) if rows else None

    def records(self, vectors: Callable[[str, int], Vectors]) -> Iterator[Record]:
        """Yield records that lead to everything the catalog holds.

        Args:
            vectors: returns the vectors (windows, dim) of a memory, by namespace and id.
        """
        for namespace, key, *stamp, expired_at_ms, deleted_at_ms in self._all("SELECT * FROM tombstone"):
            yield Record(Stamp(*stamp), Removal(namespace, key, expired_at_ms))
            # An expiry after a delete is two records, or the time of the delete would be lost.
            if expired_at_ms is not None and deleted_at_ms is not None:
                yield Record(Stamp(deleted_at_ms, 0, ""), Removal(namespace, key))
        for *row, _, windows, data in self._all("SELECT * FROM superseded"):
            yield record_of(row, vectors_of(windows, data))
        for row in self._all("SELECT * FROM memory"):
            id, namespace, *_ = row
            yield record_of(row, vectors(namespace, id))
        for namespace, key, digest, result, stamp_ms in self._all("SELECT * FROM reply"):
            yield Record(Stamp(stamp_ms, 0, ""), RememberedReply(namespace, key, digest, msgpack.unpackb(result)))

    # -- connections -----------------------------------------------------------------------------------------------

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._connection() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses at the same time."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    @contextmanager
    def _one_state(self) -> Iterator[Callable[[str, Sequence[Any]], Any]]:
        """Queries for one value each, which all see the same state."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield lambda sql, parameters: connection.execute(sql, parameters).fetchone()[0]
            finally:
                connection.execute("ROLLBACK")
