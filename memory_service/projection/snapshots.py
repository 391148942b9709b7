"""Snapshots: a projection written to the data folder, so that a start need not replay every journal.

    <data_dir>/snapshots/<made_at_ms>-<random>/
        catalog.sqlite     the catalog, with the watermarks of the journals that it covers
        vectors-000.faiss  the vectors under the ids of their memories, and
        sketches-000.faiss their sketches; see `snapshot_rows.py`
        texts.msgpack      for each namespace its words and structure, as `namespaces/index.py` packs them
        MANIFEST.json      format, embedder, namespaces with their counts, how far each journal is covered, sha256 of
                           each file and of the manifest itself; written last

A snapshot is a convenience, never the truth: one that is incomplete or does not match its manifest is passed over, with
a word in the log, for the one before it and at last for the journals alone. The two newest are kept.

This module knows files and checksums. `catalog.py` and `indexes` know what is in them.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

from indexes.group_index import GroupIndex
from memory_service.clock import wall_ms
from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.journal.data_folder import write_synced
from memory_service.journal.files import SUFFIX
from memory_service.journal.records import FORMAT
from memory_service.journal.writer import sync_folder
from memory_service.namespaces.index import PACKED_VALUES, PACKED_VERSION, FrozenIndex, Texts, unpacked, unpacked_texts
from memory_service.namespaces.spilling import Extent, Spill, Spilled, SpillFailed, StartingSpill
from memory_service.projection.catalog import FrozenCatalog
from memory_service.projection.catalog_schema import SCHEMA_VERSION, SCHEMAS_READ
from memory_service.projection.snapshot_rows import (
    FILES,
    VECTORS_GLOB,
    HashedFile,
    UnusableSnapshot,
    read_rows,
    require_checksum,
    sha256_of,
    take,
    write_rows,
)

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
CATALOG = "catalog.sqlite"
TEXTS = "texts.msgpack"
KEPT = 2
ABANDONED_S = 3600
"""Seconds for which a folder without a manifest counts as being written. After that it is left over from a crash."""

COPY_BYTES = 1 << 20
SCHEMA_WITHOUT_CHECKSUM = 1
"""Manifests of this schema had no checksum of their own."""


@dataclass(frozen=True, slots=True)
class FrozenProjection:
    """A projection as it was at one moment; later changes do not reach it.

    Attributes:
        indexes: from RAM, or where they are on local disk.
    """

    catalog: FrozenCatalog
    indexes: dict[str, FrozenIndex | Spilled]
    next_id: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose files match its manifest.

    Attributes:
        catalog: path of the catalog's file.
        indexes: the vectors of each namespace.
        texts: for each namespace its words and structure; none of them where another version made them.
        next_id: the first id that no memory of the snapshot ever had.
        journals: how far each journal is covered.
        spilled: namespaces that are in none of the former, since they were copied to local disk.
    """

    path: Path
    catalog: Path
    indexes: dict[str, GroupIndex]
    texts: dict[str, Texts]
    next_id: int
    journals: dict[str, int]
    spilled: dict[str, Spilled] = field(default_factory=dict)

    def vectors(self, namespace: str, id: int) -> Vectors:
        """Return the vectors of one memory.

        Raises:
            OSError: they are on local disk, and cannot be read.
        """
        spilled = self.spilled.get(namespace)
        return self.indexes[namespace].vectors(id) if spilled is None else spilled.vectors(id)


def write(frozen: FrozenProjection, folder: Path, journal_folder: Path, embedder: Fingerprint, scratch: Path) -> Path:
    """Write a snapshot and remove those that it makes superfluous.

    Args:
        frozen: closed in the end.
        folder: of the snapshots.
        journal_folder: of the journals that they cover.
        embedder: whose vectors they are.
        scratch: a folder on local disk, since SQLite does not write to the volume.

    Raises:
        OSError: the folder takes no writes; nothing of the attempt is left.
    """
    path = folder / f"{wall_ms():013d}-{secrets.token_hex(6)}"
    local = scratch / f"snapshot-{path.name}.sqlite"
    try:
        frozen.catalog.write(local)
        path.mkdir(parents=True)
        _write_files(frozen, path, embedder, local)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        local.unlink(missing_ok=True)
        frozen.catalog.close()
    with contextlib.suppress(OSError):  # the next one tries again
        _remove_superfluous(folder, journal_folder)
    return path


