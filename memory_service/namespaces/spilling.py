"""Indexes on local disk: those that RAM has no room for, in a private folder that is removed with the process.

A file is written once and never changed. An extent of it can be read for as long as somebody holds the extent, and the
file is removed with the last one. So writing a snapshot needs no coordination with eviction and loading.

This module knows files and checksums of local disk alone. `index_cache.py` decides what lies here and when.
"""

import errno
import itertools
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from indexes.group_index import GroupIndex
from indexes.rows import EncodedRows, in_chunks
from indexes.segments import SEGMENT_ROWS
from indexes.sketches import BITS
from memory_service.embedding.embedder import Vectors
from memory_service.namespaces.index import FrozenIndex, NamespaceIndex, unpacked, unpacked_texts
from memory_service.private_folder import PrivateFolder

log = logging.getLogger(__name__)

COPY_BYTES = 1 << 20

WAITING_ROWS_MAX = 256
"""A start leaves a namespace of at most this many vectors on disk until it is used. Loading it takes 1 to 2 ms."""

ROW_OVERHEAD_BYTES = 1_000
"""Estimate for what the words and the structure of a memory take, before they are counted."""


class SpillFailed(Exception):
    """Local disk takes no writes at the moment."""


class SpillFile:
    """A file that is removed with the last reference to this object.

    `__del__` does it, since `weakref.finalize` would take more memory for thousands of files than all the rest.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self, unlink: Callable[[str], None] = os.unlink) -> None:
        try:
            unlink(self.path)
        except OSError:
            return  # the folder was removed before


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of bytes of a file, and their CRC-32."""

    file: SpillFile
    begin: int
    size: int
    crc: int

    def open(self) -> BinaryIO:
        """Open the file at the begin of the extent.

        Raises:
            OSError: it cannot be opened.
        """
        file = Path(self.file.path).open("rb", buffering=0)  # noqa: SIM115 - the caller closes it
        file.seek(self.begin)
        return file

    def part(self, file: BinaryIO, begin: int, size: int) -> "Extent":
        """Return a range of bytes of the file, which is open, as an extent.

        Raises:
            OSError: it cannot be read.
        """
        return Extent(self.file, begin, size, zlib.crc32(os.pread(file.fileno(), size, begin)))

    def read_into(self, arrays: Sequence["np.ndarray[Any, Any]"]) -> None:
        """Fill contiguous arrays, whose sizes add up to the extent's.

        Raises:
            OSError: the file cannot be read, or does not hold what was written.
        """
        crc = 0
        with self.open() as file:
            for array in arrays:
                target = array.reshape(-1).view(np.uint8).data
                while target and (count := file.readinto(target)):  # type: ignore[attr-defined] # raw files have it
                    crc = zlib.crc32(target[:count], crc)
                    target = target[count:]
        self._check(crc)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, chunk by chunk.

        Raises:
            OSError: as `read_into`, possibly after the last chunk.
        """
        crc, (full, rest) = 0, divmod(self.size, COPY_BYTES)
        with self.open() as file:
            for size in (*[COPY_BYTES] * full, rest):
                chunk = file.read(size)
                crc = zlib.crc32(chunk, crc)
                yield chunk
        self._check(crc)

    def _check(self, crc: int) -> None:
        if crc != self.crc:
            raise OSError(errno.EIO, "not what was written there", self.file.path)


@dataclass(frozen=True, slots=True)
class Spilled:
    """A namespace's index on local disk.

    Attributes:
        memories: number of memories.
        vector_count: number of their vectors.
        chunks: for every `SEGMENT_ROWS` vectors their ids, their halves and their sketches, as `EncodedRows` has them.
        texts: words and structure, as `FrozenIndex.packed_texts` packs them; None where they must be made again.
    """

    memories: int
    vector_count: int
    chunks: tuple[Extent, ...]
    texts: Extent | None

    def rows(self) -> Iterator[EncodedRows]:
        """Yield the rows in chunks.

        Raises:
            OSError: they cannot be read.
        """
        for chunk, count in self._counted():
            rows = EncodedRows.empty(count, _dim(chunk, count))
            chunk.read_into((rows.ids, rows.halves, rows.sketches))
            yield rows

    def load(self, dim: int) -> NamespaceIndex:
        """Return the index. It has no words and structure if none were spilled.

        Raises:
            OSError: it cannot be read.
        """
        texts = None if self.texts is None else unpacked_texts(unpacked(b"".join(self.texts.chunks())))
        return NamespaceIndex(GroupIndex.of_rows(dim, self.rows(), self.vector_count), texts)

    def vectors(self, id: int) -> Vectors:
        """Return the vectors of one memory, without reading the others, and so without a checksum.

        Raises:
            OSError: they cannot be read.
        """
        found = []
        for chunk, count in self._counted():
            with chunk.open() as file:
                ids = np.frombuffer(file.read(count * 8), "<i8")
                begin, end = (int(np.searchsorted(ids, id, side=side)) for side in ("left", "right"))
                row_bytes = 2 * _dim(chunk, count)
                file.seek(chunk.begin + count * 8 + begin * row_bytes)
                found.append(np.frombuffer(file.read((end - begin) * row_bytes), "<f2").reshape(-1, row_bytes // 2))
        return np.concatenate(found).astype(np.float32)

    def packed_texts(self) -> Iterator[bytes]:
        """Yield what `FrozenIndex.packed_texts` yielded.

        Raises:
            OSError: they cannot be read.
        """
        assert self.texts is not None, "words that another version indexed are indexed again at the start"
        return self.texts.chunks()

    def _counted(self) -> Iterator[tuple[Extent, int]]:
        """Yield each chunk with the number of its rows."""
        for at, chunk in enumerate(self.chunks):
            yield chunk, min(SEGMENT_ROWS, self.vector_count - at * SEGMENT_ROWS)


def _dim(chunk: Extent, count: int) -> int:
    """Return the dimension of the vectors of a chunk: a row has 8 bytes of id, a sketch, and 2 for each number."""
    return (chunk.size // count - 8 - BITS // 8) // 2


class Spill:
    """The folder of these files, made when it is first needed, and the budget of RAM."""

    def __init__(self, parent: Path | None = None, budget_bytes: float = 0) -> None:
        """Args:
        parent: a folder on local disk; default: the system's temporary folder.
        budget_bytes: the most that indexes in RAM may take; 0 sets no limit.
        """
        self.budget_bytes = budget_bytes or float("inf")
        self._parent = parent
        self._private: PrivateFolder | None = None
        self._making = threading.Lock()
        self._numbers = itertools.count()

    def writer(self) -> "SpillWriter":
        """Open a new file.

        Raises:
            SpillFailed: local disk takes no file.
        """
        try:
            with self._making:
                self._private = self._private or PrivateFolder(self._parent)
            return SpillWriter(SpillFile(str(self._private.path / f"{next(self._numbers)}.index")))
        except OSError as error:
            raise SpillFailed(str(error)) from error

    def write(self, index: FrozenIndex) -> Spilled:
        """Write one index to a file of its own.

        Raises:
            SpillFailed: local disk does not take it; no part of it is left.
        """
        with self.writer() as writer:
            chunks = writer.chunks(index.rows())
            return Spilled(len(index), index.vector_count, chunks, writer.extent(index.packed_texts()))

    def close(self) -> None:
        """Remove the folder."""
        if self._private is not None:
            self._private.close()
            self._private = None


class StartingSpill:
    """Spills namespaces while a snapshot is read: small ones, and those for which RAM has no room.

    They come one after the other and lie in one file: thousands of files would take a second.

    Attributes:
        spilled: the namespaces that it took.
    """

    def __init__(self, spill: Spill | None, dim: int) -> None:
        """Args:
        spill: the local disk that takes namespaces; None takes none.
        dim: number of components of a vector.
        """
        self.spilled: dict[str, Spilled] = {}
        self._spill = spill
        self._row_bytes = dim * 2 + ROW_OVERHEAD_BYTES
        self._left_bytes = 0.0 if spill is None else spill.budget_bytes
        self._writer: SpillWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def wants(self, count: int) -> bool:
        """Return whether a namespace of `count` vectors is to be spilled. If not, it takes its share of the budget."""
        weight_bytes = count * self._row_bytes
        if self._spill is None or (count > WAITING_ROWS_MAX and weight_bytes <= self._left_bytes):
            self._left_bytes -= weight_bytes
            return False
        return True

    def take(self, namespace: str, rows: Sequence[EncodedRows]) -> bool:
        """Spill a namespace that is wanted; False where local disk does not take it."""
        assert self._spill is not None, "nothing is wanted without a spill"
        try:
            self._writer = self._writer or self._spill.writer()
            chunks = self._writer.chunks(rows)
        except SpillFailed as error:
            log.warning("index.kept", extra={"reason": str(error)})
            self._spill = None
            return False
        ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in rows)])
        self.spilled[namespace] = Spilled(len(np.unique(ids)), len(ids), chunks, None)
        return True


class SpillWriter:
    """Writes a file, extent after extent. An extent that was returned is on disk, not in a buffer."""

    def __init__(self, file: SpillFile) -> None:
        """Raises:
        OSError: the file cannot be made.
        """
        self._file = file
        self._stream = Path(file.path).open("xb", buffering=0)  # noqa: SIM115 - `close` does
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def chunks(self, rows: Iterable[EncodedRows]) -> tuple[Extent, ...]:
        """Write rows, `SEGMENT_ROWS` in each extent.

        Raises:
            SpillFailed: as of `extent`.
        """
        return tuple(
            self.extent((some.ids.data, some.halves.data, some.sketches.data)) for some in in_chunks(rows, SEGMENT_ROWS)
        )

    def extent(self, parts: Iterable["bytes | memoryview[Any]"]) -> Extent:
        """Write some bytes as one extent.

        Raises:
            SpillFailed: local disk does not take them; nothing more can be written to this file.
        """
        begin, crc, waiting = self._at, 0, bytearray()
        for part in parts:
            view = memoryview(part)
            for at in range(0, view.nbytes, COPY_BYTES):
                piece = view.cast("B")[at : at + COPY_BYTES]
                crc = zlib.crc32(piece, crc)
                waiting += piece
                if len(waiting) >= COPY_BYTES:
                    self._write(waiting)
                    waiting = bytearray()
        self._write(waiting)
        return Extent(self._file, begin, self._at - begin, crc)

    def _write(self, data: bytearray) -> None:
        try:
            with memoryview(data) as view:
                done = 0
                while done < len(data):
                    done += self._stream.write(view[done:])
        except (OSError, ValueError) as error:
            self._stream.close()
            raise SpillFailed(str(error)) from error
        self._at += len(data)
