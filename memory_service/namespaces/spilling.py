"""Indexes on local disk: what RAM has no room for, in a private folder that is gone with the process.

A file is written once and never changed; whoever holds an extent of it can read that for as long as they hold it. The
last one to let go removes the file. So a snapshot that is being written needs no word with those who evict and load.

This module knows files and checksums, of local disk alone; `resident.py` says what lies here and when.
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
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from indexes.group_index import GroupIndex, Groups
from indexes.segments import SEGMENT_ROWS, room_for
from memory_service.embedding.embedder import Vectors
from memory_service.namespaces.index import FrozenIndex, NamespaceIndex, unpacked, unpacked_texts
from memory_service.private_folder import PrivateFolder

log = logging.getLogger(__name__)

COPY_BYTES = 1 << 20

WAITING_ROWS_MAX = 256
"""A start leaves a namespace of so many vectors on disk until somebody asks: loading it takes a millisecond or two."""

ROW_OVERHEAD_BYTES = 1_000
"""What a vector's memory takes beside it, about, where nobody has counted its words yet."""


class Unspillable(Exception):
    """Local disk takes nothing at the moment."""


class SpillFile:
    """A file that goes with the last object that speaks of it.

    By `__del__`, since `weakref.finalize` would take more memory for each of thousands than the rest of it.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self, unlink: Callable[[str], None] = os.unlink) -> None:
        try:
            unlink(self.path)
        except OSError:
            return  # the folder went before


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file, and their CRC-32."""

    file: SpillFile
    begin: int
    size: int
    crc: int

    def open(self) -> BinaryIO:
        """The file, at its begin.

        Raises:
            OSError: it cannot be opened.
        """
        file = Path(self.file.path).open("rb", buffering=0)  # noqa: SIM115 - the caller closes it
        file.seek(self.begin)
        return file

    def part(self, file: BinaryIO, begin: int, size: int) -> "Extent":
        """Some bytes of the file, which is open.

        Raises:
            OSError: it cannot be read.
        """
        return Extent(self.file, begin, size, zlib.crc32(os.pread(file.fileno(), size, begin)))

    def read_into(self, arrays: Sequence["np.ndarray[Any, Any]"]) -> None:
        """Fill contiguous arrays, which take all of it.

        Raises:
            OSError: it cannot be read, or is not what was written.
        """
        crc = 0
        with self.open() as file:
            for array in arrays:
                target = array.reshape(-1).view(np.uint8).data
                while target and (count := file.readinto(target)):  # type: ignore[attr-defined] # raw files have it
                    crc = zlib.crc32(target[:count], crc)
                    target = target[count:]
        self._check(crc)

    def chunks(self, first: int = 0) -> Iterator[bytes]:
        """All of it: the first so many bytes at once, then chunk by chunk.

        Raises:
            OSError: as `read_into`; the last chunk may be out by then.
        """
        crc, (whole, rest) = 0, divmod(self.size - first, COPY_BYTES)
        with self.open() as file:
            for size in (first, *[COPY_BYTES] * whole, rest):
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
        memories: how many there are.
        count: of their vectors.
        rows: the ids, little-endian, then the vectors, float32.
        texts: words and structure, as `FrozenIndex.packed_texts` packs them; None where they must be made anew.
    """

    memories: int
    count: int
    rows: Extent
    texts: Extent | None

    def arrays(self, dim: int) -> tuple[Groups, list[Vectors]]:
        """The ids (count,), and the vectors in the pieces of `room_for`.

        Raises:
            OSError: they cannot be read.
        """
        groups, parts = np.empty(self.count, dtype="<i8"), room_for(self.count, dim)
        self.rows.read_into([groups, *filled(parts, self.count)])
        return groups, parts

    def loaded(self, dim: int) -> NamespaceIndex:
        """The index; without words and structure where there are none here.

        Raises:
            OSError: it cannot be read.
        """
        texts = None if self.texts is None else unpacked_texts(unpacked(b"".join(self.texts.chunks())))
        return NamespaceIndex(GroupIndex.over(dim, *self.arrays(dim)), texts)

    def vectors(self, id: int) -> Vectors:
        """The vectors of one memory, without a look at the others', and so at their checksum.

        Raises:
            OSError: they cannot be read.
        """
        with self.rows.open() as file:
            groups = np.frombuffer(file.read(self.count * 8), "<i8")
            begin, end = (int(np.searchsorted(groups, id, side=side)) for side in ("left", "right"))
            row_bytes = (self.rows.size - len(groups) * 8) // max(1, len(groups))
            file.seek(len(groups) * 8 + begin * row_bytes + self.rows.begin)
            return np.frombuffer(file.read((end - begin) * row_bytes), "<f4").reshape(end - begin, row_bytes // 4)

    def packed_texts(self) -> Iterator[bytes]:
        """As of a `FrozenIndex`.

        Raises:
            OSError: they cannot be read.
        """
        assert self.texts is not None, "words that another version indexed are indexed anew at the start"
        return self.texts.chunks()

    def row_chunks(self) -> Iterator[bytes]:
        """The ids at once, then the vectors chunk by chunk.

        Raises:
            OSError: they cannot be read.
        """
        return self.rows.chunks(first=self.count * 8)


def filled(parts: Sequence[Vectors], count: int) -> list[Vectors]:
    """The first `count` rows of what `room_for` gave."""
    return [part[: count - at * SEGMENT_ROWS] for at, part in enumerate(parts)]


class Spill:
    """The folder of these files, made when it is first needed, and how much may stay in RAM."""

    def __init__(self, parent: Path | None = None, budget_bytes: float = 0) -> None:
        """Args:
        parent: on local disk; default: the system's temporary folder.
        budget_bytes: of indexes in RAM; 0 for as many as there are.
        """
        self.budget_bytes = budget_bytes or float("inf")
        self._parent = parent
        self._private: PrivateFolder | None = None
        self._making = threading.Lock()
        self._numbers = itertools.count()

    def writer(self) -> "SpillWriter":
        """A new file.

        Raises:
            Unspillable: local disk takes none.
        """
        try:
            with self._making:
                self._private = self._private or PrivateFolder(self._parent)
            return SpillWriter(SpillFile(str(self._private.path / f"{next(self._numbers)}.index")))
        except OSError as error:
            raise Unspillable(str(error)) from error

    def write(self, index: FrozenIndex) -> Spilled:
        """Write one index to a file of its own.

        Raises:
            Unspillable: local disk does not take it; nothing of it is left.
        """
        parts = index.dense.parts()
        with self.writer() as writer:
            rows = writer.extent(
                itertools.chain(
                    (part.groups().astype("<i8", copy=False).data for part in parts),
                    (part.vectors().astype("<f4", copy=False).data for part in parts),
                )
            )
            return Spilled(len(index), len(index.dense), rows, writer.extent(index.packed_texts()))

    def close(self) -> None:
        """Remove everything."""
        if self._private is not None:
            self._private.close()
            self._private = None


class Aside:
    """Takes namespaces aside while a snapshot is read: small ones, and those for which RAM has no room.

    They come one after the other and lie in one file: thousands of files would take a second.

    Attributes:
        spilled: those that it took.
    """

    def __init__(self, spill: Spill | None, dim: int) -> None:
        """Args:
        spill: where to; None takes nothing.
        dim: of the vectors.
        """
        self.spilled: dict[str, Spilled] = {}
        self._spill = spill
        self._row_bytes = dim * 4 + ROW_OVERHEAD_BYTES
        self._left_bytes = 0.0 if spill is None else spill.budget_bytes
        self._writer: SpillWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def takes(self, namespace: str, groups: Groups, parts: Sequence[Vectors]) -> bool:
        """Take a namespace's ids (n,) and vectors (as `room_for(n, dim)` gives room for them), or leave it in RAM."""
        weight_bytes = len(groups) * self._row_bytes
        if self._spill is None or (len(groups) > WAITING_ROWS_MAX and weight_bytes <= self._left_bytes):
            self._left_bytes -= weight_bytes
            return False
        try:
            self._writer = self._writer or self._spill.writer()
            rows = self._writer.extent([groups.data, *(part.data for part in filled(parts, len(groups)))])
        except Unspillable as error:
            log.warning("index.kept", extra={"reason": str(error)})
            self._spill = None
            return False
        memories = int(np.count_nonzero(np.diff(groups, prepend=-1)))
        self.spilled[namespace] = Spilled(memories, len(groups), rows, None)
        return True


