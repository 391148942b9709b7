"""Whether journals and snapshots agree, and which snapshots a repair may remove.

This module compares what `journals.py` and `snapshot_files.py` have read. It opens no file and knows nothing of frames,
checksums and SQLite.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from memory_service.doctor.entries import KeyState, Name, State
from memory_service.doctor.journals import ExaminedJournal
from memory_service.doctor.report import REBUILD, Diagnoses, Diagnosis, counted, place
from memory_service.doctor.snapshot_files import ExaminedSnapshot
from memory_service.journal.data_folder import JOURNAL_FOLDER, SNAPSHOT_FOLDER
from memory_service.journal.files import SUFFIX

RESTORE_JOURNAL = (
    "Restore the journal from a backup; until then keep a copy of the snapshots, which hold what it lacks."
)
RESTORE_ONE = "Restore one of the two from a backup; the folder does not tell which one is right."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What snapshots and journals say together.

    Attributes:
        alive: the memories that a start from this folder would have.
        refusal: why a repair is refused; None if it is possible.
    """

    findings: tuple[Diagnosis, ...]
    unusable: tuple[ExaminedSnapshot, ...]
    refusal: str | None
    alive: frozenset[Name]
    tombstones: int


def reach_verdict(
    snapshots: Sequence[ExaminedSnapshot], journals: Sequence[ExaminedJournal], *, is_compacted: bool, now_ms: int
) -> Verdict:
    """Compare snapshots and journals.

    The reference is the journals if they are complete: none was removed, and each one reaches as far as every snapshot
    covers it. Otherwise the reference is the newest complete snapshot with the journals beyond it.
    """
    held = {journal.writer: journal for journal in journals}
    lost = _lost(snapshots, held)
    sound = [each for each in snapshots if each.state is not None]
    lacking = [each for each in sound if _lacks(each, lost)]
    usable = [each for each in sound if each not in lacking]
    are_complete = not lost and not is_compacted
    states = [_replayed(each, journals) for each in usable]
    measure = states[-1] if states and not are_complete else _replayed(None, journals)
    differences = [_difference(state, measure, now_ms) for state in states]
    # With an unreadable journal, a difference would say nothing about the snapshots.
    is_comparable = all(journal.is_readable for journal in journals)
    differing = [
        each for each, word in zip(usable, differences, strict=True) if word and are_complete and is_comparable
    ]
    kept = [each for each in usable if each not in differing]
    unusable = [each for each in snapshots if each.is_complete and each not in kept]
    findings = (
        *_about_lost(lost, held, is_compacted=is_compacted),
        *(_about_lacking(each, lost) for each in lacking),
        *(finding for each in sound for finding in _about_boundaries(each, held)),
        *(_about_differences(usable, differences, are_complete=are_complete) if is_comparable else _uncompared(sound)),
    )
    return Verdict(
        findings=findings,
        unusable=tuple(unusable),
        refusal=_refusal(held, unusable, kept, are_complete=are_complete),
        alive=frozenset(name for name, entry in measure.items() if entry.is_alive(now_ms)),
        tombstones=sum(entry.text is None for entry in measure.values()),
    )


def _replayed(snapshot: ExaminedSnapshot | None, journals: Iterable[ExaminedJournal]) -> State:
    """Return the state after a start from a snapshot, or from the journals alone: the last stamp of each key wins."""
    state = dict(snapshot.state or {}) if snapshot else {}
    covered = snapshot.journals if snapshot else {}
    for journal in journals:
        beyond = covered.get(journal.writer, 0)
        for end, name, entry in journal.changes:
            if end > beyond and (name not in state or state[name].stamp < entry.stamp):
                state[name] = entry
    return state


def _lost(snapshots: Iterable[ExaminedSnapshot], held: Mapping[str, ExaminedJournal]) -> dict[str, int]:
    """Return how far snapshots cover the journals that are missing or shorter than that, by writer."""
    lost: dict[str, int] = {}
    for snapshot in snapshots:
        for writer, end in snapshot.journals.items():
            if writer not in held or held[writer].end < end:
                lost[writer] = max(end, lost.get(writer, 0))
    return lost


def _about_lost(
    lost: Mapping[str, int], held: Mapping[str, ExaminedJournal], *, is_compacted: bool
) -> Iterator[Diagnosis]:
    removed = 0
    for writer, end in sorted(lost.items()):
        diagnoses = Diagnoses(f"{JOURNAL_FOLDER}/{writer}{SUFFIX}")
        journal = held.get(writer)
        if journal is None and is_compacted:
            removed += 1
        elif journal is None:
            diagnoses.problem(
                f"is missing: snapshots cover {end:,} bytes of it, and no compaction removed it", RESTORE_JOURNAL
            )
        elif not journal.is_readable:
            diagnoses.note(f"a snapshot holds what was in its first {end:,} bytes", at=journal.end)
        else:
            what = f"ends here, but a snapshot covers {end:,} bytes: it was cut, or replaced by an older copy"
            diagnoses.problem(what, RESTORE_JOURNAL, at=journal.end)
        yield from diagnoses
    if removed:
        yield Diagnosis(
            "ok", f"compaction removed {counted(removed, 'journal')}, which snapshots cover", JOURNAL_FOLDER
        )


