"""The data folder: where the truth is kept, and whether this process can use it.

    <data_dir>/store.json      format version and the embedder whose vectors the folder holds
    <data_dir>/journal/        one file per writer (`files.py`)
    <data_dir>/snapshots/      what makes a start quick (`snapshots.py`)
    <data_dir>/compacted       an empty file: journals were removed, so the others alone do not hold everything

A folder that cannot be used ends the start with one plain line (`StartupError`).
"""

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path

from memory_service.embedding.embedder import Fingerprint
from memory_service.embedding.minilm import FINGERPRINTS
from memory_service.journal.records import FORMAT
from memory_service.journal.writer import sync_folder
from vector_memory.errors import StartupError

STORE_FILE = "store.json"
JOURNAL_FOLDER = "journal"
SNAPSHOT_FOLDER = "snapshots"
COMPACTED_FILE = "compacted"

PROBE_BYTES = 64 << 10
"""Bytes of a trial write: more than most stores write, so that a disk with one free block fails it."""


class DataFolder:
    """A folder that exists and takes writes. A full disk is accepted, because reads still work."""

    def __init__(self, path: Path) -> None:
        """Make the folder if it is missing and its parent is there.

        Raises:
            StartupError: the volume is not mounted, the folder is a file, or the folder takes no writes.
        """
        self.path = path
        self.journal = path / JOURNAL_FOLDER
        self.snapshots = path / SNAPSHOT_FOLDER
        if not path.absolute().parent.is_dir():
            raise StartupError(
                f"{path.absolute().parent} does not exist: is the volume mounted? "
                "Mount it, point MEMORY_DATA_DIR elsewhere, or set MEMORY_EPHEMERAL=true to keep nothing."
            )
        try:
            self.journal.mkdir(parents=True, exist_ok=True)
            self.probe()
        except OSError as error:
            # A full disk still serves reads, so the worker starts; writes are refused until there is space.
            if not (error.errno == errno.ENOSPC and self.journal.is_dir()):
                raise StartupError(f"The data folder {path} cannot be used: {error.strerror or error}.") from error

    def probe(self) -> None:
        """Write, sync and remove a file among the journals, as a trial of what every store does.

        Raises:
            OSError: the folder takes no writes.
        """
        probe = self.journal / f".probe-{secrets.token_hex(6)}"
        try:
            write_synced(probe, bytes(PROBE_BYTES))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def embedder(self) -> Fingerprint | None:
        """Return the embedder that made the folder's vectors; None for a folder that was never used.

        Raises:
            StartupError: `store.json` is unreadable, corrupt, or of another format.
        """
        path = self.path / STORE_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"{path} cannot be read: {error}.") from error
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise StartupError(f"{path} is of format {fields['format']}; this version reads format {FORMAT}.")
            return Fingerprint(**fields["embedder"])
        except (ValueError, KeyError, TypeError) as error:
            raise StartupError(
                f"{path} is corrupt; the memories in {self.journal} are not touched by that. Restore the file from a "
                "backup, or move it away and start with the same embedder, which writes it again."
            ) from error

    def require(self, embedder: Fingerprint) -> None:
        """Refuse a folder whose vectors another embedder made.

        Raises:
            StartupError: the message names the other embedder, or says why `store.json` cannot be read.
        """
        held = self.embedder()
        if held is not None and held != embedder:
            raise StartupError(mismatch(self.path / STORE_FILE, held, embedder))

    @property
    def is_compacted(self) -> bool:
        """Whether journals were removed, so that only a snapshot holds everything."""
        return (self.path / COMPACTED_FILE).exists()

    def mark_compacted(self) -> None:
        """Note durably that journals are about to be removed.

        Raises:
            OSError: the folder takes no writes.
        """
        if not self.is_compacted:
            with contextlib.suppress(FileExistsError):
                write_synced(self.path / COMPACTED_FILE, b"")
            sync_folder(self.path)

    def claim(self, embedder: Fingerprint) -> None:
        """Write down which embedder makes the folder's vectors, unless it is written already.

        Raises:
            StartupError: the folder holds vectors of another embedder, or the file cannot be written.
        """
        if self.embedder() is None:
            self._write_store_file(embedder)
        self.require(embedder)

    def _write_store_file(self, embedder: Fingerprint) -> None:
        # The rename is atomic. If two processes do this at once, one of them wins, and both compare afterwards.
        fresh = self.path / f".{STORE_FILE}-{secrets.token_hex(6)}"
        fields = {"format": FORMAT, "embedder": embedder.as_dict()}
        try:
            write_synced(fresh, json.dumps(fields, indent=2).encode())
            fresh.rename(self.path / STORE_FILE)
            sync_folder(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise StartupError(f"The data folder {self.path} cannot be used: {error.strerror or error}.") from error


def mismatch(where: Path, held: Fingerprint | None, running: Fingerprint) -> str:
    """Return the operator's sentence for vectors of another model."""
    return (
        f"{where} holds vectors of {_named(held)}, but this worker embeds with {_named(running)}; vectors of two "
        f"models cannot be compared. Start with {_choice(held)}, or point MEMORY_DATA_DIR to a new folder and store "
        "the memories again."
    )


def _named(fingerprint: Fingerprint | None) -> str:
    if fingerprint is None:
        return "an unknown model"
    return f"{fingerprint.model} ({fingerprint.dim} dimensions, revision {fingerprint.revision[:12]})"


def _choice(held: Fingerprint | None) -> str:
    """Return the settings that choose this embedder."""
    if held is None:
        return "the embedder that made the folder"
    for precision, fingerprint in FINGERPRINTS.items():
        if held == fingerprint:
            return f"MEMORY_EMBEDDER=minilm and MEMORY_EMBEDDING_PRECISION={precision}"
    return (
        f"MEMORY_EMBEDDER=sentence-transformers:{held.model}, the model's name or its folder, "
        f"whose weights must have the sha256 {held.revision}"
    )


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:  # a write may be short
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
