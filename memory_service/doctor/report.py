"""The report of an examination: findings with severity and remedy, totals, and whether a repair is possible.

This module knows the form of a report and nothing of frames, snapshots or memories. It also has the few functions that
all examining modules need.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["ok", "note", "problem"]


SENSELESS = (ValueError, KeyError, TypeError, AttributeError)
"""Errors of decoding a payload whose checksum is right and whose contents are not."""


REBUILD = "Run the doctor with --repair: it removes this snapshot and writes a fresh one."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The finding about one thing that was examined.

    Attributes:
        where: path inside the data folder, and the offset if there is one; "." is the folder itself.
        remedy: what to do about it; empty if there is nothing to do.
    """

    severity: Severity
    what: str
    where: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The numbers of what a folder holds.

    Attributes:
        memories: number of memories in each namespace, without expired ones.
        tombstones: number of keys whose last record is a delete.
        records: number of records in the journals.
        bytes: size of all files in the folder.
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
        refusal: why a repair is refused; None if it is possible.
    """

    folder: str
    findings: tuple[Diagnosis, ...]
    totals: Totals
    unusable: tuple[str, ...]
    refusal: str | None

    @property
    def problems(self) -> int:
        """Number of findings that need action."""
        return sum(finding.severity == "problem" for finding in self.findings)


class RepairRefused(Exception):
    """A repair might lose something, or there is nothing to repair."""


class Diagnoses(list[Diagnosis]):
    """The findings about one place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def ok(self, what: str) -> None:
        """Add that something is in order."""
        self.append(Diagnosis("ok", what, self.where))

    def note(self, what: str, remedy: str = "", *, at: int | None = None) -> None:
        """Add something harmless that the operator may want to know."""
        self.append(Diagnosis("note", what, place(self.where, at), remedy))

    def problem(self, what: str, remedy: str, *, at: int | None = None) -> None:
        """Add something that needs action."""
        self.append(Diagnosis("problem", what, place(self.where, at), remedy))


def entries_in(folder: Path) -> list[Path]:
    """Return the entries of a folder, oldest name first; none if there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def place(where: str, at: int | None) -> str:
    """Return a path inside the data folder, with the offset if there is one."""
    return where if at is None else f"{where}, byte {at}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 journal, 2 journals, 3 memories, 4 replies."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"
