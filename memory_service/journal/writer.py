"""The journal's writer: append records to a file of this process, and sync them.

Each process creates its own files, appends to no other file, and never reopens one. It abandons a file after any failed
write or sync, because what such a failure left on disk is unknown.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_service.clock import Moment, wall_ms
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.files import SUFFIX
from memory_service.journal.frames import frame
from memory_service.journal.records import Header, Record, encode, encode_header
from vector_memory.errors import StorageUnavailable

FILE_BYTES_MAX = 64 << 20
"""Size at which a file is sealed. Compaction can then remove it, and a reader loads no more than this at once."""

FILE_IDLE_S_MAX = 3600.0
"""Silence after which a file is sealed: far less than the day after which compaction may remove it."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of an append.

    Attributes:
        writer: name of the file without its suffix.
        end: durable length of the file in bytes.
        durable: number of records that are durable: all, or those before a failed write.
        error: why the others are not.
    """

    writer: str
    end: int
    durable: int
    error: OSError | None


class JournalWriter:
    """Appends records to files of its own. One thread uses it at a time.

        writer = JournalWriter(folder, fingerprint)
        stamp = clock.tick(writer.begin())
        outcome = writer.append([Record(stamp, put)])

    Attributes:
        writer: name of the current file; empty before `begin`.
        sealed: names of the files that were left for good.
    """

    def __init__(self, folder: Path, embedder: Fingerprint, next_ms: Callable[[], int] = wall_ms) -> None:
        """Args:
        folder: of the journals.
        embedder: what made the records' vectors.
        next_ms: returns a time for the name of a new file, not later than the stamps that follow.
        """
        self._folder = folder
        self._next_ms = next_ms
        self._embedder = embedder
        self._descriptor: int | None = None
        self._end = 0
        self._last_append = Moment.now()
        self.writer = ""
        self.sealed: set[str] = set()

    def begin(self) -> str:
        """Return the name of the file that the next append goes to. The stamps of its records carry this name."""
        if self._descriptor is not None and self._is_full():
            self.close()
        if not self.writer:
            self.writer = f"{self._next_ms():013d}-{secrets.token_hex(6)}"  # unique, and sorting by age
        return self.writer

    def append(self, records: Sequence[Record]) -> Appended:
        """Write records and sync them.

        After a failed write, the records that were written before it are still synced. After a failed sync, none of
        the records is durable.
        """
        assert self.writer, "begin names the file, and the records' stamps carry its name"
        framed = [frame(encode(record)) for record in records]
        try:
            header = self._open()
        except OSError as error:
            return Appended(self.writer, self._end, 0, error)
        # One write and one sync for all records: this is the group commit.
        written, failure = _write(self._require(), b"".join([header, *framed]))
        durable, grown = _count_complete(framed, len(header), written)
        try:
            os.fdatasync(self._require())
            self._check_not_removed()
        except OSError as error:
            # The kernel may have dropped any of the pages, so none of the records can be relied on.
            durable, grown, failure = 0, 0, error
        self._end += grown
        self._last_append = Moment.now()
        outcome = Appended(self.writer, self._end, durable, failure)
        if failure is not None:
            self.close()
        return outcome

    def close(self) -> None:
        """Leave the current file for good; the next append opens another one.

        A file without anything acknowledged is removed, so that a full disk does not fill up with empty files.
        """
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # every acknowledged byte was synced: closing cannot lose any
                os.close(self._descriptor)
            if self._end == 0:
                with contextlib.suppress(OSError):
                    (self._folder / f"{self.writer}{SUFFIX}").unlink()
            self.sealed.add(self.writer)
        self._descriptor = None
        self._end = 0
        self.writer = ""

    def _is_full(self) -> bool:
        return self._end >= FILE_BYTES_MAX or self._last_append.is_older_than(FILE_IDLE_S_MAX)

    def _check_not_removed(self) -> None:
        # A process that was frozen for days in the middle of an append may find its file compacted away.
        if os.fstat(self._require()).st_nlink == 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _require(self) -> int:
        assert self._descriptor is not None, "no journal is open"
        return self._descriptor

    def _open(self) -> bytes:
        """Create the file unless it is open; return its header frame, or nothing if the file has one."""
        if self._descriptor is not None:
            return b""
        path = self._folder / f"{self.writer}{SUFFIX}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            # Without this, a crash could lose the name of a file whose contents were synced.
            sync_folder(self._folder)
        except OSError:
            self.close()
            raise
        return frame(encode_header(Header(self.writer, self._embedder)))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. A file system that cannot do so (some network mounts) is tolerated."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def storage_unavailable(error: OSError) -> StorageUnavailable:
    """Return the caller's error for a failed write."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageUnavailable(
        f"The data folder takes no writes at the moment ({reason}); nothing was acknowledged. "
        "Reads go on; free space or restore the volume, then send the request again."
    )


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write `data` up to the first failure; return the number of bytes written, and the failure."""
    view, written = memoryview(data), 0
    while written < len(view):  # a write may be short
        try:
            written += os.write(descriptor, view[written:])
        except OSError as error:
            return written, error
    return written, None


def _count_complete(framed: list[bytes], header_bytes: int, written: int) -> tuple[int, int]:
    """Count the frames that lie within the written bytes; return their number, and where the last one ends."""
    if written < header_bytes:
        return 0, 0
    count, end = 0, header_bytes
    while count < len(framed) and end + len(framed[count]) <= written:
        end += len(framed[count])
        count += 1
    return count, end
