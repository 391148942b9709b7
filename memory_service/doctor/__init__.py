"""The doctor: examines a data folder without writing to it, and on request rebuilds its snapshots.

It examines each file by itself (frames, checksums, vectors, SQLite's own check), and whether the files agree. It
computes the memories again from the records alone, without the projection's code. So a fault of that code shows as a
difference, and so does a snapshot that was changed together with its checksum.

    examination.py          the examination of a folder, and the repair
    verdict.py              whether the files agree
    store_file.py, journals.py, snapshot_files.py
                            each file by itself
    entries.py, report.py   what is compared, and what is reported

Each module imports only from the lines below it. Journals are read without FAISS; only snapshots need the module that
writes them.
"""

from memory_service.doctor.examination import examine, plan, repair
from memory_service.doctor.report import Diagnosis, RepairRefused, Report, Severity, Totals, counted

__all__ = ["Diagnosis", "RepairRefused", "Report", "Severity", "Totals", "counted", "examine", "plan", "repair"]
