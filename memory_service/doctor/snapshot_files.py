"""Snapshots, each by itself: manifest, checksums, rows, SQLite's own check, and the memories that are in it.

It does not know journals: what a snapshot covers of them is read here and judged in `verdict.py`. A snapshot that
cannot be used is described by the first thing that is wrong with it.

Above are `verdict.py` and `examination.py`; below are `entries.py`, `report.py`, the catalog, and the module that
writes snapshots, which brings FAISS and is therefore imported only when a snapshot is looked at.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memory_service.doctor.entries import State, change_of, last_of, vector_fault
from memory_service.doctor.report import REBUILD, SENSELESS, Diagnoses, Diagnosis, counted, place
from memory_service.embedding.embedder import Fingerprint
from memory_service.filters.grammar import EVERYTHING
from memory_service.journal.data_folder import SNAPSHOT_FOLDER
from memory_service.journal.records import FORMAT
from memory_service.projection.catalog import Catalog, UnsoundCatalog, open_copy
from memory_service.projection.catalog_schema import SCHEMAS_READ

if TYPE_CHECKING:  # it brings FAISS
    from memory_service.projection.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class ExaminedSnapshot:
    """A snapshot as far as it can be read.

    Attributes:
        journals: its watermarks; empty when they cannot be read.
        state: None when it is incomplete or unusable.
        is_complete: whether it has a manifest, good or bad.
    """

    path: Path
    journals: Mapping[str, int]
    state: State | None
    is_complete: bool
    findings: tuple[Diagnosis, ...]


class _Unsound(Exception):
    """A snapshot cannot be used."""

    def __init__(self, file: str, why: str, at: int | None = None) -> None:
        self.file, self.why, self.at = file, why, at
        super().__init__(why)


def read_snapshot(path: Path, embedder: Fingerprint | None, scratch: Path | None) -> ExaminedSnapshot:
    """Read and judge a snapshot."""
    found = Diagnoses(f"{SNAPSHOT_FOLDER}/{path.name}")
    if not is_complete(path):
        found.note("incomplete: being written, or a rest of a crash, which a later snapshot removes after an hour")
        return ExaminedSnapshot(path, {}, None, is_complete=False, findings=tuple(found))
    try:
        snapshot = _loaded(path, embedder)
        with open_copy(snapshot.catalog, scratch) as catalog:
            _judge_catalog(catalog, snapshot)
            changes = (change_of(record) for record in catalog.records(snapshot.vectors))
            state = last_of(change for change in changes if change is not None)
    except (_Unsound, UnsoundCatalog, OSError) as error:
        file, why, at = _explained(error)
        found.append(Diagnosis("problem", why, place(f"{found.where}/{file}", at), REBUILD))
        return ExaminedSnapshot(path, _watermarks(path, scratch), None, is_complete=True, findings=tuple(found))
    alive = sum(entry.text is not None for entry in state.values())
    found.ok(f"{counted(alive, 'memory')}, covers {counted(len(snapshot.journals), 'journal')}")
    return ExaminedSnapshot(path, snapshot.journals, state, is_complete=True, findings=tuple(found))


def is_complete(snapshot: Path) -> bool:
    """Return whether it is there and has a manifest, good or bad."""
    from memory_service.projection.snapshots import MANIFEST

    return (snapshot / MANIFEST).exists()


def _explained(error: Exception) -> tuple[str, str, int | None]:
    """File, reason and offset of what makes a snapshot unusable."""
    from memory_service.projection.snapshots import CATALOG

    match error:
        case _Unsound():
            return error.file, error.why, error.at
        case OSError():
            return Path(str(error.filename)).name, f"cannot be read: {error.strerror}", None
        case _:
            return CATALOG, f"SQLite finds: {error}", None


def _loaded(path: Path, embedder: Fingerprint | None) -> "Snapshot":
    """Return the files of a snapshot, each held to its checksum and the rows to the manifest.

    Raises:
        _Unsound, OSError: at the first thing that is wrong.
    """
    from memory_service.projection.snapshot_rows import VECTORS_GLOB, UnusableSnapshot
    from memory_service.projection.snapshots import CATALOG, MANIFEST, Snapshot, read_indexes

    manifest = _manifest(path)
    if manifest["format"] != FORMAT or manifest["schema"] not in SCHEMAS_READ:
        raise _Unsound(MANIFEST, f"format {manifest['format']}, schema {manifest['schema']}: of another version")
    if embedder is not None and manifest["embedder"] != embedder.as_dict():
        raise _Unsound(MANIFEST, f"holds vectors of another embedder, {manifest['embedder'].get('model')}")
    for name in sorted({CATALOG} | manifest["sha256"].keys()):
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"].get(name):
                raise _Unsound(name, "does not match its checksum")
    try:
        indexes, _ = read_indexes(path, manifest)
    except UnusableSnapshot as error:
        raise _Unsound(error.file or MANIFEST, error.message) from error
    for index in indexes.values():
        for rows in index.freeze().rows():
            fault, row = vector_fault(rows.vectors())
            if fault:
                raise _Unsound(VECTORS_GLOB, f"has {fault}, of the memory with id {rows.ids[row]}")
    return Snapshot(path, path / CATALOG, indexes, {}, manifest["next_id"], manifest["journals"])


def _manifest(path: Path) -> dict[str, Any]:
    """Return the manifest, with every field of the type that reading relies on."""
    from memory_service.projection.snapshot_rows import FILES
    from memory_service.projection.snapshots import MANIFEST, SCHEMA_WITHOUT_CHECKSUM, checksum

    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        vouched = manifest.pop("checksum", None)
        found = checksum(manifest)
        for name in ("format", "schema", "next_id", *({FILES} & manifest.keys())):
            manifest[name] = int(manifest[name])
        for name in ("embedder", "journals", "sha256"):
            manifest[name] = dict(manifest[name])
        manifest["embedder"]["dim"] = int(manifest["embedder"]["dim"])
        manifest["namespaces"] = [(str(namespace), int(count)) for namespace, count in manifest["namespaces"]]
    except SENSELESS as error:
        raise _Unsound(MANIFEST, f"cannot be read: {type(error).__name__} {error}") from error
    if vouched != found and not (vouched is None and manifest["schema"] == SCHEMA_WITHOUT_CHECKSUM):
        raise _Unsound(MANIFEST, "does not match its own checksum")
    return dict(manifest)


def _judge_catalog(catalog: Catalog, snapshot: "Snapshot") -> None:
    """Hold the catalog to the vectors and the manifest.

    Raises:
        _Unsound: at the first difference.
    """
    from memory_service.projection.snapshot_rows import VECTORS_GLOB
    from memory_service.projection.snapshots import CATALOG, MANIFEST

    if catalog.watermarks() != snapshot.journals:
        raise _Unsound(MANIFEST, "names other watermarks than the catalog")
    for namespace in catalog.counts().keys() | snapshot.indexes.keys():
        index = snapshot.indexes.get(namespace)
        parts = () if index is None else index.freeze().rows()
        ids = np.unique(np.concatenate([np.empty(0, np.int64), *(rows.ids for rows in parts)]))
        if not np.array_equal(ids, np.sort(catalog.matching_ids(namespace, EVERYTHING))):
            raise _Unsound(VECTORS_GLOB, f"ids of namespace {namespace!r} are not those of {CATALOG}")
        if len(ids) and ids[-1] >= snapshot.next_id:
            raise _Unsound(MANIFEST, f"next_id {snapshot.next_id} is in use already")


def _watermarks(path: Path, scratch: Path | None) -> dict[str, int]:
    """Return what an unusable snapshot covered, if that can still be told: it decides whether it may be removed."""
    from memory_service.projection.snapshots import CATALOG, coverage

    try:
        with open_copy(path / CATALOG, scratch) as catalog:
            return catalog.watermarks()
    except (UnsoundCatalog, OSError):
        return coverage(path) or {}
