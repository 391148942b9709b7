"""The journal's files, as readers see them: append-only files in the data folder, the only truth.

The first frame of a file holds its header, and each other frame holds one record. Every process reads all files and
writes files of its own (`writer.py`). `frames.py` knows the bytes, and `records.py` what the payloads mean.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from memory_service.journal.frames import PREFIX_BYTES, next_frame, payload_at
from memory_service.journal.records import Header, Record, decode, decode_header

HEADER_BYTES_MAX = 4096
"""Bytes read to find a header, which has some 250."""

SUFFIX = ".log"


class DamagedJournal(Exception):
    """A journal has a bad frame with valid ones behind it, or a payload that cannot be decoded."""

    def __init__(self, path: Path, offset: int, why: str) -> None:
        self.path, self.offset = path, offset
        super().__init__(f"journal {path} is damaged at byte {offset}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a journal holds behind a known offset.

    Attributes:
        header: None if the file has no complete header yet.
        end: offset behind the last frame that was read; the next read starts here.
        torn_bytes: bytes behind `end`, without a valid frame among them.
        damage: the first damage, at `end`. If damage was passed over, all of it, each before `end`.
    """

    header: Header | None
    records: list[Record]
    end: int
    torn_bytes: int
    damage: tuple[DamagedJournal, ...]


def read_tail(path: Path, offset: int = 0, header: Header | None = None, *, past_damage: Header | None = None) -> Tail:
    """Read a journal from an offset to its end, or to the first damage.

    Args:
        path: the file.
        offset: 0, or the end of a frame.
        header: what an earlier read returned; without it the header is read from the file.
        past_damage: pass over damage, and use this header if the file's own one is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if header is None and offset > 0:
            header = _header(file.read(HEADER_BYTES_MAX)) or past_damage
            if header is None:
                damage = DamagedJournal(path, 0, "its header cannot be read")
                return Tail(header=None, records=[], end=offset, torn_bytes=0, damage=(damage,))
        # Only the part behind the offset is read: a journal has up to 64 MiB, and most reads find a few records.
        file.seek(offset)
        data = file.read()
    contents, damages, position = _Contents(header), list[DamagedJournal](), 0
    while (following := next_frame(data, position)) is not None:
        start, payload = following
        # A frame that does not start here means that the bytes before it are damaged. It is read in the next round.
        fault = "a bad frame is followed by valid ones" if start > position else contents.decode(payload)
        if fault is not None:
            damages.append(DamagedJournal(path, offset + position, fault))
            if past_damage is None:
                return contents.tail(offset + position, 0, damages)
            contents.header = contents.header or past_damage
        position = start if start > position else start + PREFIX_BYTES + len(payload)
    return contents.tail(offset + position, len(data) - position, damages)


@dataclass(slots=True)
class _Contents:
    """The decoded payloads of a journal."""

    header: Header | None
    records: list[Record] = field(default_factory=list)

    def decode(self, payload: bytes) -> str | None:
        """Decode one more payload; return what is wrong with it."""
        try:
            if self.header is None:
                self.header = decode_header(payload)
            else:
                self.records.append(decode(payload, self.header))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return str(error)
        return None

    def tail(self, end: int, torn_bytes: int, damages: list[DamagedJournal]) -> Tail:
        """Return what was read up to an offset."""
        return Tail(header=self.header, records=self.records, end=end, torn_bytes=torn_bytes, damage=tuple(damages))


def _header(data: bytes) -> Header | None:
    """Return the header in a journal's first bytes, if it can be read."""
    contents, payload = _Contents(None), payload_at(data, 0)
    if payload is not None:
        contents.decode(payload)
    return contents.header


def journal_paths(folder: Path) -> list[Path]:
    """Return all journals in a folder, oldest name first.

    Raises:
        OSError: the folder cannot be listed.
    """
    return sorted(folder / name for name in os.listdir(folder) if name.endswith(SUFFIX))


def begun_ms(writer: str) -> int:
    """Return when a journal was begun, which is not later than its stamps; 0 for a name that is not ours."""
    begun = writer.partition("-")[0]
    return int(begun) if begun.isdecimal() else 0
