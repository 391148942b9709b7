"""Bytes lost, changed and gone: every file of a data folder is cut, flipped and removed, then the folder is opened.

The reference folder has the journals of three writers: one that a snapshot covers whole, one that goes on beyond it,
one that no snapshot knows. It comes with two snapshots, without any, and compacted. What must come of each damage is
worked out from the records that the undamaged journals hold, not from what the service does.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import journal_paths, read_tail
from memory_service.journal.frames import frames
from memory_service.journal.records import Put, Record, Removal
from memory_service.projection import snapshots
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from tests.faults.rows import Row
from vector_memory.errors import StartupError, Unavailable
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Mode, Retrieval

State = Mapping[tuple[str, str], str]
"""Contents by namespace and key."""

NAMESPACES = ("default", "notes")
FLIPS = (0xFF, 0x01)
"""All bits of a byte, which breaks most text, and the lowest one, which leaves text readable and wrong."""


class Outcome(StrEnum):
    """What a damaged folder may do when it is opened."""

    WHOLE = "recovered whole"
    TORN = "the end of one journal missing, all else there"
    REFUSED = "start refused, naming the file"
    READ_ONLY = "read-only, naming file and byte"


DAMAGED_JOURNAL = frozenset({Outcome.READ_ONLY})
"""A journal with valid frames behind a bad one. To demand read-only, leave out `REFUSED`."""


class Variant(StrEnum):
    """What the reference folder has besides journals."""

    SNAPSHOTS = "two snapshots"
    JOURNALS = "no snapshot"
    COMPACTED = "compacted"


@dataclass(frozen=True, slots=True)
class Case:
    """One damage and what may come of it.

    Attributes:
        paths: the damaged files, relative to the folder.
        change: the file's new bytes from its old ones; None removes it.
        may: the outcomes that keep the promises.
        state: what is held if the folder can be opened.
        named: what a refusal or a problem must name.
        skipped: what is held when damaged frames are skipped on request; None where nothing is to be skipped.
    """

    what: str
    paths: tuple[Path, ...]
    change: Callable[[bytes], bytes | None]
    may: frozenset[Outcome]
    state: State
    named: tuple[str, ...]
    skipped: Sequence[State] | None = None

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.paths))}: {self.what}"


@dataclass(frozen=True, slots=True)
class Journal:
    """An undamaged journal: where its frames end, its records (one for each frame but the first), how far covered."""

    path: Path
    ends: list[int]
    records: list[Record]
    covered: int

    def span(self, at: int) -> tuple[int, int]:
        """Where a frame begins and ends."""
        return (self.ends[at - 1] if at else 0), self.ends[at]

    @property
    def frames_covered(self) -> int:
        return sum(end <= self.covered for end in self.ends)


class Reference:
    """A folder, and what it holds when this or that is missing."""

    def __init__(self, folder: Path, variant: Variant, scratch: Path) -> None:
        self.folder = folder
        self.variant = variant
        gone = _fill(folder, variant, scratch)
        covered = (snapshots.coverage(_snapshots(folder)[-1]) if _snapshots(folder) else None) or {}
        self.journals = [_journal(path, covered.get(path.stem, 0)) for path in journal_paths(folder / "journal")]
        self._gone = gone
        self.whole = self.without({})

    def without(self, lost: Mapping[Path, range]) -> State:
        """What is held without these frames of these journals."""
        kept = list(self._gone)
        for journal in self.journals:
            missing = lost.get(journal.path, range(0))
            kept += [record for at, record in enumerate(journal.records, 1) if at not in missing]
        return _state(kept)


def full(folder: Path) -> list[Row]:
    """Every damage, and each byte of a manifest."""
    return run(folder, Variant, 1)


def run(folder: Path, variants: Iterable[Variant], stride: int) -> list[Row]:
    """Every `stride`-th damage of each variant; a row for each."""
    scratch = folder / "scratch"
    scratch.mkdir()
    return [
        _row(Reference(folder / variant.name, variant, scratch), stride, folder / "damaged") for variant in variants
    ]


def _row(reference: Reference, stride: int, where: Path) -> Row:
    cases = list(_cases(reference))[::stride]
    seen: Counter[Outcome] = Counter()
    for case in cases:
        seen[_outcome(case, reference, where)] += 1
    count = len(reference.journals)
    return Row(
        f"files cut, flipped and removed ({reference.variant})",
        f"{len(cases)} cases over {count} journals with {sum(len(j.records) for j in reference.journals)} records, "
        f"store.json and {len(_snapshots(reference.folder))} snapshots",
        "; ".join(f"{seen[outcome]} {outcome}" for outcome in Outcome if seen[outcome])
        + "; no text with another text's vector, no traceback",
    )


# -- the reference -----------------------------------------------------------------------------------------------------


def _fill(folder: Path, variant: Variant, scratch: Path) -> list[Record]:
    """Make the folder; the records of the journals that its compaction removed."""
    one, two = _open(folder, scratch), _open(folder, scratch)
    _write(one, "a", 5)
    _write(two, "b", 3)
    one.snapshot()
    _write(two, "c", 3)
    one.delete("a-0")
    before = [record for path in journal_paths(folder / "journal") for record in read_tail(path).records]
    if variant is Variant.COMPACTED:
        one.compact()
    else:
        one.snapshot()
    there = {path.stem for path in journal_paths(folder / "journal")}
    one.close()
    _write(two, "d", 3)
    two.close()
    three = _open(folder, scratch)
    _write(three, "e", 4)
    three.store(NewMemory(content="What was b-1 is of the third writer now.", key="b-1", namespace=NAMESPACES[1]))
    three.delete("b-0")
    three.store(NewMemory(content="The last record of all.", key="last"))
    three.close()
    if variant is Variant.JOURNALS:
        shutil.rmtree(folder / "snapshots")
    return [record for record in before if record.stamp.writer not in there]


def _write(service: MemoryService, name: str, count: int) -> None:
    for at in range(count):
        service.store(
            NewMemory(content=f"Note {name}-{at} of dock {at * 7}.", key=f"{name}-{at}", namespace=NAMESPACES[at % 2])
        )


def _open(folder: Path, scratch: Path, **settings: bool) -> MemoryService:
    return MemoryService(
        DataFolder(folder), HashEmbedder(), MemorySettings(follow_interval_ms=0, cache_dir=scratch, **settings)
    )


def _journal(path: Path, covered: int) -> Journal:
    return Journal(path, [end for _, end in frames(path.read_bytes())], read_tail(path).records, covered)


def _state(records: Iterable[Record]) -> State:
    """The last stamp wins."""
    held: dict[tuple[str, str], str | None] = {}
    for record in sorted(records, key=lambda record: record.stamp):
        match record.mutation:
            case Put() as put:
                held[put.namespace, put.key] = put.content
            case Removal(namespace, key):
                held[namespace, key] = None
    return {name: content for name, content in held.items() if content is not None}


def _snapshots(folder: Path) -> list[Path]:
    return [folder / "snapshots" / name for name in snapshots.names(folder / "snapshots")]


# -- the damages and what may come of them -----------------------------------------------------------------------------


def _cases(reference: Reference) -> Iterator[Case]:
    for journal in reference.journals:
        for at in range(len(journal.ends)):
            yield from _cuts(reference, journal, at)
            yield from _flips(reference, journal, at)
        lost = range(journal.frames_covered, len(journal.ends))
        state = reference.without({journal.path: lost})
        yield _case(reference, journal.path, "removed", _remove, {Outcome.WHOLE, Outcome.TORN}, state)
    yield from _other_files(reference)


def _cuts(reference: Reference, journal: Journal, at: int) -> Iterator[Case]:
    """A cut in one frame: that and what follows is gone, save what a snapshot holds."""
    start, end = journal.span(at)
    state = reference.without({journal.path: range(max(at, journal.frames_covered), len(journal.ends))})
    may = {Outcome.WHOLE, Outcome.TORN}
    if at == 0 and journal.covered:
        may |= {Outcome.REFUSED, Outcome.READ_ONLY}  # a journal without a header that was there once
    for cut in (start, start + 1, (start + end) // 2, end - 1):
        what = f"cut to {cut} bytes, in frame {at}"
        yield _case(reference, journal.path, what, _cut(cut), may, state)


def _flips(reference: Reference, journal: Journal, at: int) -> Iterator[Case]:
    """A byte of each class changed in one frame."""
    start, end = journal.span(at)
    places = {"magic": 0, "length": 4, "length's high byte": 7, "checksum": 8, "payload's start": 12}
    places |= {"payload's middle": (12 + end - start) // 2, "payload's end": end - start - 1}
    for place, offset in places.items():
        yield _flip(reference, journal, at, f"the {place} of frame {at} flipped", start + offset)


def _flip(reference: Reference, journal: Journal, at: int, what: str, offset: int) -> Case:
    start, size = journal.span(at)[0], journal.ends[-1]
    change = _flipped(offset, FLIPS[0])
    if start < journal.covered and at == 0:
        may = DAMAGED_JOURNAL if journal.covered < size else frozenset(Outcome)
        state = reference.without({journal.path: range(journal.frames_covered, len(journal.ends))})
        return _case(reference, journal.path, what, change, may, state, "byte 0")
    if start < journal.covered:
        return _case(reference, journal.path, what, change, {Outcome.WHOLE}, reference.whole)
    state = reference.without({journal.path: range(at, len(journal.ends))})
    if at == len(journal.ends) - 1:
        return _case(reference, journal.path, what, change, {Outcome.TORN}, state)
    skipped = [reference.without({journal.path: range(at, at + 1)}), state][: 1 if at else 2]
    return _case(reference, journal.path, what, change, DAMAGED_JOURNAL, state, f"byte {start}", skipped=skipped)


def _other_files(reference: Reference) -> Iterator[Case]:
    """Whatever else is in the folder: snapshots and marks can be done without, `store.json` is refused."""
    whole, folder = {Outcome.WHOLE}, reference.folder
    others = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".log"]
    for path in others:
        may = {Outcome.REFUSED} if path.name == "store.json" else whole
        yield _case(reference, path, "removed", _remove, whole, reference.whole)
        size = path.stat().st_size
        for cut in sorted({0, 1, size // 2, size - 1} & set(range(size))):
            what = f"cut to {cut} bytes"
            yield _case(reference, path, what, _cut(cut), may, reference.whole)
        for offset, bits in _changes(reference, path, size):
            what = f"byte {offset} of {size} changed by {bits:#04x}"
            yield _case(reference, path, what, _flipped(offset, bits), may, reference.whole)
    if found := _snapshots(folder):
        catalogs = tuple(path.relative_to(folder) / "catalog.sqlite" for path in found)
        may = {Outcome.REFUSED} if reference.variant is Variant.COMPACTED else whole
        yield Case("all cut", catalogs, lambda data: data[:-1], frozenset(may), reference.whole, ("snapshots",))


def _changes(reference: Reference, path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Where to flip which bits: each byte of the newest manifest, which nothing else vouches for; else some."""
    newest = _snapshots(reference.folder)[-1:]
    offsets = {*range(0, size, max(4096, size // 8)), size // 2, size - 1} & set(range(size))
    yield from ((offset, bits) for offset in sorted(offsets) for bits in FLIPS)
    if path.name == "store.json" or (path.parent in newest and path.name == "MANIFEST.json"):
        yield from ((offset, FLIPS[1]) for offset in range(size) if offset not in offsets)


def _case(
    reference: Reference,
    path: Path,
    what: str,
    change: Callable[[bytes], bytes | None],
    may: Iterable[Outcome],
    state: State,
    place: str | None = None,
    skipped: Sequence[State] | None = None,
) -> Case:
    named = (path.name,) if place is None else (path.name, place)
    return Case(what, (path.relative_to(reference.folder),), change, frozenset(may), state, named, skipped)


def _remove(_data: bytes) -> None:
    return None


def _cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def _flipped(offset: int, bits: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + bytes([data[offset] ^ bits]) + data[offset + 1 :]


# -- opening -----------------------------------------------------------------------------------------------------------


def _outcome(case: Case, reference: Reference, where: Path) -> Outcome:
    """Damage a copy, open it, and hold it against the promises."""
    outcome = _opened_damaged(case, reference, where)
    assert outcome in case.may, f"{case}: {outcome}, expected {' or '.join(sorted(case.may))}"
    if case.skipped is not None and "skip_damaged" in MemorySettings.model_fields:
        _skip(case, reference, where)
    return outcome


def _damaged(case: Case, reference: Reference, where: Path) -> None:
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(reference.folder, where)
    for path in case.paths:
        data = case.change((where / path).read_bytes())
        if data is None:
            (where / path).unlink()
        else:
            (where / path).write_bytes(data)


def _opened_damaged(case: Case, reference: Reference, where: Path) -> Outcome:
    _damaged(case, reference, where)
    scratch = where.parent / "scratch"
    try:
        service = _open(where, scratch)
    except StartupError as error:
        _names(case, str(error))
        return Outcome.REFUSED
    except Exception as error:
        raise AssertionError(f"{case}: the start ended in a traceback, {error!r}") from error
    try:
        _check(case, service, [case.state])
        if problems := service.problems():
            _names(case, " ".join(problems))
            _takes_no_writes(case, service)
            return Outcome.READ_ONLY
        service.store(NewMemory(content="Written after the damage.", key="fresh"))
    finally:
        service.close()
    _restart(case, _open(where, scratch), [case.state])
    return Outcome.WHOLE if case.state == reference.whole else Outcome.TORN


def _skip(case: Case, reference: Reference, where: Path) -> None:
    """On request the valid frames beyond the damage are served too, and writes work."""
    assert case.skipped is not None, "there is something to skip"
    _damaged(case, reference, where)
    service = _open(where, where.parent / "scratch", skip_damaged=True)
    try:
        _check(case, service, case.skipped)
        _names(case, " ".join(service.problems()))
        service.store(NewMemory(content="Written after the damage.", key="fresh"))
    finally:
        service.close()
    _restart(case, _open(where, where.parent / "scratch", skip_damaged=True), case.skipped)


def _restart(case: Case, service: MemoryService, states: Sequence[State]) -> None:
    """What was held before, and what was written since."""
    fresh = {(NAMESPACES[0], "fresh"): "Written after the damage."}
    try:
        _check(case, service, [{**state, **fresh} for state in states])
    finally:
        service.close()


def _check(case: Case, service: MemoryService, states: Sequence[State]) -> None:
    """One of the states is held, and every text is found by itself, in its own namespace alone."""
    held = _held(service)
    assert held in states, f"{case}: {_difference(held, states[0])}"
    for namespace in NAMESPACES:
        here = {key: content for (of, key), content in held.items() if of == namespace}
        for key, content in here.items():
            hits = service.retrieve(Retrieval(query=content, namespace=namespace, k=100, mode=Mode.DENSE)).hits
            found = [hit.memory.key for hit in hits]
            is_first = bool(hits) and hits[0].memory.content == content and hits[0].score > 0.999
            assert is_first, f"{case}: {namespace}/{key} is not found by its own text, but {found[:1]}"
            assert sorted(found) == sorted(here), f"{case}: {namespace} holds {list(here)}, a search finds {found}"


def _held(service: MemoryService) -> State:
    return {
        (namespace, memory.key): memory.content
        for namespace in service.counts()
        for memory in service.list(namespace=namespace, limit=1_000).memories
    }


def _difference(held: State, expected: State) -> str:
    lost = sorted(expected.items() - held.items())
    added = sorted(held.items() - expected.items())
    return f"lacks {lost}, and holds {added} instead"


def _names(case: Case, message: str) -> None:
    for name in case.named:
        assert name in message, f"{case}: {message!r} does not name {name}"


def _takes_no_writes(case: Case, service: MemoryService) -> None:
    try:
        service.store(NewMemory(content="Not to be kept.", key="refused"))
    except Unavailable as error:
        _names(case, str(error))
    else:
        raise AssertionError(f"{case}: a damaged folder took a write")
