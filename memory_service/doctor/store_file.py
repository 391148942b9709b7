"""store.json: whose vectors the folder holds, by which journals and snapshots are then judged.

It knows this one file; of journals and snapshots only whether there are any, since the file may then not be missing.
Above is `examination.py`; below is `report.py`.
"""

import json
from pathlib import Path

from memory_service.doctor.report import SENSELESS, Diagnoses, listed
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.data_folder import JOURNAL_FOLDER, SNAPSHOT_FOLDER, STORE_FILE
from memory_service.journal.records import FORMAT


def read_store(folder: Path) -> tuple[Fingerprint | None, Diagnoses]:
    """Whose vectors the folder holds. Not by `DataFolder`, which tries whether the folder takes writes."""
    found = Diagnoses(STORE_FILE)
    try:
        fields = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            found.problem(f"format {fields['format']}; this version reads {FORMAT}", "Use a version that reads it.")
            return None, found
        embedder = Fingerprint(**fields["embedder"])
    except FileNotFoundError:
        _about_missing_store(folder, found)
        return None, found
    except (OSError, *SENSELESS) as error:
        remedy = "Restore it from a backup, or move it away: the next start writes it anew. The memories are not in it."
        found.problem(f"cannot be read: {error}", remedy)
        return None, found
    found.ok(f"{embedder.model}, {embedder.dim} dimensions, revision {embedder.revision[:12]}")
    return embedder, found


def _about_missing_store(folder: Path, found: Diagnoses) -> None:
    if any((folder / name).is_dir() and listed(folder / name) for name in (JOURNAL_FOLDER, SNAPSHOT_FOLDER)):
        found.problem("is missing", "Start the worker with the embedder that the journals name: it writes it anew.")
    else:
        found.note("is missing: the folder was never used")
