"""The structure of a namespace: who spoke in each memory, when, and in which session.

A memory's neighbours, the memories before and after it in its session, are evidence for it. The metadata `session_id`
(a text that is not empty, or a whole number), `speaker`, `event_time` (ISO 8601) and `importance` (a number, limited to
0 to 1) are read; other values under these names are ignored. Memories without a session form two lines: those with an
`event_time` in its order, where a long pause begins a session, and the others in the order in which they were stored.
How alike neighbours are decides how much they count (`retrieval/ranking.py`). Where no memory names its speaker, a name
that recurs before a colon ("Caroline: ...") is a speaker.

Neighbours, sessions and speakers depend on the living memories alone. They do not depend on the order in which a worker
read these memories, nor on memories that are gone. Of two memories of the same time, the one with the earlier record is
first.

Rows are those of the namespace's lexical index. One writer at a time and any number of readers. A reader may meet a
neighbour that was just replaced, which changes the rank of a result and nothing else.
"""

import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_service.clock import Stamp
from memory_service.namespaces.words import STOP_WORDS, words

NONE = -1

SESSION_PAUSE_MS = 4 * 3600 * 1000
"""A longer pause between two events begins another session where none is given."""

LABELS_MIN, LABELS_SHARE_MIN = 3, 0.02
"""A name before a colon is a speaker when at least 3 memories, and 2 % of all, begin with it."""

CALLS_MIN, CALLS_SHARE_MIN, CALLED_SHARE_MIN, LOWER_SHARE_MAX = 3, 0.01, 0.3, 0.1
"""A capitalised word is a name when at least 3 memories address somebody by it ("Thanks, Caroline!"), which are 1 % of
all and 30 % of those that mention it, and when at most a tenth as many write it in lower case."""

_LABEL = re.compile(r"(?:^|[\d\])|,.;-]\s*)([^\W\d_][\w'.-]*(?: [^\W\d_][\w'.-]*){0,2})$")
_LABEL_CHARS_MAX = 80
# Both patterns begin with a capital letter and check what precedes it afterwards, so that they skip other text quickly.
_ADDRESSED = re.compile(
    r"[^\W\d_a-z](?:(?<=\A.)|(?<=[,.!?;] .)|(?<=\b[Hh]ey .)|(?<=\b[Hh]i .)|(?<=\b[Hh]ello .)|(?<=\b[Tt]hanks .))"
    r"[^\W\d_A-Z]{2,}(?=[,!.?;]|$)"
)
_TITLE = re.compile(r"[^\W\d_a-z](?<!\w.)[^\W\d_A-Z]{2,}\b")
_TIMES = """
    yesterday today tonight tomorrow last ago next week weeks weekend month months year years recently since morning
    monday tuesday wednesday thursday friday saturday sunday
    january february march april june july august september october november december"""
_TIMELY = frozenset(_TIMES.split())
_YEAR_DIGITS = 4
ASKS, TIMELY, GIVEN, TIMED = 1, 2, 4, 8
"""Flags of a row: it has a question mark; it names a time; its session was given; its event time was given."""

CALLED, MENTIONED = "!", "^"
"""Prefixes of a name in the lexical index: a text addresses somebody by it; a text has the word with a capital."""

