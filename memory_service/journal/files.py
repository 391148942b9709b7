"""The journal: append-only files in the data folder, the only truth.

A file is a run of frames; the first holds the header, each other one record:

    frame = magic (4 bytes) | payload length (u32) | CRC-32 of length and payload (u32) | payload      little-endian

The magic lets a reader look for valid frames beyond a bad one: none means a torn tail, which is what a crash
leaves and was never acknowledged; any means that the file is damaged, and that is never passed over in silence.

Each process creates files of its own, appends to nobody else's, and never reopens one. A file is abandoned after any
failed write or sync, because what such a failure left on disk is unknown.

This module knows frames and files. What the payloads mean is `records.py`; who applies them is `projection.py`.
"""

import contextlib
import errno
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory_service.clock import Moment, wall_ms
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.records import Header, Record, decode, decode_header, encode, encode_header
from vector_memory.errors import StorageUnavailable

MAGIC = b"\xabVM1"
_PREFIX = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")

PAYLOAD_BYTES_MAX = 64 << 20
"""No record comes near it (content and metadata are bounded); a length above it is a bad frame."""

HEADER_BYTES_MAX = 4096
"""A header is some 250 bytes."""

FILE_BYTES_MAX = 64 << 20
FILE_IDLE_S_MAX = 3600.0
"""A file is sealed at this size or after this silence, so that old ones can be taken away one day."""

SUFFIX = ".log"


class DamagedJournal(Exception):
    """A journal has a bad frame with valid ones behind it, or contents that make no sense."""

    def __init__(self, path: Path, offset: int, why: str) -> None:
        self.path, self.offset = path, offset
        super().__init__(f"journal {path} is damaged at byte {offset}: {why}")


