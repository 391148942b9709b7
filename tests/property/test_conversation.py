"""The structure of a namespace against one that is computed anew from the memories that are left.

Numbers of sessions and of names differ, and mean nothing: compared is who is in one session with whom, and who is
called what.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zlib import crc32

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.clock import Stamp
from memory_service.namespaces.conversation import (
    ASKS,
    LABELS_MIN,
    LABELS_SHARE_MIN,
    NONE,
    TIMELY,
    Conversation,
    Text,
    event_time_ms,
    marks,
)
from memory_service.namespaces.words import words

HOUR_MS = 3600 * 1000
START = datetime(2023, 5, 8, tzinfo=UTC)


@st.composite
def memories(draw):
    metadata = {}
    if draw(st.booleans()):
        metadata["session_id"] = draw(st.sampled_from(["s1", "s2", 3, "3", "", None, True, 1.5, ["s1"]]))
    if draw(st.booleans()):
        hours = draw(st.integers(0, 40))
        metadata["event_time"] = draw(st.sampled_from([(START + timedelta(hours=hours)).isoformat(), "nan", 5]))
    if draw(st.booleans()):
        metadata["speaker"] = draw(st.sampled_from(["Ann", "Bob Lee", "", 7]))
    content = draw(st.sampled_from(["Cleo: hello", "Dov: when?", "it was yesterday", "Hey Cleo, hi", "plain"]))
    return content, metadata, draw(st.integers(0, 30)) * HOUR_MS


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), memories()),
        st.tuples(st.just("add"), memories()),
        st.tuples(st.just("remove"), st.integers(0, 60)),
        st.tuples(st.sampled_from(["compact", "pack"]), st.none()),
    ),
    max_size=60,
)


def add(talk, row, name, memory):
    """Add a memory whose record was the `name`th; of one millisecond and counter there are two."""
    content, metadata, created_ms = memory
    talk.add(row, Text(content, metadata, created_ms, stamp(name)), words(content), event_time_ms(metadata))


def stamp(name):
    return Stamp(7 + name // 6, name // 2 % 3, "ab"[name % 2])


def turn(name):
    """What memories of the same time are ordered by; of two writers' ones of the same moment, by a throw of dice."""
    return stamp(name)[:2], crc32(repr(stamp(name)).encode())


def line_and_time(memory):
    """What a memory is in line with, and where it stands."""
    _, metadata, created_ms = memory
    session, event = metadata.get("session_id"), metadata.get("event_time")
    try:
        event_ms = round(datetime.fromisoformat(event).timestamp() * 1000)
    except (TypeError, ValueError):
        event_ms = None
    if type(session) in (str, int) and session != "":
        return ("session", str(session)), event_ms if event_ms is not None else created_ms, created_ms
    return (
        ("stored", "") if event_ms is None else ("timed", ""),
        created_ms if event_ms is None else event_ms,
        created_ms,
    )


def naive(held):
    """(sessions, each a list of memories' names in order) of the (name, memory)."""
    lines = {}
    for name, memory in held:
        line, time_ms, created_ms = line_and_time(memory)
        lines.setdefault(line, []).append((time_ms, created_ms, turn(name), name))
    sessions = []
    for (kind, _), line in lines.items():
        last_ms = None
        for time_ms, _, _, name in sorted(line):
            if last_ms is None or (kind == "timed" and time_ms - last_ms > 4 * HOUR_MS):
                sessions.append([])
            sessions[-1].append(name)
            last_ms = time_ms
    return sessions


def assert_same(talk, rows, held):
    """That a structure, with a memory of this name in each of these rows, is that of the (name, memory) held."""
    name_of = {row: name for name, row in rows.items()}
    sessions = naive(held)
    before = {right: left for session in sessions for left, right in pairwise(session)}
    after = {left: right for right, left in before.items()}
    for name, memory in held:
        row = rows[name]
        assert name_of.get(int(talk.before[row])) == before.get(name)
        assert name_of.get(int(talk.after[row])) == after.get(name)
        assert bool(talk.flags[row] & ASKS) == ("?" in memory[0])
        assert bool(talk.flags[row] & TIMELY) == ("yesterday" in memory[0])
        assert bool(talk.given(np.array([row]))[0]) == (line_and_time(memory)[0][0] == "session")
    numbers = [{int(talk.session[rows[name]]) for name in session} for session in sessions]
    assert all(len(number) == 1 for number in numbers)
    assert len(set.union(set(), *numbers)) == talk.sessions == len(sessions)
    assert_speakers(talk, rows, held)


def assert_speakers(talk, rows, held):
    said = {name: memory[1].get("speaker") for name, memory in held}
    said = {name: speaker for name, speaker in said.items() if isinstance(speaker, str) and speaker}
    least = 1
    if not said:
        said = {name: memory[0].partition(": ")[0] for name, memory in held if ": " in memory[0]}
        least = max(LABELS_MIN, LABELS_SHARE_MIN * len(held))
    frequent = {who for who in said.values() if list(said.values()).count(who) >= least}
    names, column, found_least = talk.known()
    assert names.count(found_least) == len(frequent)
    assert names.of({"ann", "lee", "cleo", "dov", "other"}, found_least) == frequent
    for who in frequent:
        [number] = names.numbers([who])
        assert {name for name, row in rows.items() if column[row] == number} == {
            name for name, speaker in said.items() if speaker == who
        }


