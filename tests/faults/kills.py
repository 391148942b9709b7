"""Kills: process after process over one folder, each killed at a random moment, and everything checked after each."""

import contextlib
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from memory_service.embedding.embedder import Embedder
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.files import journal_paths, read_tail
from memory_service.service import MemoryService
from tests.faults.child import Child, Operation, State, everything, group, settings
from tests.faults.embedder import HashEmbedder
from tests.faults.rows import Row
from vector_memory.retrieval import Mode, Retrieval

KILLS = 250
DAY_S = 24 * 3600

AIMS = {"open": 5, "snapshot": 4, "compact": 6, "write": 5}
"""What a kill is aimed at, and how often. It falls where it falls: `Outcome.fell_in` counts that."""

OPEN_S, KEEPING_S, LIFE_S = 0.02, 0.008, 0.6
"""About how long a recovery and a snapshot of so few memories take here, and how long a process works at most."""

Key = tuple[str, str]
"""Namespace and key."""


class Ledger:
    """What the keys must hold: each by what was acknowledged, and by the one operation that was never answered."""

    def __init__(self) -> None:
        self.known: dict[Key, State] = {}
        self.acknowledged = 0
        self._possible: dict[Key, list[State | None]] = {}

    def note(self, operation: Operation) -> None:
        """Take note of an operation, in the order of their beginnings; in a namespace there is one at a time."""
        if operation.group is not None:
            self._narrow(operation, operation.group)
        if operation.done is None:
            for key, content in operation.writes:
                self._possible.setdefault((operation.namespace, key), []).append(operation.state(content))
            return
        self.acknowledged += bool(operation.namespace)
        for key, content, _ in operation.done:
            self._set((operation.namespace, key), operation.state(content))

    def settle(self, held: dict[Key, State]) -> tuple[int, int]:
        """Hold a folder to the ledger, and from now on to what it holds: a state once seen is not taken back.

        Returns:
            Of the keys that a write without an answer was about, how many hold it, and how many do not.
        """
        kept = 0
        for key in {*self.known, *self._possible, *held}:
            before, after = self.known.get(key), self._possible.get(key, [])
            found = held.get(key)
            assert found in (before, *after), f"{key} was to hold {before} or one of {after}; it holds {found}"
            kept += found != before
        lost = len(self._possible) - kept
        self.known, self._possible = dict(held), {}
        return kept, lost

    def _narrow(self, operation: Operation, number: int) -> None:
        """A deletion by group is about the keys that were in that group, which only the ledger knows."""
        expected = {
            key
            for (namespace, key), (_, op) in self.known.items()
            if (namespace, group(op)) == (operation.namespace, number)
        }
        operation.writes = [(key, None) for key in sorted(expected)]
        if operation.done is not None:
            deleted = {key for key, _, _ in operation.done}
            assert deleted == expected, f"{operation.id} was to delete {sorted(expected)}; it deleted {sorted(deleted)}"

    def _set(self, key: Key, state: State | None) -> None:
        if state is None:
            self.known.pop(key, None)
        else:
            self.known[key] = state


@dataclass(slots=True)
class Outcome:
    """What was seen.

    Attributes:
        fell_in: kills by what was announced and not answered at that moment: open, snapshot, compact, a kind of write.
        acknowledged: writing operations that were answered.
        kept: keys that held a write without an answer.
        lost: keys that did not hold the write without an answer that was about them.
        torn: journals with a frame that was cut off.
        removed: journals that compactions took away.
    """

    kills: int = 0
    fell_in: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    kept: int = 0
    lost: int = 0
    torn: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)


def run(folder: Path, kills: int, seed: int) -> Outcome:
    """Kill `kills` processes at random moments and check everything after each.

    Args:
        folder: of the data folder and what lies beside it.
        kills: how many.
        seed: of all that is random, except where the processes happen to be at the moment of a kill.

    Raises:
        AssertionError: a promise was broken; the message names the key.
    """
    data, chance, ledger, outcome = folder / "memory", random.Random(seed), Ledger(), Outcome()
    journals: set[str] = set()
    children = [Child(data, seed * 10_000 + number, "--keeper") for number in range(min(2, kills))]
    try:
        for number in range(kills):
            child = children.pop(0)
            _live_and_die(child, chance)
            if number + 2 < kills:  # loads its modules while the next one is at work
                children.append(Child(data, seed * 10_000 + number + 2, "--keeper"))
            _note(child.operations.values(), ledger, outcome)
            _verify(data, ledger, outcome)
            journals |= _journals(data)
            if chance.random() < 0.5:
                _age(data)
    finally:
        for child in children:
            child.discard()
    outcome.acknowledged = ledger.acknowledged
    outcome.removed = journals - _journals(data)
    return outcome


