"""Examines store.json, which names the embedder that made the folder's vectors.

If it is missing, this module also looks whether there are journals or snapshots, because then it must not be missing.
"""

import json
from pathlib import Path

from memory_service.doctor.report import SENSELESS, Diagnoses, entries_in
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.data_folder import JOURNAL_FOLDER, SNAPSHOT_FOLDER, STORE_FILE
from memory_service.journal.records import FORMAT


def read_store(folder: Path) -> tuple[Fingerprint | None, Diagnoses]:
    """Return the embedder of the folder, and the findings about store.json."""
    # `DataFolder` is not used, because it writes to the folder as a trial.
    diagnoses = Diagnoses(STORE_FILE)
    try:
        fields = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            diagnoses.problem(f"format {fields['format']}; this version reads {FORMAT}", "Use a version that reads it.")
            return None, diagnoses
        embedder = Fingerprint(**fields["embedder"])
    except FileNotFoundError:
        _about_missing_store(folder, diagnoses)
        return None, diagnoses
    except (OSError, *SENSELESS) as error:
        remedy = "Restore it from a backup, or move it away: the next start writes it again. It holds no memories."
        diagnoses.problem(f"cannot be read: {error}", remedy)
        return None, diagnoses
    diagnoses.ok(f"{embedder.model}, {embedder.dim} dimensions, revision {embedder.revision[:12]}")
    return embedder, diagnoses


def _about_missing_store(folder: Path, diagnoses: Diagnoses) -> None:
    if any((folder / name).is_dir() and entries_in(folder / name) for name in (JOURNAL_FOLDER, SNAPSHOT_FOLDER)):
        diagnoses.problem(
            "is missing", "Start the worker with the embedder that the journals name, which writes it again."
        )
    else:
        diagnoses.note("is missing: the folder was never used")
