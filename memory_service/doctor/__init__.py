"""The doctor: examines a data folder without writing to it, and on request rebuilds its snapshots.

Two things are looked at: each file by itself (frames, checksums, vectors, SQLite's own check), and whether the files
tell one story. The memories are computed again here, from the records alone and without the projection's code, so
that a fault of that code, or a snapshot that was changed together with its checksum, shows as a difference.

    examination.py          the whole, and the repair
    verdict.py              whether the files tell one story
    store_file.py, journals.py, snapshot_files.py
                            each file by itself
    entries.py, report.py   what is compared, and what is said

Each imports only from below. Above is the command line. Journals are read without FAISS; only looking at snapshots
needs the module that writes them.
"""

from memory_service.doctor.examination import examine, plan, repair
from memory_service.doctor.report import Diagnosis, RepairRefused, Report, Severity, Totals, counted

__all__ = ["Diagnosis", "RepairRefused", "Report", "Severity", "Totals", "counted", "examine", "plan", "repair"]