def frame(payload: bytes) -> bytes:
    """A payload with its magic, length and checksum."""
    length = _LENGTH.pack(len(payload))
    return _PREFIX.pack(MAGIC, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The valid frames from the start of `data`: each payload with the offset behind it. Ends at the first bad one."""
    at = 0
    while (payload := _payload_at(data, at)) is not None:
        at += _PREFIX.size + len(payload)
        yield payload, at


def next_frame(data: bytes, at: int) -> tuple[int, bytes] | None:
    """The first valid frame at or beyond `at`: where it begins, and its payload."""
    while at >= 0:
        payload = _payload_at(data, at)
        if payload is not None:
            return at, payload
        at = data.find(MAGIC, at + 1)
    return None


def _payload_at(data: bytes, at: int) -> bytes | None:
    if at + _PREFIX.size > len(data):
        return None
    magic, length, checksum = _PREFIX.unpack_from(data, at)
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX:
        return None
    start = at + _PREFIX.size
    payload = data[start : start + length]
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != checksum:
        return None
    return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a journal held beyond a known offset.

    Attributes:
        header: None when not even the header is there yet.
        end: offset behind the last frame that was read; where to look again.
        torn_bytes: bytes beyond `end` that are no frame and have none behind them.
        damage: the first damage, at `end`; or, where damage was passed over, every one, all before `end`.
    """

    header: Header | None
    records: list[Record]
    end: int
    torn_bytes: int
    damage: tuple[DamagedJournal, ...]


def read_tail(path: Path, offset: int = 0, header: Header | None = None, *, past_damage: Header | None = None) -> Tail:
    """Read a journal from an offset to its end, or to the first damage.

    Args:
        path: the file.
        offset: behind some frame, or 0.
        header: as returned by an earlier read; without one it is read from the file's start.
        past_damage: go on behind damage; a journal whose own header is damaged is read as if it had this one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if header is None and offset > 0:
            header = _header(file.read(HEADER_BYTES_MAX)) or past_damage
            if header is None:
                return Tail(
                    header=None,
                    records=[],
                    end=offset,
                    torn_bytes=0,
                    damage=(DamagedJournal(path, 0, "its header cannot be read"),),
                )
        file.seek(offset)
        data = file.read()
    contents, damage, at = _Contents(header), [], 0
    while (found := next_frame(data, at)) is not None:
        start, payload = found
        fault = "a bad frame is followed by valid ones" if start > at else contents.take(payload)
        if fault is not None:
            damage.append(DamagedJournal(path, offset + at, fault))
            if past_damage is None:
                return Tail(
                    header=contents.header,
                    records=contents.records,
                    end=offset + at,
                    torn_bytes=0,
                    damage=tuple(damage),
                )
            contents.header = contents.header or past_damage
        at = start if start > at else start + _PREFIX.size + len(payload)
    return Tail(
        header=contents.header,
        records=contents.records,
        end=offset + at,
        torn_bytes=len(data) - at,
        damage=tuple(damage),
    )


@dataclass(slots=True)
class _Contents:
    """What the payloads of a journal mean."""

    header: Header | None
    records: list[Record] = field(default_factory=list)

    def take(self, payload: bytes) -> str | None:
        """Read one more payload; what is wrong with it."""
        try:
            if self.header is None:
                self.header = decode_header(payload)
            else:
                self.records.append(decode(payload, self.header))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return str(error)
        return None


def _header(data: bytes) -> Header | None:
    """The header that a journal's first bytes hold, if it can be read."""
    contents, payload = _Contents(None), _payload_at(data, 0)
    if payload is not None:
        contents.take(payload)
    return contents.header


def journal_paths(folder: Path) -> list[Path]:
    """All journals in a folder, oldest name first.

    Raises:
        OSError: the folder cannot be listed.
    """
    return sorted(folder / name for name in os.listdir(folder) if name.endswith(SUFFIX))


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of an append.

    Attributes:
        writer: the file's name without suffix.
        end: its durable length in bytes.
        durable: how many of the records are durable: all, or those before a failed write.
        error: why the others are not.
    """

    writer: str
    end: int
    durable: int
    error: OSError | None


class JournalWriter:
    """Appends records to files of its own. One thread at a time.

    Attributes:
        writer: the file that is written to; empty before `begin`.
        sealed: the files that were left for good.
    """

    def __init__(self, folder: Path, embedder: Fingerprint, next_ms: Callable[[], int] = wall_ms) -> None:
        """Args:
        folder: of the journals.
        embedder: whose vectors the records hold.
        next_ms: a time for the name of a new file, not later than the stamps that follow.
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
        """The name of the file that the next append goes to; records of that append carry it in their stamps."""
        if self._descriptor is not None and self._is_full():
            self.close()
        if not self.writer:
            self.writer = f"{self._next_ms():013d}-{secrets.token_hex(6)}"  # unique, and sorting by age
        return self.writer

    def append(self, records: Sequence[Record]) -> Appended:
        """Write records and sync them. They are durable exactly as far as the outcome says.

        A failed write keeps the records before it (they are synced on their own); a failed sync keeps none.
        """
        assert self.writer, "begin names the file, and the records' stamps carry its name"
        framed = [frame(encode(record)) for record in records]
        try:
            opening = self._open()
        except OSError as error:
            return Appended(self.writer, self._end, 0, error)
        written, failure = _write(self._require(), b"".join([opening, *framed]))
        durable, grown = _whole(framed, len(opening), written)
        try:
            os.fdatasync(self._require())
            self._check_not_removed()
        except OSError as error:
            durable, grown, failure = 0, 0, error
        self._end += grown
        self._last_append = Moment.now()
        outcome = Appended(self.writer, self._end, durable, failure)
        if failure is not None:
            self.close()
        return outcome

    def close(self) -> None:
        """Leave the current file for good; the next append opens another.

        A file that holds nothing acknowledged is taken away, so that a full disk does not fill with empty ones.
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
        """A process that was frozen for days in the middle of an append may find its file compacted away."""
        if os.fstat(self._require()).st_nlink == 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _require(self) -> int:
        assert self._descriptor is not None, "no journal is open"
        return self._descriptor

    def _open(self) -> bytes:
        """Create the file if there is none; what must be written first: its header, or nothing."""
        if self._descriptor is not None:
            return b""
        path = self._folder / f"{self.writer}{SUFFIX}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            sync_folder(self._folder)
        except OSError:
            self.close()
            raise
        return frame(encode_header(Header(self.writer, self._embedder)))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; file systems that cannot (some network mounts) are tolerated."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def storage_unavailable(error: OSError) -> StorageUnavailable:
    """The caller's sentence for a failed write."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageUnavailable(
        f"The data folder takes no writes at the moment ({reason}); nothing was acknowledged. "
        "Reads go on; free space or restore the volume, then send the request again."
    )


def begun_ms(writer: str) -> int:
    """When a journal was begun, which is not later than the stamps in it; 0 for a name of another making."""
    begun = writer.partition("-")[0]
    return int(begun) if begun.isdecimal() else 0


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write all of `data`, or up to the first failure: bytes written and the failure."""
    view, written = memoryview(data), 0
    while written < len(view):
        try:
            written += os.write(descriptor, view[written:])
        except OSError as error:
            return written, error
    return written, None


def _whole(framed: list[bytes], opening: int, written: int) -> tuple[int, int]:
    """How many frames lie wholly within `written` bytes after the opening, and where the last of them ends."""
    if written < opening:
        return 0, 0
    count, end = 0, opening
    while count < len(framed) and end + len(framed[count]) <= written:
        end += len(framed[count])
        count += 1
    return count, end