_TIMED_LINE, _STORED_LINE = -2, -1
"""Lines of the memories without a session. One is ordered by event time, the other by the time of storing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_MIN = 8
"""Rows of the first allocation. It is small, because there may be thousands of small namespaces."""

OBJECT_BYTES = 2_000
ROW_BYTES = 6
SESSION_BYTES = 250
NAME_BYTES = 500
"""Estimated memory of an empty structure, of one row in its line, of one given session and of one name."""

_NUMBERED = ("before", "after", "session", "speaker", "label")
_PLAIN = ("flags", "time_ms", "created_ms", "importance", "turn", "stamp_hash")

_COUNTER_BITS = 20

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Text:
    """A memory's text and metadata, from which words and structure are taken.

    Attributes:
        content: the text.
        metadata: the fields that the caller stored with it.
        created_at_ms: when the first version was stored.
        stamp: stamp of this version.
    """

    content: str
    metadata: Mapping[str, object]
    created_at_ms: int
    stamp: Stamp


class Conversation:
    """The structure of one namespace.

    Attributes:
        before, after: (capacity,) int32, the neighbouring rows in the session, or NONE.
        session: (capacity,) int32, the number of the session.
        speaker: (capacity,) int32, the number of the speaker that was given, or NONE.
        label: (capacity,) int32, the number of the name before the first colon, or NONE.
        flags: (capacity,) uint8.
        time_ms: (capacity,) int64, the time of the event, or of storing.
        created_ms: (capacity,) int64, the time of storing.
        importance: (capacity,) float32, 0 to 1.
        turn: (capacity,) int64, ascending with the stamps of all writers.
        stamp_hash: (capacity,) uint32, as if drawn at random, but the same in every worker.
        speakers, labels: the names behind the numbers.
        sessions: number of sessions.
    """

    __slots__ = ("_given", "_numbers", "_order", "_rows", "labels", "sessions", "speakers", *_NUMBERED, *_PLAIN)

    def __init__(self) -> None:
        self.before = np.full(_ROWS_MIN, NONE, np.int32)
        self.after = np.full(_ROWS_MIN, NONE, np.int32)
        self.session = np.full(_ROWS_MIN, NONE, np.int32)
        self.speaker = np.full(_ROWS_MIN, NONE, np.int32)
        self.label = np.full(_ROWS_MIN, NONE, np.int32)
        self.flags = np.zeros(_ROWS_MIN, np.uint8)
        self.time_ms = np.zeros(_ROWS_MIN, np.int64)
        self.created_ms = np.zeros(_ROWS_MIN, np.int64)
        self.importance = np.zeros(_ROWS_MIN, np.float32)
        self.turn = np.zeros(_ROWS_MIN, np.int64)
        self.stamp_hash = np.zeros(_ROWS_MIN, np.uint32)
        self.speakers, self.labels = Names(), Names()
        self.sessions = 0
        self._rows = 0
        self._given: dict[str, int] = {}
        self._numbers = 0
        self._order: dict[int, array[int]] = {}

    @property
    def nbytes(self) -> int:
        """Return the estimated memory in bytes."""
        arrays: int = sum(getattr(self, name).nbytes for name in _NUMBERED + _PLAIN)
        names = len(self.speakers) + len(self.labels)
        objects = OBJECT_BYTES + len(self._given) * SESSION_BYTES + names * NAME_BYTES
        return arrays + len(self.flags) * ROW_BYTES + objects

    def add(self, row: int, text: Text, found: list[str], event_ms: int | None) -> None:
        """Add the next row.

        Args:
            row: its number in the lexical index.
            text: its text and metadata.
            found: the words of the text.
            event_ms: the time of its event; None when it has none.
        """
        if row == len(self.flags):
            self._grow()
        content, metadata, session_id = text.content, text.metadata, _session_id(text.metadata)
        self.created_ms[row] = text.created_at_ms
        self.time_ms[row] = text.created_at_ms if event_ms is None else event_ms
        self.importance[row] = _importance(metadata)
        # The stamp's milliseconds and its counter in one int64, so that comparing turns compares stamps.
        self.turn[row] = (text.stamp.ms << _COUNTER_BITS) + text.stamp.counter
        self.stamp_hash[row] = zlib.crc32(repr(text.stamp).encode())
        self.flags[row] = (
            ASKS * ("?" in content)
            | TIMELY * _names_time(found)
            | GIVEN * (session_id is not None)
            | TIMED * (event_ms is not None)
        )
        self.speaker[row] = self.speakers.add(_speaker(metadata))
        self.label[row] = self.labels.add(_label_of(content))
        self._rows += 1
        if session_id is not None:
            self.session[row] = self._given[session_id] = self._given.get(session_id, self._numbers)
            self._numbers = max(self._numbers, int(self.session[row]) + 1)
        self._enter(row)

    def remove(self, row: int) -> None:
        """Take a living row out of its session."""
        order = self._order[self._line(row)]
        del order[self._place(order, row)]
        self.speakers.remove(int(self.speaker[row]))
        self.labels.remove(int(self.label[row]))
        self._rows -= 1
        before, after = int(self.before[row]), int(self.after[row])
        if before == after == NONE:
            self.sessions -= 1  # it was alone in its session
        elif NONE not in (before, after) and self._are_apart(before, after):
            self._split(before, after)
        else:
            self._connect(before, after)

    @property
    def are_given(self) -> bool:
        """Whether any memory since the last compaction had a `session_id`."""
        return bool(self._given)

    def given(self, rows: NDArray[np.int64]) -> Bools:
        """Return which rows (n,) had a `session_id`."""
        return self.flags[rows] & GIVEN > 0

    def capped(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the session (n,) of each row; NONE for rows with neither a session nor an event time."""
        return np.where(self.flags[rows] & (GIVEN | TIMED) > 0, self.session[rows], NONE)

    def known(self) -> tuple["Names", NDArray[np.int32], float]:
        """Return the speakers' names, the number (capacity,) of each row's speaker, and the least rows of a speaker.

        The speakers are those that metadata name, or else the labels that recur.
        """
        if self.speakers.count(1):
            return self.speakers, self.speaker, 1
        return self.labels, self.label, max(LABELS_MIN, LABELS_SHARE_MIN * self._rows)

    def addressed(self, question: str, count: Callable[[str], int], stemmed: Callable[[str], str]) -> set[str]:
        """Return the words of a question by which texts address somebody, in lower case.

        Args:
            question: any text.
            count: returns the number of texts with a term or mark.
            stemmed: returns the term of a word.
        """
        least = max(CALLS_MIN, CALLS_SHARE_MIN * self._rows)
        found = set()
        for name in _title_words(question):
            called = count(CALLED + name)
            if called < least:
                continue
            mentioned = count(MENTIONED + name)
            # Texts address somebody by a name often enough, and seldom write the word in lower case.
            if (
                called >= CALLED_SHARE_MIN * mentioned
                and count(stemmed(name)) - mentioned <= LOWER_SHARE_MAX * mentioned
            ):
                found.add(name)
        return found

    def state(self, alive: Bools) -> dict[str, Any]:
        """Return the living rows, numbered from 0, for `over`; `alive` is (count,).

        Rows may be added and removed at the same time, since nothing that is read here changes. Names without a living
        row are left out.
        """
        rows = np.flatnonzero(alive)  # (n,) the living rows, which become 0 to n - 1
        is_given = self.given(rows)
        ids = {number: id for id, number in dict(self._given).items()}
        # (n,) numbers without gaps, and the name of each number. Sessions found by pauses are found again by `over`.
        sessions, given = _renumber(np.where(is_given, self.session[rows], NONE), ids)
        speaker, speakers = _renumber(self.speaker[rows], dict(enumerate(self.speakers.all())))
        label, labels = _renumber(self.label[rows], dict(enumerate(self.labels.all())))
        columns = (sessions, speaker, label, *(getattr(self, name)[rows] for name in _PLAIN))
        return {
            "columns": [(column.dtype.str, column.tobytes()) for column in columns],
            "names": [given, speakers, labels],
        }

    @classmethod
    def over(cls, state: Mapping[str, Any]) -> "Conversation":
        """Make the structure of rows from their `state`."""
        talk = cls()
        columns = [np.frombuffer(data, dtype).copy() for dtype, data in state["columns"]]
        for name, column in zip(("session", "speaker", "label", *_PLAIN), columns, strict=True):
            setattr(talk, name, column)
        ids, speakers, labels = state["names"]
        talk._given = {id: number for number, id in enumerate(ids)}
        talk.speakers, talk.labels = Names.over(speakers, talk.speaker), Names.over(labels, talk.label)
        talk._rows = len(talk.flags)
        talk._arrange()
        return talk

    def compacted(self, alive: Bools) -> "Conversation":
        """Return the structure of the living rows, numbered from 0; `alive` is (count,)."""
        return Conversation.over(self.state(alive))

    def _arrange(self) -> None:
        """Arrange all rows in lines and in sessions."""
        # (n,) the line of each row: its given session, or one of the two lines of rows without a session.
        line = np.where(self.flags & GIVEN > 0, self.session, np.where(self.flags & TIMED, _TIMED_LINE, _STORED_LINE))
        # (n,) all rows, line by line, each line in the order of `_key`. lexsort's last key is the primary one.
        order = np.lexsort((self.stamp_hash, self.turn, self.created_ms, self.time_ms, line)).astype(np.int32)
        line = line[order]
        # (n - 1,) whether a session goes on from one row to the next: both are of one line, without a long pause.
        is_paused = (line[1:] == _TIMED_LINE) & (np.diff(self.time_ms[order]) > SESSION_PAUSE_MS)
        is_linked = (line[1:] == line[:-1]) & ~is_paused
        # (n,) the neighbours of each row, from the pairs that are linked.
        self.before, self.after = np.full_like(order, NONE), np.full_like(order, NONE)
        self.before[order[1:][is_linked]] = order[:-1][is_linked]
        self.after[order[:-1][is_linked]] = order[1:][is_linked]
        # (sessions,) the positions in `order` at which a session begins.
        begins = np.flatnonzero(np.r_[True, ~is_linked][: len(order)])
        self.sessions = len(begins)
        # (sessions,) the number of each session: a given one keeps its own, the others get the numbers after those.
        is_ours = line[begins] < 0
        number = line[begins].astype(np.int32)
        number[is_ours] = len(self._given) + np.arange(is_ours.sum())
        self._numbers = len(self._given) + int(is_ours.sum())
        # (n,) every row gets its session's number, which is repeated once for each row of the session.
        self.session[order] = np.repeat(number, np.diff(np.r_[begins, len(order)]))
        # The rows of each line in their order. (lines,) are the lines and their first positions in `order`.
        lines, first = np.unique(line, return_index=True)
        parts = np.split(order, first[1:]) if len(first) else []
        self._order = {at: array("i", part.tobytes()) for at, part in zip(lines.tolist(), parts, strict=True)}

    def _line(self, row: int) -> int:
        """Return the line of a row."""
        flags = self.flags[row]
        return int(self.session[row]) if flags & GIVEN else _TIMED_LINE if flags & TIMED else _STORED_LINE

    def _place(self, order: "array[int]", row: int) -> int:
        return bisect_left(order, self._key(row), key=self._key)

    def _key(self, row: int) -> tuple[int, int, int, int, int]:
        return int(self.time_ms[row]), int(self.created_ms[row]), int(self.turn[row]), int(self.stamp_hash[row]), row

    def _enter(self, row: int) -> None:
        line = self._line(row)
        order = self._order.setdefault(line, array("i"))
        at = self._place(order, row)
        # The neighbours in the line are neighbours in the session unless a pause lies between.
        before = order[at - 1] if at and not self._are_apart(order[at - 1], row) else NONE
        after = order[at] if at < len(order) and not self._are_apart(row, order[at]) else NONE
        order.insert(at, row)
        if before == after == NONE:
            # The row begins a session. A given session has its number already.
            self.sessions += 1
            if line < 0:
                self.session[row] = self._fresh_number()
        else:
            self.session[row] = self.session[after if before == NONE else before]
        self._connect(before, row)
        self._connect(row, after)
        if NONE not in (before, after) and self.session[before] != self.session[after]:
            self._unite(before, row, after)

    def _are_apart(self, row: int, later: int) -> bool:
        """Return whether a pause separates two rows of a line."""
        is_paused = self.time_ms[later] - self.time_ms[row] > SESSION_PAUSE_MS
        return bool(is_paused) and self._line(row) == _TIMED_LINE

    def _connect(self, before: int, after: int) -> None:
        if before != NONE:
            self.after[before] = after
        if after != NONE:
            self.before[after] = before

    def _unite(self, before: int, row: int, after: int) -> None:
        """Join two sessions that a new row connects."""
        # The smaller session takes the number of the larger one, so few rows are renumbered.
        fewer = self._fewer(before, after)
        self.session[[row, *fewer]] = self.session[after if fewer[0] == before else before]
        self.sessions -= 1

    def _split(self, before: int, after: int) -> None:
        """Split a session between two rows."""
        self.after[before] = self.before[after] = NONE
        self.session[self._fewer(before, after)] = self._fresh_number()
        self.sessions += 1

    def _fewer(self, left: int, right: int) -> list[int]:
        """Return the rows of a session up to `left`, or those from `right` on, whichever are fewer."""
        # Both ways take turns, so this takes as many steps as the shorter side has rows.
        lefts, rights = [left], [right]
        while True:
            left, right = int(self.before[left]), int(self.after[right])
            if left == NONE:
                return lefts
            if right == NONE:
                return rights
            lefts.append(left)
            rights.append(right)

    def _fresh_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _grow(self) -> None:
        # Readers keep the old arrays. Each new one is filled before it is published.
        capacity = max(_ROWS_MIN, len(self.flags) * 3 // 2)
        for name in _NUMBERED + _PLAIN:
            old = getattr(self, name)
            fresh = np.full(capacity, NONE if name in _NUMBERED else 0, old.dtype)
            fresh[: len(old)] = old
            setattr(self, name, fresh)


class Names:
    """Names, each with a number and with the number of rows that have it."""

    __slots__ = ("_by_word", "_counts", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._counts: array[int] = array("i")
        self._by_word: dict[str, list[str]] = {}

    def __len__(self) -> int:
        """Return the number of names, also of those without rows."""
        return len(self._numbers)

    @classmethod
    def over(cls, names: list[str], column: NDArray[np.int32]) -> "Names":
        """Make names in the order of their numbers; `column` (n,) has the number of each row or NONE."""
        made = cls()
        for name in names:
            made._number(name)
        # (names,) the number of rows with each name.
        made._counts = array("i", np.bincount(column[column != NONE], minlength=len(names)).tolist())
        return made

    def add(self, name: str | None) -> int:
        """Count a row with this name and return the name's number; NONE for no name."""
        if name is None:
            return NONE
        number = self._number(name)
        self._counts[number] += 1
        return number

    def remove(self, number: int) -> None:
        """Count a row with this number less; NONE is ignored."""
        if number != NONE:
            self._counts[number] -= 1

    def all(self) -> list[str]:
        """Return the names in the order of their numbers, also those without rows."""
        return list(self._numbers)

    def count(self, least: float) -> int:
        """Return the number of names that at least `least` rows have."""
        # (names,) a copy of the counts, because an array with a view on it cannot grow.
        return int((np.frombuffer(self._counts.tobytes(), np.int32) >= least).sum())

    def of(self, found: Collection[str], least: float) -> set[str]:
        """Return the names with one of these words and at least `least` rows."""
        named = {name for word in found for name in tuple(self._by_word.get(word, ()))}
        return {name for name in named if self._counts[self._numbers[name]] >= least}

    def numbers(self, names: Collection[str]) -> list[int]:
        """Return the numbers of those of these names that are known."""
        return [self._numbers[name] for name in names if name in self._numbers]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._counts.append(0)
            self._numbers[name] = len(self._numbers)
            for word in name_words(name):
                self._by_word.setdefault(word, []).append(name)
        return self._numbers[name]


def marks(content: str) -> set[str]:
    """Return the marks of a text, which `Conversation.addressed` counts."""
    called = {CALLED + name.lower() for name in _ADDRESSED.findall(content)}
    return called | {MENTIONED + name for name in _title_words(content)}


def name_words(name: str) -> set[str]:
    """Return the words of a name, without stop words."""
    return set(words(name)) - STOP_WORDS


def event_time_ms(metadata: Mapping[str, object]) -> int | None:
    """Return the `event_time` in milliseconds; None unless it is an ISO 8601 time of the years 1 to 9999 in UTC."""
    raw = metadata.get("event_time")
    if not isinstance(raw, str):
        return None
    try:
        moment = datetime.fromisoformat(raw)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _session_id(metadata: Mapping[str, object]) -> str | None:
    # A bool is an int in Python, but it names no session.
    raw = metadata.get("session_id")
    is_given = isinstance(raw, str | int) and not isinstance(raw, bool) and raw != ""
    return str(raw) if is_given else None


def _speaker(metadata: Mapping[str, object]) -> str | None:
    raw = metadata.get("speaker")
    return raw if isinstance(raw, str) and raw else None


def _importance(metadata: Mapping[str, object]) -> float:
    raw = metadata.get("importance")
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return 0.0
    return min(1.0, max(0.0, raw))


def _names_time(found: list[str]) -> bool:
    """Return whether one of these words names a time or a year."""
    return not _TIMELY.isdisjoint(found) or any(len(word) == _YEAR_DIGITS and word.isdecimal() for word in found)


def _title_words(text: str) -> set[str]:
    """Return the capitalised words of a text, in lower case."""
    return {name.lower() for name in _TITLE.findall(text)}


def _label_of(content: str) -> str | None:
    """Return the name before the first colon, as in "8 May, 2023 Caroline: hello"; None when there is none."""
    head, colon, _ = content[:_LABEL_CHARS_MAX].partition(": ")
    found = _LABEL.search(head) if colon else None
    return found.group(1) if found else None


def _renumber(column: NDArray[np.int32], names: Mapping[int, str]) -> tuple[NDArray[np.int32], list[str]]:
    """Return a column (n,) with numbers from 0 for the names in use, and these names."""
    # (names,) the numbers in use, ascending; the position of a number among them is its fresh number.
    used = np.unique(column[column != NONE])
    fresh = np.where(column == NONE, NONE, np.searchsorted(used, column)).astype(np.int32)
    return fresh, [names[number] for number in used.tolist()]
