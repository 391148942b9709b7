"""The vectors of a snapshot: FAISS files on the volume, written from rows and read back into rows.

    vectors-000.faiss    an `IndexIDMap2` over an `IndexScalarQuantizer` of half precision, for `faiss.read_index`
    sketches-000.faiss   an `IndexBinaryIDMap2` over an `IndexBinaryFlat`, for `faiss.read_index_binary`

Each pair of files has the rows of the next `SEGMENT_ROWS` vectors, under the ids that `catalog.sqlite` gives their
memories, namespace after namespace. Snapshots of earlier versions have `groups.i64` and `vectors.f32` instead: the ids,
and the vectors in single precision. They are read too.

This module does not know manifests beyond the fields that it is given. Above are `snapshots.py` and the doctor.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from indexes import files
from indexes.rows import EncodedRows, in_chunks
from indexes.segments import SEGMENT_ROWS

FILES = "faiss_files"
"""Field of a manifest: how many pairs of FAISS files there are. Manifests of the first format do not have it."""

VECTORS_GLOB = "vectors*"
FIRST_IDS, FIRST_VECTORS = "groups.i64", "vectors.f32"

SYNC_BYTES = 8 << 20
"""Bytes of a large file that are synced at once. Otherwise a store's sync would wait for hundreds of megabytes."""


class UnusableSnapshot(Exception):
    """A snapshot is incomplete, damaged, or of another format or embedder."""

    def __init__(self, message: str, file: str | None = None) -> None:
        """Args:
        message: what is wrong.
        file: where, if it is one file of the snapshot.
        """
        self.message, self.file = message, file
        super().__init__(message if file is None else f"{file} {message}")


def write_rows(parts: Iterable[EncodedRows], folder: Path) -> dict[str, str]:
    """Write rows to a snapshot's folder, synced; the sha256 of each file by its name, two for each pair."""
    sha256: dict[str, str] = {}
    for at, rows in enumerate(in_chunks(parts, SEGMENT_ROWS)):
        vectors, sketches = _names(at)
        with HashedFile(folder / vectors) as vectors_file, HashedFile(folder / sketches) as sketches_file:
            files.write(rows, vectors_file.write, sketches_file.write)
        sha256 |= {vectors: vectors_file.sha256, sketches: sketches_file.sha256}
    return sha256


def read_rows(folder: Path, manifest: Mapping[str, Any]) -> Iterator[EncodedRows]:
    """Yield the rows of a snapshot in pieces, each read only after the checksum of its files was verified.

    Raises:
        UnusableSnapshot: a file is not the one that the manifest vouches for, or is no file of rows.
        OSError: a file cannot be read.
    """
    dim = manifest["embedder"]["dim"]
    if FILES not in manifest:
        yield from _read_first_format(folder, manifest["sha256"], dim)
        return
    for at in range(manifest[FILES]):
        names = _names(at)
        data = [(folder / name).read_bytes() for name in names]
        for name, content in zip(names, data, strict=True):
            require_checksum(name, hashlib.sha256(content).hexdigest(), manifest["sha256"])
        try:
            rows = files.read(data[0], data[1], dim)
        except ValueError as error:
            raise UnusableSnapshot(f"cannot be used: {error}", names[0]) from error
        del data
        yield rows


def require_checksum(name: str, sha256: str, vouched: Mapping[str, str]) -> None:
    """Raise `UnusableSnapshot` unless this is the checksum that a manifest has of a file."""
    if vouched.get(name) != sha256:
        raise UnusableSnapshot("does not match its checksum", name)


def take(rows: Iterator[EncodedRows], counts: Iterable[int]) -> Iterator[Iterator[EncodedRows]]:
    """Yield for each count an iterator over that number of rows, in pieces. Use up each one before asking for the next.

    Raises:
        UnusableSnapshot: there are fewer rows, or more.
    """
    rest: list[EncodedRows] = []

    def next_rows(count: int) -> Iterator[EncodedRows]:
        while count > 0:
            part = rest.pop() if rest else next(rows, None)
            if part is None:
                raise UnusableSnapshot("has fewer vectors than its manifest counts")
            if len(part) > count:
                rest.append(part[count:])
            yield part[:count]
            count -= min(count, len(part))

    for count in counts:
        yield next_rows(count)
    if rest or next(rows, None) is not None:
        raise UnusableSnapshot("has more vectors than its manifest counts")


def _names(at: int) -> tuple[str, str]:
    return f"vectors-{at:03}.faiss", f"sketches-{at:03}.faiss"


def _read_first_format(folder: Path, sha256: Mapping[str, str], dim: int) -> Iterator[EncodedRows]:
    for name in (FIRST_IDS, FIRST_VECTORS):
        require_checksum(name, sha256_of(folder / name), sha256)
    ids = np.fromfile(folder / FIRST_IDS, "<i8")
    with (folder / FIRST_VECTORS).open("rb") as file:
        for begin in range(0, len(ids), SEGMENT_ROWS):
            some = ids[begin : begin + SEGMENT_ROWS]
            vectors = np.fromfile(file, "<f4", len(some) * dim)
            if len(vectors) != len(some) * dim:
                raise UnusableSnapshot("has fewer vectors than there are ids", FIRST_VECTORS)
            yield EncodedRows.encode(some, vectors.reshape(-1, dim))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedFile:
    """A new file, synced when it is closed, whose checksum is taken while it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self._unsynced = 0

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def sha256(self) -> str:
        """The checksum of what was written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        for at in range(0, len(data), SYNC_BYTES):
            part = data[at : at + SYNC_BYTES]
            self._file.write(part)
            self._hash.update(part)
            self._unsynced += len(part)
            if self._unsynced >= SYNC_BYTES:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._unsynced = 0