def _live_and_die(child: Child, chance: random.Random) -> None:
    """Open the folder, work for a while, and be killed, as the aim has it."""
    aim = chance.choices(list(AIMS), list(AIMS.values()))[0]
    child.open()
    if aim == "open":
        time.sleep(chance.uniform(0, OPEN_S))
    else:
        child.wait_for("store")
        time.sleep(chance.uniform(0, LIFE_S))
    if aim in ("snapshot", "compact"):
        child.wait_for(aim)
        time.sleep(chance.uniform(0, KEEPING_S))
    child.kill()


def _note(operations: Iterable[Operation], ledger: Ledger, outcome: Outcome) -> None:
    for operation in operations:
        assert operation.refused is None, f"{operation.kind} {operation.id} was refused: {operation.refused}"
        ledger.note(operation)
    running = {operation.kind for operation in operations if operation.is_open}
    outcome.kills += 1
    outcome.fell_in.update(running or {"between operations"})


def _verify(data: Path, ledger: Ledger, outcome: Outcome) -> None:
    """Open what the dead process left, and compare."""
    if not data.exists():
        ledger.settle({})
        return
    with opened_copy(data, HashEmbedder()) as service:
        kept, lost = ledger.settle(_held(service))
    outcome.torn |= {path.stem for path in journal_paths(data / "journal") if read_tail(path).torn_bytes}
    outcome.kept, outcome.lost = outcome.kept + kept, outcome.lost + lost


@contextlib.contextmanager
def opened_copy(data: Path, embedder: Embedder) -> Iterator[MemoryService]:
    """A service over a copy (of links) of a data folder.

    So nothing that it writes at its end can make up for what is missing, or hide it from whoever opens the folder next.
    """
    copy = data.with_name("copy")
    shutil.copytree(data, copy, copy_function=os.link)
    service = MemoryService(DataFolder(copy), embedder, settings(copy))
    try:
        yield service
    finally:
        service.close()
        shutil.rmtree(copy)


def _held(service: MemoryService) -> dict[Key, State]:
    """Everything there is; each memory's text must find the memory, with a score of 1."""
    held: dict[Key, State] = {}
    for namespace in service.counts():
        for memory in everything(service, namespace):
            [hit] = service.retrieve(Retrieval(query=memory.content, namespace=namespace, k=1, mode=Mode.DENSE)).hits
            found = (hit.memory.key, round(hit.score, 3))
            assert found == (memory.key, 1.0), f"{(namespace, memory.key)} has another text's vector: {found}"
            held[namespace, memory.key] = (memory.content, str(memory.metadata["op"]))
    return held


def _journals(data: Path) -> set[str]:
    return {path.stem for path in journal_paths(data / "journal")} if (data / "journal").exists() else set()


def _age(data: Path) -> None:
    """Make every journal look as if it had been quiet for two days, so that compactions may take it away."""
    for name in _journals(data):
        os.utime(data / "journal" / f"{name}.log", (time.time() - 2 * DAY_S,) * 2)


def full(folder: Path) -> list[Row]:
    """At full size, for the table."""
    seen = run(folder, KILLS, seed=1)
    writes = sum(seen.fell_in[kind] for kind in ("store", "touch", "store_batch", "delete", "delete_matching"))
    return [
        Row(
            "SIGKILL at a random moment",
            f"{seen.kills} processes one after the other over one folder, each killed and everything compared: "
            f"{seen.fell_in['open']} kills during a start, {seen.fell_in['snapshot']} during a snapshot, "
            f"{seen.fell_in['compact']} during a compaction, {writes} during a write (some during two of these).",
            f"All {seen.acknowledged} acknowledged operations were kept. Of the keys of writes without an answer "
            f"{seen.kept} held them and {seen.lost} did not, none in part. {len(seen.torn)} journals ended in a torn "
            f"frame; compactions removed {len(seen.removed)}. Every vector was its own text's.",
        )
    ]