def usable(folder: Path, embedder: Fingerprint, spill: Spill | None = None) -> Iterator[Snapshot]:
    """Yield the snapshots that can be used, newest first. The log names the others.

    Other workers may take snapshots at the same time, which push out the ones listed before. So each step lists again.

    Args:
        folder: the folder of the snapshots.
        embedder: whose vectors they are to hold.
        spill: takes small namespaces, and those beyond its budget; None reads all into RAM.
    """
    tried: set[Path] = set()
    while fresh := [path for path in _complete(folder) if path not in tried]:
        path = fresh[-1]
        tried.add(path)
        try:
            yield _read(path, embedder, spill)
        except (UnusableSnapshot, OSError) as error:
            log.warning("snapshot.rejected", extra={"snapshot": path.name, "reason": str(error)})


def covered_by_all(folder: Path) -> dict[str, int]:
    """Return how far each journal is covered by all the kept snapshots; nothing while there are fewer than are kept."""
    covered = [coverage(path) or {} for path in _complete(folder)[-KEPT:]]
    if len(covered) < KEPT:
        return {}
    shared = set.intersection(*(set(journals) for journals in covered))
    return {writer: min(journals[writer] for journals in covered) for writer in shared}


def names(folder: Path) -> tuple[str, ...]:
    """Return the complete snapshots, oldest first; by them alone it can be told whether there is a new one."""
    return tuple(path.name for path in _complete(folder))


def folders(folder: Path) -> list[Path]:
    """The folders of all snapshots, oldest first: also those that are being written, or were when a crash came."""
    try:
        return sorted(folder / name for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def coverage(path: Path) -> dict[str, int] | None:
    """Return how far a snapshot covers each journal; None for one that is damaged or gone.

    Raises:
        OSError: it cannot be read, which may pass.
    """
    try:
        return dict(_manifest(path)["journals"])
    except (UnusableSnapshot, FileNotFoundError):
        return None


def uncovered(journals: Mapping[str, int], by: Mapping[str, int]) -> list[str]:
    """Return the journals that are covered further here than there."""
    return [writer for writer, end in journals.items() if by.get(writer, 0) < end]


def is_gone(writers: Collection[str], journal_folder: Path) -> bool:
    """Whether one of these journals is not there any more; by the listing, since attributes may be of a second ago."""
    return bool(writers) and not {f"{writer}{SUFFIX}" for writer in writers} <= set(os.listdir(journal_folder))


def _write_files(frozen: FrozenProjection, path: Path, embedder: Fingerprint, catalog: Path) -> None:
    rows = write_rows((rows for index in frozen.indexes.values() for rows in index.rows()), path)
    with HashedFile(path / TEXTS) as texts_file:
        for namespace, index in frozen.indexes.items():
            texts_file.write(msgpack.packb(namespace))
            for packed in index.packed_texts():
                texts_file.write(packed)
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "words": PACKED_VERSION,
        "embedder": embedder.as_dict(),
        "next_id": frozen.next_id,
        "journals": frozen.catalog.watermarks(),
        "namespaces": [(namespace, index.vector_count) for namespace, index in frozen.indexes.items()],
        FILES: len(rows) // 2,
        "sha256": {CATALOG: _copy(catalog, path / CATALOG), **rows, TEXTS: texts_file.sha256},
    }
    partial = path / f".{MANIFEST}"
    write_synced(partial, json.dumps({**manifest, "checksum": checksum(manifest)}).encode())
    partial.rename(path / MANIFEST)
    sync_folder(path)


def _read(path: Path, embedder: Fingerprint, spill: Spill | None) -> Snapshot:
    manifest = _manifest(path)
    if manifest["format"] != FORMAT or manifest["schema"] not in SCHEMAS_READ:
        raise UnusableSnapshot("it is of another format")
    if manifest["embedder"] != embedder.as_dict():
        raise UnusableSnapshot("it holds vectors of another embedder")
    with ThreadPoolExecutor(1) as beside:
        catalog_sha256 = beside.submit(sha256_of, path / CATALOG)
        indexes, spilled = read_indexes(path, manifest, spill)
        packed: bytes | Extent = b""
        if TEXTS in manifest["sha256"]:
            packed, texts_sha256 = _read_texts(path / TEXTS, spill if spilled else None)
            require_checksum(TEXTS, texts_sha256, manifest["sha256"])
        require_checksum(CATALOG, catalog_sha256.result(), manifest["sha256"])
    if manifest.get("words") != PACKED_VERSION:
        packed = b""
    texts: dict[str, Texts] = {}
    if isinstance(packed, Extent):
        _share_texts(packed, texts, spilled)
    elif packed:
        texts = dict(_texts(packed))
        # local disk has no room for the words: what was copied to it goes back to RAM
        indexes |= {
            name: GroupIndex.of_rows(embedder.dim, one.rows(), one.vector_count) for name, one in spilled.items()
        }
        spilled = {}
    return Snapshot(path, path / CATALOG, indexes, texts, manifest["next_id"], manifest["journals"], spilled)


def _texts(data: bytes) -> Iterator[tuple[str, Texts]]:
    values = unpacked(data)
    for namespace in values:
        yield namespace, unpacked_texts(values)


