"""What memories of a namespace have to do with each other, as far as they say: who spoke, when, and in which session.

A memory has neighbours, the ones before and after it in its session, and these are evidence for it. Recognised are the
metadata `session_id`, `speaker` and `event_time` (ISO 8601); where no memory has a session, all are taken for one, in
the order of `event_time` and then of storing, and how alike neighbours are decides how much they count
(`ranking.py`). Where no memory names its speaker, a name that recurs before a colon ("Caroline: ...") is one.

Rows are those of the namespace's lexical index. One writer at a time, any number of readers: a reader may meet a
neighbour of a moment ago, which changes no result but its rank.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_service.words import STOP_WORDS, words

NONE = -1

SESSION_PAUSE_MS = 4 * 3600 * 1000
"""Where no session is given, a longer pause between two events begins another."""

LABELS_MIN, LABELS_SHARE_MIN = 3, 0.02
"""A name before a colon is a speaker when so many memories begin with it, and this share of them."""

CALLS_MIN, CALLS_SHARE_MIN, CALLED_SHARE_MIN, LOWER_SHARE_MAX = 3, 0.01, 0.3, 0.1
"""A capitalised word is a name when so many memories address somebody by it ("Thanks, Caroline!"), this share of them,
this share of those that mention it, and when it is hardly ever written in lower case."""

_LABEL = re.compile(r"(?:^|[\d\])|,.;-]\s*)([^\W\d_][\w'.-]*(?: [^\W\d_][\w'.-]*){0,2})$")
_LABEL_CHARS_MAX = 80
_ADDRESSED = re.compile(
    r"(?:^|(?<=[,.!?;] )|(?<=\b[Hh]ey )|(?<=\b[Hh]i )|(?<=\b[Hh]ello )|(?<=\b[Tt]hanks ))"
    r"([^\W\d_a-z][^\W\d_A-Z]{2,})(?=[,!.?;]|$)"
)
_TITLE = re.compile(r"\b[^\W\d_a-z][^\W\d_A-Z]{2,}\b")
_TIMELY = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|last|ago|next|weeks?|weekend|months?|years?"
    r"|(mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|january|february|march|april|june|july|august|september|october|november|december"
    r"|recently|since|morning|\d{4})\b",
    re.IGNORECASE,
)
ASKS, TIMELY, GIVEN = 1, 2, 4
"""Flags of a row: it has a question mark; it names a time; its session was given."""

_ROWS_MIN = 16


class Conversation:
    """The structure of one namespace.

    Attributes:
        before, after: (capacity,) int32, the neighbouring rows in the session, or NONE.
        session: (capacity,) int32, a number for each.
        speaker: (capacity,) int32, the number of the speaker that was given, or NONE.
        label: (capacity,) int32, the number of the name before the first colon, or NONE.
        names: of speakers, and of those that texts address.
        sessions: how many numbers of sessions there are.
        are_given: whether any memory had a `session_id`.
        flags: (capacity,) uint8.
        time_ms: (capacity,) int64, of the event, or of the storing.
    """

    def __init__(self) -> None:
        self.before = np.full(_ROWS_MIN, NONE, np.int32)
        self.after = np.full(_ROWS_MIN, NONE, np.int32)
        self.session = np.full(_ROWS_MIN, NONE, np.int32)
        self.speaker = np.full(_ROWS_MIN, NONE, np.int32)
        self.label = np.full(_ROWS_MIN, NONE, np.int32)
        self.flags = np.zeros(_ROWS_MIN, np.uint8)
        self.time_ms = np.zeros(_ROWS_MIN, np.int64)
        self.names = Names()
        self.sessions = 0
        self.are_given = False
        self._given: dict[str, int] = {}
        self._order: dict[int, list[int]] = {}

    def add(self, row: int, content: str, metadata: Mapping[str, object], created_at_ms: int) -> None:
        """Take note of the next row."""
        if row == len(self.flags):
            self._grow()
        event_ms = event_time_ms(metadata)
        self.time_ms[row] = created_at_ms if event_ms is None else event_ms
        self.flags[row] = ASKS * ("?" in content) | TIMELY * (_TIMELY.search(content) is not None)
        self.speaker[row], self.label[row] = self.names.add(content, metadata.get("speaker"))
        given = metadata.get("session_id")
        if isinstance(given, str | int) and not isinstance(given, bool):
            self.flags[row] |= GIVEN
            self.are_given = True
            self._link(row, self._number(str(given)), by_pause=False)
        else:
            self._link(row, NONE, by_pause=event_ms is not None)

    def remove(self, row: int) -> None:
        """Take a row out of its session."""
        before, after = int(self.before[row]), int(self.after[row])
        if before != NONE:
            self.after[before] = after
        if after != NONE:
            self.before[after] = before
        order = self._order[self._line(row)]
        at = bisect_left(order, self._key(row), key=self._key)
        if at < len(order) and order[at] == row:
            del order[at]

    def state(self) -> dict[str, Any]:
        """What `over` makes it of again: plain values and the bytes of arrays."""
        arrays = {name: (getattr(self, name).dtype.str, getattr(self, name).tobytes()) for name in ARRAYS}
        lines = {line: np.array(order, "<i4").tobytes() for line, order in self._order.items() if order}
        numbers = {"sessions": self.sessions, "are_given": self.are_given, "given": self._given}
        return {"arrays": arrays, "lines": list(lines.items()), "names": self.names.state(), **numbers}

    @classmethod
    def over(cls, state: Mapping[str, Any]) -> "Conversation":
        """The structure that had this state."""
        talk = cls()
        for name, (dtype, data) in state["arrays"].items():
            setattr(talk, name, np.frombuffer(data, dtype).copy())
        talk._order = {line: np.frombuffer(data, "<i4").tolist() for line, data in state["lines"]}
        talk.sessions, talk.are_given, talk._given = state["sessions"], state["are_given"], state["given"]
        talk.names = Names.over(state["names"])
        return talk

    def given(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) which rows had a `session_id`."""
        return self.flags[rows] & GIVEN > 0

    def compacted(self, alive: NDArray[np.bool_]) -> "Conversation":
        """The structure of the rows that are alive, (count,), with rows from 0; others may be added meanwhile."""
        fresh = Conversation()
        fresh.names, fresh.sessions, fresh.are_given = self.names, self.sessions, self.are_given
        fresh._given = dict(self._given)
        number = np.where(alive, np.cumsum(alive) - 1, NONE).astype(np.int32)
        for name in ARRAYS:
            values = getattr(self, name)[: len(alive)][alive]
            if name in ("before", "after"):
                known = (values != NONE) & (values < len(alive))
                values = np.where(known, number[np.where(known, values, 0)], NONE).astype(np.int32)
            setattr(fresh, name, values)
        for line, order in list(self._order.items()):
            rows = np.array(order, np.int64)
            fresh_rows = number[rows[rows < len(alive)]]
            fresh._order[line] = fresh_rows[fresh_rows != NONE].tolist()
        return fresh

    def _number(self, session_id: str) -> int:
        if session_id not in self._given:
            self._given[session_id] = self.sessions
            self.sessions += 1
        return self._given[session_id]

    def _line(self, row: int) -> int:
        """What the row is in line with: its session if it was given, or else all that have none."""
        return int(self.session[row]) if self.flags[row] & GIVEN else NONE

    def _key(self, row: int) -> tuple[int, int]:
        return int(self.time_ms[row]), row

    def _link(self, row: int, session: int, *, by_pause: bool) -> None:
        order = self._order.setdefault(session, [])
        at = bisect_left(order, self._key(row), key=self._key)
        before = order[at - 1] if at else NONE
        after = order[at] if at < len(order) else NONE
        order.insert(at, row)
        if session == NONE:
            before, after = (self._unless_paused(row, other, by_pause=by_pause) for other in (before, after))
            session = self._session_of(before, after)
        self.session[row] = session
        self.before[row], self.after[row] = before, after
        if before != NONE:
            self.after[before] = row
        if after != NONE:
            self.before[after] = row

    def _unless_paused(self, row: int, other: int, *, by_pause: bool) -> int:
        is_apart = by_pause and other != NONE and abs(self.time_ms[row] - self.time_ms[other]) > SESSION_PAUSE_MS
        return NONE if is_apart else other

    def _session_of(self, before: int, after: int) -> int:
        for neighbour in (before, after):
            if neighbour != NONE:
                return int(self.session[neighbour])
        self.sessions += 1
        return self.sessions - 1

    def _grow(self) -> None:
        capacity = max(_ROWS_MIN, len(self.flags) * 3 // 2)
        for name in ARRAYS:
            old = getattr(self, name)
            fresh = np.full(capacity, 0 if name in ("flags", "time_ms") else NONE, old.dtype)
            fresh[: len(old)] = old
            setattr(self, name, fresh)


ARRAYS = ("before", "after", "session", "speaker", "label", "flags", "time_ms")


class Names:
    """Who speaks, and who is spoken to.

    Attributes:
        speakers: their numbers.
        labels: the numbers of names before a colon.
    """

    def __init__(self) -> None:
        self.speakers: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self._texts = 0
        self._labelled: Counter[str] = Counter()
        self._called: Counter[str] = Counter()
        self._mentioned: Counter[str] = Counter()

    def add(self, content: str, speaker: object) -> tuple[int, int]:
        """Take note of a text; the numbers of its speaker and its label, or NONE."""
        self._texts += 1
        self._called.update({name.lower() for name in _ADDRESSED.findall(content)})
        self._mentioned.update({name.lower() for name in _TITLE.findall(content)})
        label = _label_of(content)
        if label is not None:
            self._labelled[label] += 1
        return _numbered(self.speakers, speaker if isinstance(speaker, str) and speaker else None), _numbered(
            self.labels, label
        )

    def state(self) -> list[Any]:
        """What `over` makes it of again."""
        counters = [dict(counter) for counter in (self._labelled, self._called, self._mentioned)]
        return [self.speakers, self.labels, self._texts, *counters]

    @classmethod
    def over(cls, state: list[Any]) -> "Names":
        """The names that had this state."""
        names = cls()
        names.speakers, names.labels, names._texts, *counters = state
        names._labelled, names._called, names._mentioned = map(Counter, counters)
        return names

    def are_given(self) -> bool:
        """Whether any memory names its speaker; otherwise labels do."""
        return bool(self.speakers)

    def known(self) -> dict[str, int]:
        """The speakers and their numbers: given ones, or else labels that recur."""
        if self.speakers:
            return self.speakers
        least = max(LABELS_MIN, LABELS_SHARE_MIN * self._texts)
        return {label: number for label, number in self.labels.items() if self._labelled[label] >= least}

    def addressed(self, question: str, in_any_case: Mapping[str, int]) -> set[str]:
        """The words of a question that texts address somebody by, in lower case.

        Args:
            question: any text.
            in_any_case: in how many texts each of its capitalised words is, whatever its case.
        """
        least = max(CALLS_MIN, CALLS_SHARE_MIN * self._texts)
        return {
            name
            for name in title_words(question)
            if self._called[name] >= max(least, CALLED_SHARE_MIN * self._mentioned[name])
            and in_any_case.get(name, 0) - self._mentioned[name] <= LOWER_SHARE_MAX * self._mentioned[name]
        }


def title_words(text: str) -> set[str]:
    """The capitalised words of a text, in lower case."""
    return {name.lower() for name in _TITLE.findall(text)}


def name_words(name: str) -> set[str]:
    """The words by which somebody is named."""
    return set(words(name)) - STOP_WORDS


def event_time_ms(metadata: Mapping[str, object]) -> int | None:
    """When it happened, by `event_time`; None when that is missing or no ISO 8601 time."""
    raw = metadata.get("event_time")
    if not isinstance(raw, str):
        return None
    try:
        moment = datetime.fromisoformat(raw)
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _label_of(content: str) -> str | None:
    """The name that a text such as "8 May, 2023 Caroline: hello" begins with."""
    head, colon, _ = content[:_LABEL_CHARS_MAX].partition(": ")
    found = _LABEL.search(head) if colon else None
    return found.group(1) if found else None


def _numbered(numbers: dict[str, int], name: str | None) -> int:
    return NONE if name is None else numbers.setdefault(name, len(numbers))