@given(history=steps)
def test_structure_is_that_of_the_living_memories_after_any_history(history):
    talk, rows, held, count = Conversation(), {}, [], 0
    for at, (what, value) in enumerate(history):
        if what == "add":
            add(talk, count, at, value)
            rows[at] = count
            held.append((at, value))
            count += 1
        elif what == "remove" and held:
            name, _ = held.pop(value % len(held))
            talk.remove(rows.pop(name))
        elif what in ("compact", "pack"):
            alive = np.zeros(count, np.bool_)
            alive[list(rows.values())] = True
            packed = msgpack.unpackb(msgpack.packb(talk.state(alive)))
            talk = talk.compacted(alive) if what == "compact" else Conversation.over(packed)
            rows, count = {name: row for row, name in enumerate(rows)}, len(rows)
    assert_same(talk, rows, held)


@given(hours=st.lists(st.integers(0, 60), min_size=5, max_size=40), gone=st.sets(st.integers(0, 39)))
def test_sessions_are_united_by_what_comes_into_a_pause_and_split_by_what_leaves_it(hours, gone):
    talk, held = Conversation(), []
    for row, hour in enumerate(hours):
        memory = "plain", {"event_time": (START + timedelta(hours=hour)).isoformat()}, row
        add(talk, row, row, memory)
        held.append((row, memory))
    assert_same(talk, {row: row for row in range(len(hours))}, held)
    for row in gone & set(range(len(hours))):
        talk.remove(row)
    left = [(row, memory) for row, memory in held if row not in gone]
    assert_same(talk, {row: row for row, _ in left}, left)


@given(
    first=st.lists(memories(), max_size=20), later=st.lists(memories(), max_size=20), gone=st.sets(st.integers(0, 39))
)
def test_a_state_taken_late_is_of_the_rows_asked_for_whatever_happened_since(first, later, gone):
    """A snapshot is packed while writers go on: neighbours, sessions and counts of later ones must not get into it."""
    talk = Conversation()
    for row, memory in enumerate([*first, *later]):
        add(talk, row, row, memory)
    for row in gone:
        if row < len(first) + len(later):
            talk.remove(row)
    restored = Conversation.over(talk.state(np.ones(len(first), np.bool_)))
    assert_same(restored, {row: row for row in range(len(first))}, list(enumerate(first)))


@given(held=st.lists(memories(), max_size=25), data=st.data())
def test_two_that_learn_of_the_same_memories_in_another_order_have_the_same_structure(held, data):
    order = data.draw(st.permutations(range(len(held))))
    talk = Conversation()
    for row, name in enumerate(order):
        add(talk, row, name, held[name])
    assert_same(talk, {name: row for row, name in enumerate(order)}, list(enumerate(held)))


def test_events_of_the_same_time_stand_in_the_order_of_storing():
    """A changed memory gets a new row, but it was stored when it was: its turn in the day is the same."""
    talk = Conversation()
    day = {"session_id": "s", "event_time": "2023-05-08"}
    for row, created_ms in enumerate([1, 2, 3, 2]):
        add(talk, row, row, ("x", day, created_ms))
    talk.remove(1)
    assert (int(talk.after[0]), int(talk.after[3]), int(talk.after[2])) == (3, 2, NONE)


def test_names_that_no_memory_has_any_more_are_not_in_the_state():
    """What was deleted must be in no file after a compaction."""
    talk = Conversation()
    secret = "Zelda Secretname: hello", {"speaker": "Secretspeaker", "session_id": "secretsession"}, 1
    for row, memory in enumerate([secret, ("Ann: hello", {"speaker": "Ann", "session_id": "s"}, 2)]):
        add(talk, row, row, memory)
    talk.remove(0)
    packed = msgpack.packb(talk.state(np.array([False, True])))
    assert b"Ann" in packed
    assert b"ecret" not in packed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01", 1_000),
        ("1970-01-01T01:00:01+01:00", 1_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("0001-01-01", -62_135_596_800_000),
        ("9999-12-31T23:59:59.999999", 253_402_300_799_999),
        ("9999-12-31T23:59:59-01:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        *((text, None) for text in ("", "nan", "yesterday", "2023-02-30", "8 May, 2023", "9" * 10_000, "\0", "١٢")),
        *((value, None) for value in (None, 5, 1.5, True, [], {}, ["2023-05-08"])),
    ],
)
def test_an_event_time_is_read_where_it_is_one_and_passed_over_elsewhere(text, expected):
    assert event_time_ms({"event_time": text}) == expected


def test_marks_tell_who_is_called_and_which_words_have_a_capital():
    assert marks("Good job, Caroline! I saw Melanie.") == {"!caroline", "^caroline", "^melanie", "^good"}