def _read_texts(path: Path, spill: Spill | None) -> "tuple[bytes | Extent, str]":
    """Return the file of all words and structure, in RAM or copied to local disk, and its sha256."""
    if spill is not None:
        hashed = hashlib.sha256()
        with path.open("rb") as file, contextlib.suppress(SpillFailed), spill.writer() as writer:
            copy = writer.extent(_hashed(file, hashed))
            return copy, hashed.hexdigest()
    data = path.read_bytes()
    return data, hashlib.sha256(data).hexdigest()


def _hashed(file: BinaryIO, hashed: "hashlib._Hash") -> Iterator[bytes]:
    while chunk := file.read(COPY_BYTES):
        hashed.update(chunk)
        yield chunk


def _share_texts(packed: Extent, texts: dict[str, Texts], spilled: dict[str, Spilled]) -> None:
    """Of a copy of the file of words and structure, unpack those of namespaces in RAM, and find those of the others."""
    with packed.open() as file:
        values = msgpack.Unpacker(file, read_size=COPY_BYTES, max_buffer_size=0, strict_map_key=False)
        for namespace in values:
            if namespace not in spilled:
                texts[namespace] = unpacked_texts(values)
                continue
            begin = values.tell()
            for _ in range(PACKED_VALUES):
                values.skip()
            found = packed.part(file, begin, values.tell() - begin)
            spilled[namespace] = replace(spilled[namespace], texts=found)


def read_indexes(
    path: Path, manifest: Mapping[str, Any], spill: Spill | None = None
) -> tuple[dict[str, GroupIndex], dict[str, Spilled]]:
    """Return the vectors of each namespace, in RAM or copied to local disk.

    Raises:
        UnusableSnapshot: the files are not those that the manifest vouches for and counts.
        OSError: a file cannot be read.
    """
    dim, namespaces = manifest["embedder"]["dim"], manifest["namespaces"]
    indexes: dict[str, GroupIndex] = {}
    shares = take(read_rows(path, manifest), [count for _, count in namespaces])
    with StartingSpill(spill, dim) as starting:
        for (namespace, count), rows in zip(namespaces, shares, strict=True):
            held = list(rows) if starting.wants(count) else None
            if held is not None and starting.take(namespace, held):
                continue
            try:
                indexes[namespace] = GroupIndex.of_rows(dim, held or rows, count)
            except ValueError as error:
                raise UnusableSnapshot(f"is not usable in namespace {namespace!r}: {error}", VECTORS_GLOB) from error
    return indexes, starting.spilled


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        vouched = manifest.pop("checksum", None)
        missing = {"format", "schema", "embedder", "next_id", "journals", "namespaces", "sha256"} - set(manifest)
    except (ValueError, TypeError) as error:
        raise UnusableSnapshot(f"its manifest cannot be read: {error}") from error
    if missing:
        raise UnusableSnapshot("its manifest lacks fields")
    if vouched != checksum(manifest) and not (vouched is None and manifest["schema"] == SCHEMA_WITHOUT_CHECKSUM):
        raise UnusableSnapshot("its manifest does not match its own checksum")
    return dict(manifest)


def checksum(manifest: Mapping[str, Any]) -> str:
    """What a manifest says of itself under `checksum`: the sha256 of its other fields, in their order of name."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _complete(folder: Path) -> list[Path]:
    """Snapshots with a manifest, oldest first.

    Raises:
        OSError: that cannot be found out.
    """
    return [path for path in folders(folder) if _is_file(path / MANIFEST)]


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remove_superfluous(folder: Path, journal_folder: Path) -> None:
    """Remove all but the newest complete snapshots, and incomplete ones that nobody can be writing any more.

    An older one stays while it alone covers something: a worker may write a snapshot of what it knows just when
    another has compacted more than that.
    """
    complete = _complete(folder)
    old_ms = wall_ms() - ABANDONED_S * 1000
    incomplete = [path for path in folders(folder) if path not in complete and path.name < f"{old_ms:013d}"]
    kept = [coverage(path) or {} for path in complete[-KEPT:]]
    older = [
        path
        for path in complete[:-KEPT]
        if not any(is_gone(uncovered(coverage(path) or {}, by), journal_folder) for by in kept)
    ]
    for path in [*older, *incomplete]:
        (path / MANIFEST).unlink(missing_ok=True)  # first, so that nobody starts to read it
        shutil.rmtree(path, ignore_errors=True)


def _copy(source: Path, target: Path) -> str:
    """Copy a file, synced; its sha256."""
    with source.open("rb") as reading, HashedFile(target) as writing:
        while chunk := reading.read(COPY_BYTES):
            writing.write(chunk)
    return writing.sha256
