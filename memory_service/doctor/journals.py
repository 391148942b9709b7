"""Examines each journal by itself: its frames, header, records and vectors, and whether a start would read it.

Whether journals and snapshots agree is the subject of `verdict.py`. This module needs no FAISS and writes nothing. A
journal that a compaction removes during the examination is left out.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memory_service.clock import Stamp
from memory_service.doctor.entries import KeyState, Name, change_of, vector_fault
from memory_service.doctor.report import SENSELESS, Diagnoses, Diagnosis, counted
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.data_folder import JOURNAL_FOLDER
from memory_service.journal.files import journal_paths
from memory_service.journal.frames import frames, next_frame
from memory_service.journal.records import Header, Put, Record, RememberedReply, Removal, decode, decode_header

RESTORE = "Restore the file from a backup, or move it away to do without its memories."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedJournal:
    """A journal, as far as it can be read.

    Attributes:
        end: offset behind the last valid frame.
        ends: offsets behind every valid frame.
        changes: (offset behind the record, key, state) of its puts and deletes.
        records: number of records, replies included.
        is_readable: whether a start would read it.
    """

    writer: str
    end: int = 0
    ends: frozenset[int] = frozenset()
    changes: tuple[tuple[int, Name, KeyState], ...] = ()
    records: int = 0
    is_readable: bool
    findings: tuple[Diagnosis, ...]


def read_journals(folder: Path, embedder: Fingerprint | None) -> tuple[list[ExaminedJournal], Diagnoses]:
    """Read and judge all journals; return them, and the findings about their folder."""
    diagnoses = Diagnoses(JOURNAL_FOLDER)
    try:
        paths = journal_paths(folder / JOURNAL_FOLDER)
    except FileNotFoundError:
        if embedder is not None:
            diagnoses.problem("the folder is missing", "Restore it from a backup: journals are the only truth.")
        return [], diagnoses
    except OSError as error:
        diagnoses.problem(f"cannot be listed: {error.strerror}", "Make the folder readable.")
        return [], diagnoses
    journals = [_journal(path, embedder) for path in paths]
    return [journal for journal in journals if journal is not None], diagnoses


def _journal(path: Path, embedder: Fingerprint | None) -> ExaminedJournal | None:
    """Read and judge a journal; None if a compaction has just removed it."""
    diagnoses = Diagnoses(f"{JOURNAL_FOLDER}/{path.name}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        diagnoses.problem(f"cannot be read: {error.strerror}", "Make the file readable.")
        return ExaminedJournal(writer=path.stem, is_readable=False, findings=tuple(diagnoses))
    read = _read(data)
    _judge_records(read, diagnoses)
    # The end is judged only behind a header that a start would accept.
    is_readable = _judge_header(read.header, path.stem, embedder, diagnoses) and _judge_end(data, read, diagnoses)
    if not any(finding.severity == "problem" for finding in diagnoses):
        diagnoses.ok(_contents(read, len(data)))
    return ExaminedJournal(
        writer=path.stem,
        end=read.end,
        ends=frozenset(read.ends),
        changes=tuple(_changes(read.records)),
        records=len(read.records),
        is_readable=is_readable,
        findings=tuple(diagnoses),
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """The frames of a journal, up to the first one that is bad or cannot be decoded.

    Attributes:
        records: each with the offsets of its frame and behind it.
        senseless: why the payload at `end` cannot be decoded; None if something else ended the reading.
    """

    header: Header | None
    records: list[tuple[int, int, Record]]
    ends: list[int]
    senseless: str | None

    @property
    def end(self) -> int:
        return self.ends[-1]


def _read(data: bytes) -> _Read:
    header: Header | None = None
    records: list[tuple[int, int, Record]] = []
    ends = [0]
    for payload, behind in frames(data):
        try:
            if header is None:
                header = decode_header(payload)
            else:
                records.append((ends[-1], behind, decode(payload, header)))
        except SENSELESS as error:
            return _Read(header, records, ends, str(error) or type(error).__name__)
        ends.append(behind)
    return _Read(header, records, ends, None)


def _judge_header(header: Header | None, writer: str, embedder: Fingerprint | None, diagnoses: Diagnoses) -> bool:
    """Return whether a start would accept the header."""
    if header is None:
        return True  # nothing was acknowledged, or `_judge_end` says what is wrong
    if header.writer != writer:
        diagnoses.problem(
            f"its header names another writer, {header.writer}", "Give the file its own name again.", at=0
        )
    elif embedder is not None and header.embedder != embedder:
        what = f"holds vectors of another embedder, {header.embedder.model} (revision {header.embedder.revision[:12]})"
        diagnoses.problem(what, "Move the file away: vectors of two models cannot be compared.", at=0)
    else:
        return True
    return False


def _judge_end(data: bytes, read: _Read, diagnoses: Diagnoses) -> bool:
    """Return whether everything that was acknowledged can be read."""
    rest = len(data) - read.end
    if read.senseless is not None:
        diagnoses.problem(f"a record cannot be decoded: {read.senseless}", RESTORE, at=read.end)
        return False
    if rest and next_frame(data, read.end + 1) is not None:
        what = f"damaged: a bad frame with valid frames behind it; {rest:,} bytes are not read"
        diagnoses.problem(what, RESTORE, at=read.end)
        return False
    if rest:
        what = f"torn tail of {rest:,} bytes: a write in progress or the rest of a crash, which was never acknowledged"
        diagnoses.note(what, at=read.end)
    elif read.header is None:
        diagnoses.note("empty: just made, or the rest of a crash")
    return True


def _judge_records(read: _Read, diagnoses: Diagnoses) -> None:
    """Add what is wrong inside valid frames: one finding for each kind of fault, at its first offset."""
    faults: dict[str, list[int]] = {}
    before: Stamp | None = None
    for at, _, record in read.records:
        if before is not None and record.stamp <= before:
            faults.setdefault("a stamp that is not later than the one before", []).append(at)
        before = record.stamp
        if isinstance(record.mutation, Put) and (fault := _put_fault(record.mutation)):
            faults.setdefault(fault, []).append(at)
    for fault, offsets in faults.items():
        count = "a record has" if len(offsets) == 1 else f"{len(offsets):,} records have, this one first,"
        diagnoses.problem(
            f"{count} {fault}", "Store the memory again, or restore the file from a backup.", at=offsets[0]
        )


def _put_fault(put: Put) -> str | None:
    if not _is_object(put.metadata):
        return "metadata that are not a JSON object"
    return "no vector" if len(put.vectors) == 0 else vector_fault(put.vectors)[0]


def _is_object(metadata: str) -> bool:
    try:
        return isinstance(json.loads(metadata), dict)
    except SENSELESS:
        return False


def _contents(read: _Read, size: int) -> str:
    kinds = Counter(type(record.mutation) for _, _, record in read.records)
    names = {Put: "put", Removal: "delete", RememberedReply: "reply"}
    counts = [counted(kinds[kind], name) for kind, name in names.items() if kinds[kind]]
    return f"{', '.join(counts) or 'no records'} in {size:,} bytes"


def _changes(records: Iterable[tuple[int, int, Record]]) -> Iterator[tuple[int, Name, KeyState]]:
    for _, end, record in records:
        if (change := change_of(record)) is not None:
            yield end, *change
