"""Sharing: processes that write the same keys in one folder, some of them killed, end with the same state.

And with the right one: for each key what was written last. A store is answered with its stamp. A deletion that is not
was stamped between the wall clock's times before and after the call, and all processes here have the same wall clock.
"""

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.child import Child, Operation, State
from tests.faults.rows import Row

KEYS = 200
KILL_EVERY_S = 0.7
FRESH = 9_999
"""Seed of the process that starts when all is over; it writes nothing."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of one key: what it leads to, and between which milliseconds its stamp lies."""

    op: str
    state: State | None
    earliest_ms: int
    latest_ms: int
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A memory as a process showed it in the end."""

    state: State
    created_at_ms: int
    updated_at_ms: int
    found_key: str
    score: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen.

    Attributes:
        processes: that wrote, those killed included.
        acknowledged: writing operations that were answered.
        unanswered: those that a kill cut off.
        kept: keeping operations (snapshots, compactions) that were answered.
        memories: in the end.
        compared: processes whose states were the same.
    """

    processes: int
    kills: int
    acknowledged: int
    unanswered: int
    kept: int
    memories: int
    compared: int


def run(folder: Path, processes: int, kills: int, seed: int) -> Outcome:
    """Let processes write the same keys, kill and replace some of them, then compare what they hold.

    Raises:
        AssertionError: a promise was broken; the message names the key.
    """
    data, chance = folder / "memory", random.Random(seed)
    living = [_started(data, seed * 1_000 + number) for number in range(processes)]
    dead: list[Child] = []
    fresh = Child(data, FRESH, "--writers=0")
    try:
        for child in living:
            child.open()
        _kill_some(data, living, dead, kills, chance)
        for child in living:
            child.ask("stop", "stopped")
        fresh.open()
        states = [_state(child) for child in (*living, fresh)]
        for child in (*living, fresh):
            child.end()
    finally:
        for child in (*living, fresh):
            child.discard()
    for state in states[:-1]:
        _compare(state, states[-1])
    operations = [operation for child in (*living, *dead) for operation in child.operations.values()]
    for operation in operations:
        assert operation.refused is None, f"{operation.kind} {operation.id} was refused: {operation.refused}"
    _judge(states[-1], _writes(operations))
    return _outcome(operations, living, dead, states[-1])


def _started(data: Path, seed: int) -> Child:
    """Every other process takes snapshots and compacts."""
    return Child(data, seed, "--shared", f"--keys={KEYS}", *(["--keeper"] if seed % 2 else []))


def _kill_some(data: Path, living: list[Child], dead: list[Child], kills: int, chance: random.Random) -> None:
    """Kill and replace now and then; the first half lives to the end."""
    spare = _started(data, living[-1].seed + 1)  # loads its modules meanwhile
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.5, 1.5) * KILL_EVERY_S)
            at = chance.randrange(len(living) // 2, len(living))
            living[at].kill()
            dead.append(living[at])
            living[at] = spare
            spare = _started(data, spare.seed + 1)
            living[at].open()
    finally:
        spare.discard()


def _state(child: Child) -> dict[str, Held]:
    rows = child.ask("state", "state")["memories"]
    held = {key: Held((content, op), *rest) for key, content, op, *rest in rows}
    assert len(held) == len(rows), "a key was listed twice"
    return held


def _compare(state: dict[str, Held], expected: dict[str, Held]) -> None:
    for key in {*state, *expected}:
        assert state.get(key) == expected.get(key), (
            f"{key}: one process holds {state.get(key)}, a fresh one holds {expected.get(key)}"
        )


def _writes(operations: Iterable[Operation]) -> dict[str, list[Write]]:
    """The writes of each key."""
    writes: dict[str, list[Write]] = defaultdict(list)
    for operation in operations:
        for key, write in _writes_of(operation):
            writes[key].append(write)
    return writes


def _writes_of(operation: Operation) -> Iterable[tuple[str, Write]]:
    """An answered operation's writes; of another's all that it may have come to, until its process was gone."""
    began_ms, ended_ms = operation.began_ms, operation.ended_ms
    if operation.done is None:
        for key, content in operation.writes:
            yield key, Write(operation.id, operation.state(content), began_ms, ended_ms, is_acknowledged=False)
        return
    for key, content, stamp_ms in operation.done:
        between = (began_ms, ended_ms) if stamp_ms is None else (stamp_ms, stamp_ms)
        yield key, Write(operation.id, operation.state(content), *between, is_acknowledged=True)


def _judge(held: dict[str, Held], writes: dict[str, list[Write]]) -> None:
    """Every key holds what somebody wrote, and nothing that was acknowledged is later than that."""
    for key in {*held, *writes}:
        found = held.get(key)
        state = None if found is None else found.state
        last = max((write for write in writes[key] if write.is_acknowledged), key=_earliest_ms, default=None)
        winners = [write for write in writes[key] if write.state == state]
        assert winners or (state is None and last is None), f"{key} holds {state}, which nobody wrote"
        assert last is None or any(write.latest_ms >= last.earliest_ms for write in winners), (
            f"{key} was to hold {last}, acknowledged later than all of {winners}, which it holds"
        )
        if found is not None:
            assert any(write.earliest_ms <= found.updated_at_ms <= write.latest_ms for write in winners), (
                f"{key} says it was updated at {found.updated_at_ms}, and was by {winners}"
            )
            assert (found.found_key, round(found.score, 3)) == (key, 1.0), f"{key} has another text's vector: {found}"


def _earliest_ms(write: Write) -> int:
    return write.earliest_ms


def _outcome(
    operations: Sequence[Operation], living: Sequence[Child], dead: Sequence[Child], held: dict[str, Held]
) -> Outcome:
    writing = [operation for operation in operations if operation.namespace]
    keeping = [operation for operation in operations if operation.kind in ("snapshot", "compact")]
    return Outcome(
        processes=len(living) + len(dead),
        kills=len(dead),
        acknowledged=sum(operation.done is not None for operation in writing),
        unanswered=sum(operation.is_open for operation in writing),
        kept=sum(operation.done is not None for operation in keeping),
        memories=len(held),
        compared=len(living) + 1,
    )


def full(folder: Path) -> list[Row]:
    """At full size, for the table."""
    seen = run(folder, processes=8, kills=20, seed=1)
    return [
        Row(
            "many processes, the same keys, no locks",
            f"8 processes stored, updated and deleted {KEYS} keys of one folder, half of them taking snapshots and "
            f"compacting ({seen.kept} in all), until {seen.kills} were killed and replaced.",
            f"{seen.acknowledged} operations were acknowledged, {seen.unanswered} cut off. In the end {seen.compared} "
            f"processes, one of them fresh, held the same {seen.memories} memories, each the last write of its key.",
        )
    ]