class SpillWriter:
    """Writes a file, extent after extent. What an extent was given for is on disk, not in a buffer."""

    def __init__(self, file: SpillFile) -> None:
        """Raises:
        OSError: it cannot be made.
        """
        self._file = file
        self._stream = Path(file.path).open("xb", buffering=0)  # noqa: SIM115 - `close` does
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more will be written."""
        self._stream.close()

    def extent(self, parts: Iterable["bytes | memoryview[Any]"]) -> Extent:
        """Write what these give.

        Raises:
            Unspillable: local disk does not take it; nothing more can be written to this file.
        """
        begin, crc, waiting = self._at, 0, bytearray()
        for part in parts:
            whole = memoryview(part)
            for at in range(0, whole.nbytes, COPY_BYTES):
                piece = whole.cast("B")[at : at + COPY_BYTES]
                crc = zlib.crc32(piece, crc)
                waiting += piece
                if len(waiting) >= COPY_BYTES:
                    self._write(waiting)
                    waiting = bytearray()
        self._write(waiting)
        return Extent(self._file, begin, self._at - begin, crc)

    def _write(self, data: bytearray) -> None:
        try:
            with memoryview(data) as whole:
                done = 0
                while done < len(data):
                    done += self._stream.write(whole[done:])
        except (OSError, ValueError) as error:
            self._stream.close()
            raise Unspillable(str(error)) from error
        self._at += len(data)