def _lacks(snapshot: ExaminedSnapshot, lost: Mapping[str, int]) -> list[str]:
    """Return the journals that a start from this snapshot needs and that are missing or too short."""
    return sorted(writer for writer, end in lost.items() if snapshot.journals.get(writer, 0) < end)


def _about_lacking(snapshot: ExaminedSnapshot, lost: Mapping[str, int]) -> Diagnosis:
    names = ", ".join(
        f"{writer}{SUFFIX} beyond byte {snapshot.journals.get(writer, 0)}" for writer in _lacks(snapshot, lost)
    )
    what = f"needs missing parts of journals: {names}"
    return Diagnosis("problem", what, f"{SNAPSHOT_FOLDER}/{snapshot.path.name}", REBUILD)


def _about_boundaries(snapshot: ExaminedSnapshot, held: Mapping[str, ExaminedJournal]) -> Iterator[Diagnosis]:
    """Problems of watermarks that are not at the end of a frame: the journal of this name is another one then."""
    for writer, end in snapshot.journals.items():
        journal = held.get(writer)
        if journal is not None and end <= journal.end and end not in journal.ends:
            where = place(f"{JOURNAL_FOLDER}/{writer}{SUFFIX}", end)
            yield Diagnosis(
                "problem", f"no frame ends here, but snapshot {snapshot.path.name} does", where, RESTORE_JOURNAL
            )


def _difference(state: State, measure: State, now_ms: int) -> str | None:
    """Return how two states differ as a caller sees them; None if they agree."""
    names = [name for name in state.keys() | measure.keys() if not _agree(state.get(name), measure.get(name), now_ms)]
    if not names:
        return None
    first = min(names)
    kind = _kind(state.get(first), measure.get(first), now_ms)
    return f"{counted(len(names), 'memory')}, the first is {first[1]!r} in namespace {first[0]!r} ({kind})"


def _agree(one: KeyState | None, other: KeyState | None, now_ms: int) -> bool:
    """Return whether a caller sees the same. An expired memory counts as missing."""
    if one == other:
        return True
    # A worker that saw the expiry holds a tombstone with the memory's own stamp.
    if one and other and one.stamp == other.stamp and None in (one.text, other.text):
        return (one.expires_at_ms or other.expires_at_ms) is not None
    return not (one and one.is_alive(now_ms)) and not (other and other.is_alive(now_ms))


def _kind(one: KeyState | None, measure: KeyState | None, now_ms: int) -> str:
    if one is None or not one.is_alive(now_ms):
        return "missing"
    if measure is None or not measure.is_alive(now_ms):
        return "not there any more"
    if one.stamp != measure.stamp:
        return "of another stamp"
    return "other content, metadata or times" if one.text != measure.text else "other vectors"


def _about_differences(
    usable: Sequence[ExaminedSnapshot], differences: Sequence[str | None], *, are_complete: bool
) -> Iterator[Diagnosis]:
    measure = (
        "the journals alone" if are_complete else f"snapshot {usable[-1].path.name if usable else ''} and the journals"
    )
    # Without complete journals, the last snapshot is the reference itself.
    compared = len(usable) if are_complete else len(usable) - 1
    remedy = REBUILD if are_complete else RESTORE_ONE
    for snapshot, difference in list(zip(usable, differences, strict=True))[: max(compared, 0)]:
        diagnoses = Diagnoses(f"{SNAPSHOT_FOLDER}/{snapshot.path.name}")
        if difference is None:
            diagnoses.ok(f"with the journals beyond it the same memories as {measure}")
        else:
            diagnoses.problem(f"with the journals beyond it other memories than {measure}: {difference}", remedy)
        yield from diagnoses


def _uncompared(sound: Sequence[ExaminedSnapshot]) -> Iterator[Diagnosis]:
    if sound:
        yield Diagnosis("note", "not compared with the journals, since not every journal can be read", SNAPSHOT_FOLDER)


def _refusal(
    held: Mapping[str, ExaminedJournal],
    unusable: Sequence[ExaminedSnapshot],
    kept: Sequence[ExaminedSnapshot],
    *,
    are_complete: bool,
) -> str | None:
    """Why no snapshot may be removed: a journal cannot be read, or only this snapshot holds something."""
    for journal in held.values():
        if not journal.is_readable:
            name = f"{JOURNAL_FOLDER}/{journal.writer}{SUFFIX}"
            return f"{name} cannot be read to its end, and a repair never touches a journal."
    if unusable and not kept and not are_complete:
        return "the journals are not complete, and no snapshot can replace them: restore one from a backup."
    # An unusable snapshot must not be the only file that covers a part of a journal.
    for snapshot in unusable:
        for writer, end in snapshot.journals.items():
            reach = max([each.journals.get(writer, 0) for each in kept], default=0)
            if max(reach, held[writer].end if writer in held else 0) < end:
                return f"snapshot {snapshot.path.name} alone covers {end:,} bytes of {JOURNAL_FOLDER}/{writer}{SUFFIX}."
    return None
