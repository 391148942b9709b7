"""Frames and files of the journal, down to single bytes and single failing system calls."""

import errno
import os
from itertools import pairwise

import numpy as np
import pytest

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal import writer as writing
from memory_service.journal.files import journal_paths, read_tail
from memory_service.journal.frames import frame, frames
from memory_service.journal.records import Header, Put, Record, RememberedReply, Removal, encode, encode_header
from memory_service.journal.writer import JournalWriter

FINGERPRINT = Fingerprint("test-model", "ab" * 32, 4, "mean")


def put(key: str, counter: int, writer: str, content: str = "some text") -> Record:
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    return Record(
        Stamp(1_000, counter, writer),
        Put(
            namespace="ns",
            key=key,
            content=content,
            metadata='{"a":1}',
            vectors=vectors,
            created_at_ms=1_000,
            expires_at_ms=None,
        ),
    )


def written(folder, count=3):
    """A journal with `count` records: its path and the records."""
    writer = JournalWriter(folder, FINGERPRINT)
    records = [put(f"key-{at}", at, writer.begin()) for at in range(count)]
    outcome = writer.append(records)
    assert outcome.durable == count
    writer.close()
    return folder / f"{outcome.writer}.log", records


def plain(record: Record) -> tuple:
    match record.mutation:
        case Put() as put:
            return (record.stamp, put.namespace, put.key, put.content, put.metadata, put.vectors.tolist())
    return (record.stamp, record.mutation)


def test_every_kind_of_record_is_read_back_as_it_was_written(tmp_path):
    writer = JournalWriter(tmp_path, FINGERPRINT)
    name = writer.begin()
    records = [
        put("schlüssel/ключ/🔑", 1, name, content="a\x00b 🔑 \u2028"),
        Record(Stamp(1_000, 2, name), Removal("ns", "gone")),
        Record(
            Stamp(1_001, 0, name), RememberedReply("ns", "idem", "digest", ["stored", [["ns", "k", "stored", 1, 2]]])
        ),
    ]
    outcome = writer.append(records)
    writer.close()

    tail = read_tail(tmp_path / f"{name}.log")

    assert [plain(record) for record in tail.records] == [plain(record) for record in records]
    assert tail.header is not None
    assert (tail.header.writer, tail.header.embedder) == (name, FINGERPRINT)
    assert (tail.end, tail.torn_bytes) == (outcome.end, 0)


def test_reading_goes_on_where_it_ended(tmp_path):
    writer = JournalWriter(tmp_path, FINGERPRINT)
    name = writer.begin()
    writer.append([put("one", 1, name)])
    first = read_tail(tmp_path / f"{name}.log")
    writer.append([put("two", 2, name)])
    second = read_tail(tmp_path / f"{name}.log", first.end, first.header)
    assert [record.mutation.key for record in second.records] == ["two"]


def test_a_file_cut_at_any_byte_gives_exactly_the_records_before_the_cut(tmp_path):
    """A torn tail is what a crash leaves: never an error, never half a record."""
    path, records = written(tmp_path)
    data = path.read_bytes()
    ends = [end for _, end in frames(data)][1:]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        tail = read_tail(path)
        assert len(tail.records) == sum(end <= cut for end in ends)
        assert [plain(r) for r in tail.records] == [plain(r) for r in records[: len(tail.records)]]


def test_any_flipped_byte_is_noticed_and_never_read_as_something_else(tmp_path):
    """Damage before valid frames is reported; in the last frame it cannot be told from a torn tail."""
    path, records = written(tmp_path)
    data = path.read_bytes()
    last_frame = [end for _, end in frames(data)][-2]
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        if at < last_frame:
            (found,) = read_tail(path).damage
            assert found.offset <= at
        else:
            assert [plain(r) for r in read_tail(path).records] == [plain(r) for r in records[:-1]]


def test_zeros_at_the_end_are_a_torn_tail_and_zeros_in_between_are_damage(tmp_path):
    path, records = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data + bytes(4096))
    assert len(read_tail(path).records) == len(records)
    path.write_bytes(data + bytes(4096) + frame(b"valid"))
    tail = read_tail(path)
    assert (len(tail.records), [found.offset for found in tail.damage]) == (len(records), [len(data)])


