"""What an examination says: findings with their severity and remedy, totals, and whether a repair may be done.

It knows the form of a report and not what is examined: nothing of frames, snapshots or memories. A few small things
that every examiner needs are here too, among them how a place and a number are worded.

Above are the modules that look at files, `verdict.py`, `examination.py`, and the command line, which prints a report.
Below is nothing of ours.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["ok", "note", "problem"]


SENSELESS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a payload raises that has a right checksum and makes no sense."""


REBUILD = "Run the doctor with --repair: it removes this snapshot and writes a fresh one."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        where: path inside the data folder, with the offset where there is one; "." is the folder.
        remedy: what to do about it; empty when there is nothing to do.
    """

    severity: Severity
    what: str
    where: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the folder holds.

    Attributes:
        memories: number of memories in each namespace, expired ones left out.
        tombstones: keys whose last record is a delete.
        records: in the journals that are there.
        bytes: of all files in the folder.
    """

    memories: dict[str, int]
    tombstones: int
    records: int
    journals: int
    snapshots: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of an examination.

    Attributes:
        unusable: names of the snapshots that a repair would remove.
        refusal: why a repair may not be done; None when it may.
    """

    folder: str
    findings: tuple[Diagnosis, ...]
    totals: Totals
    unusable: tuple[str, ...]
    refusal: str | None

    @property
    def problems(self) -> int:
        """How many findings call for action."""
        return sum(finding.severity == "problem" for finding in self.findings)


class RepairRefused(Exception):
    """A repair might lose something, or there is nothing to repair."""


class Diagnoses(list[Diagnosis]):
    """Diagnoses about one place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def ok(self, what: str) -> None:
        """It is as it should be."""
        self.append(Diagnosis("ok", what, self.where))

    def note(self, what: str, remedy: str = "", *, at: int | None = None) -> None:
        """Worth a word, and harmless."""
        self.append(Diagnosis("note", what, place(self.where, at), remedy))

    def problem(self, what: str, remedy: str, *, at: int | None = None) -> None:
        """It calls for action."""
        self.append(Diagnosis("problem", what, place(self.where, at), remedy))


def listed(folder: Path) -> list[Path]:
    """What is in a folder, oldest name first; nothing when there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def place(where: str, at: int | None) -> str:
    """A path inside the data folder, with the offset where there is one."""
    return where if at is None else f"{where}, byte {at}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 journal, 2 journals, 3 memories, 4 replies."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"