def test_behind_damage_everything_valid_is_read_when_that_is_asked_for(tmp_path):
    path, records = written(tmp_path)
    data = path.read_bytes()
    header, *ends = [end for _, end in frames(data)]
    for at, (start, end) in enumerate(pairwise([header, *ends])):
        path.write_bytes(data[: start + 20] + b"\xff\xff" + data[start + 22 :])
        whole = read_tail(path)
        tail = read_tail(path, past_damage=whole.header)
        rest = [record for number, record in enumerate(records) if number != at]
        assert [plain(r) for r in tail.records] == [plain(r) for r in rest]
        if end < len(data):
            assert [found.offset for found in tail.damage] == [start]
            assert (tail.end, tail.torn_bytes) == (len(data), 0)
    path.write_bytes(b"\x00" + data[1:])
    assert read_tail(path).header is None
    known = Header(path.stem, FINGERPRINT)
    assert [plain(r) for r in read_tail(path, past_damage=known).records] == [plain(r) for r in records]


def test_an_empty_file_is_a_journal_whose_header_is_still_to_come(tmp_path):
    path = tmp_path / "empty.log"
    path.touch()
    tail = read_tail(path)
    assert (tail.header, tail.records, tail.end) == (None, [], 0)


def test_a_journal_of_another_format_is_damage_not_silence(tmp_path):
    path = tmp_path / "other.log"
    path.write_bytes(frame(b"\x81\xa2op\xa7journal"))
    assert len(read_tail(path).damage) == 1


class Failing:
    """Makes the n-th call of a system call fail, or that and all later ones."""

    def __init__(self, real, n, error, forever=False):
        self.real, self.n, self.error, self.forever, self.calls = real, n, error, forever, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.n or (self.forever and self.calls > self.n):
            raise OSError(self.error, os.strerror(self.error))
        return self.real(*args, **kwargs)


@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "fsync"])
@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("forever", [False, True])
def test_whatever_call_fails_exactly_the_acknowledged_records_are_on_disk(tmp_path, monkeypatch, call, n, forever):
    """Acknowledged means kept, and a later append works again in a new file."""
    writer = JournalWriter(tmp_path, FINGERPRINT)
    acknowledged = []
    monkeypatch.setattr(os, call, Failing(getattr(os, call), n, errno.ENOSPC, forever))
    for at in range(4):
        name = writer.begin()
        records = [put(f"key-{at}-{part}", at * 10 + part, name) for part in range(2)]
        outcome = writer.append(records)
        assert (outcome.error is None) == (outcome.durable == len(records))
        acknowledged += records[: outcome.durable]
    monkeypatch.undo()

    name = writer.begin()
    last = put("last", 99, name)
    assert writer.append([last]).durable == 1
    writer.close()

    found = [plain(r) for path in journal_paths(tmp_path) for r in read_tail(path).records]
    for record in [*acknowledged, last]:
        assert plain(record) in found


def test_a_write_that_stops_half_way_keeps_what_was_whole(tmp_path, monkeypatch):
    """The disk fills in the middle of the third record: two are acknowledged, the third is wholly absent."""
    writer = JournalWriter(tmp_path, FINGERPRINT)
    name = writer.begin()
    records = [put(f"key-{at}", at, name) for at in range(3)]
    whole = os.write
    header_and_two = len(frame(encode_header(Header(name, FINGERPRINT)))) + 2 * len(frame(encode(records[0])))
    room = [header_and_two + 10]

    def until_full(descriptor, data):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = whole(descriptor, bytes(data)[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", until_full)
    outcome = writer.append(records)
    monkeypatch.undo()

    assert outcome.durable == 2
    assert outcome.error is not None
    tail = read_tail(tmp_path / f"{name}.log")
    assert [record.mutation.key for record in tail.records] == ["key-0", "key-1"]
    assert writer.begin() != name, "the file is abandoned: nobody knows what a failed write left"


def test_a_folder_that_cannot_be_synced_is_tolerated(tmp_path, monkeypatch):
    """Some network mounts answer EINVAL to a directory sync."""
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, 1, errno.EINVAL, forever=True))
    writer = JournalWriter(tmp_path, FINGERPRINT)
    assert writer.append([put("key", 1, writer.begin())]).durable == 1


def test_a_full_disk_does_not_fill_with_empty_journals(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", Failing(os.write, 1, errno.ENOSPC, forever=True))
    writer = JournalWriter(tmp_path, FINGERPRINT)
    for at in range(10):
        assert writer.append([put("key", at, writer.begin())]).durable == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_sealed_when_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "FILE_BYTES_MAX", 100)
    writer = JournalWriter(tmp_path, FINGERPRINT)
    names = set()
    for at in range(3):
        names.add(writer.begin())
        writer.append([put("key", at, writer.begin())])
    assert len(names) == 3
