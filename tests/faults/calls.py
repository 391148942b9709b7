"""Every system call fails once: the n-th of a kind, for n = 1, 2, 3, ... until a whole life meets no fault any more.

A life opens a service over a folder that holds memories, stores, updates, deletes, snapshots, compacts and closes. The
fault hits one call, or it lasts for some time, or until after the close. Beside it another worker, who slept since
before, reads strongly. Whatever happens, a call answers or raises an error of the service, reads go on, what was
acknowledged is kept, and as soon as the fault is over everything works again by itself.
"""

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from tests.faults.failing_calls import EVERYTHING, FULL, READ_ONLY, Fault, failing, named
from tests.faults.rows import Row
from vector_memory.errors import ServiceError, StartupError, Unavailable
from vector_memory.memories import Consistency, Memory, NewMemory, Refused
from vector_memory.retrieval import Hit, Mode, Retrieval

FAULTS: Mapping[str, tuple[Collection[str], int]] = {
    "write": ({"write"}, errno.ENOSPC),
    "read": ({"read"}, errno.EIO),
    "fsync": ({"fsync"}, errno.EIO),
    "rename": ({"rename"}, errno.EIO),
    "open": ({"open"}, errno.EIO),
    "listdir": ({"listdir"}, errno.EIO),
    "unlink": ({"unlink"}, errno.EIO),
    "mkdir": ({"mkdir"}, errno.ENOSPC),
    "stat": ({"stat"}, errno.EIO),
    "any call": (EVERYTHING, errno.EIO),
    "any change, read-only": (READ_ONLY, errno.EROFS),
    "any change, disk full": (FULL, errno.ENOSPC),
}
"""What fails together, and with which error."""

KINDS = tuple(FAULTS)
ALONE = frozenset(kind for kind, (kinds, _) in FAULTS.items() if len(kinds) == 1)
"""Kinds of which one call may fail alone; several together differ from these only when they go on failing."""

N_MAX = 2_000
"""More calls than a life makes: reaching it means that the fault never ends."""

NEVER_MS = 60_000
Result = TypeVar("Result")


class Lasts(StrEnum):
    """How long a fault lasts."""

    ONE_CALL = "one call"
    A_WHILE = "a while"
    BEYOND_THE_CLOSE = "beyond the close"


@dataclass(frozen=True, slots=True)
class Case:
    """One life under one fault."""

    kind: str
    n: int
    lasts: Lasts

    def __str__(self) -> str:
        kinds_error = named(FAULTS[self.kind][1])
        return f"{self.kind} number {self.n} fails with {kinds_error} for {self.lasts}"


@dataclass(slots=True)
class Ledger:
    """What may be held under each key: what was acknowledged last, and whatever was begun since without success."""

    possible: dict[str, set[str | None]]

    def acknowledge(self, key: str, content: str | None) -> None:
        self.possible[key] = {content}

    def leave_open(self, key: str, content: str | None) -> None:
        self.possible.setdefault(key, {None}).add(content)

    def check(self, held: Mapping[str, str], where: str) -> None:
        for key in {*self.possible, *held}:
            possible = self.possible.get(key, {None})
            assert held.get(key) in possible, f"{where}: {key} holds {held.get(key)!r}, expected one of {possible}"


@dataclass(slots=True)
class Seen:
    """What came of the lives of one kind."""

    lives: int = 0
    last_n: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


def full(folder: Path) -> list[Row]:
    """Every n of every kind."""
    return run(folder, KINDS, 1)


def run(folder: Path, kinds: Iterable[str], stride: int) -> list[Row]:
    """Every `stride`-th call of each kind fails, for each duration; a row for each kind."""
    template = folder / "template"
    _fill(template, folder / "scratch")
    return [_row(kind, _all_of(kind, stride, template, folder), stride) for kind in kinds]


def _all_of(kind: str, stride: int, template: Path, folder: Path) -> Seen:
    seen = Seen()
    for lasting in (False, True) if kind in ALONE else (True,):
        for n in range(1, N_MAX, stride):
            where = folder / "memory"
            shutil.copytree(template, where)
            is_reached = Life(Case(kind, n, _lasts(n, lasting)), where, folder / "scratch", seen.outcomes).run()
            shutil.rmtree(where)
            if not is_reached:
                break
            seen.lives += 1
            seen.last_n = max(seen.last_n, n)
        else:
            raise AssertionError(f"{kind}: a life that makes {N_MAX} such calls never ends")
    return seen


def _lasts(n: int, lasting: bool) -> Lasts:
    """Lasting faults end before the close or after it, in turns."""
    if not lasting:
        return Lasts.ONE_CALL
    return Lasts.A_WHILE if n % 2 else Lasts.BEYOND_THE_CLOSE


def _row(kind: str, seen: Seen, stride: int) -> Row:
    every = "every n" if stride == 1 else f"each {stride}th n"
    once = "that call alone, then " if kind in ALONE else ""
    outcomes = seen.outcomes
    return Row(
        f"the n-th system call fails: {kind} ({named(FAULTS[kind][1])})",
        f"{every} up to {seen.last_n}, {once}all from there for a while or beyond the close: {seen.lives} lives",
        f"{outcomes['refused start']} starts refused in one line; {outcomes['failed write']} writes, snapshots and "
        f"compactions answered `unavailable`, {outcomes['done']} were done; {outcomes['read']} reads served; "
        f"{outcomes['failed strong read']} strong reads of another worker refused, the others whole; nothing "
        "acknowledged lost, everything worked again after the fault",
    )


def _content(name: str) -> str:
    return f"Note {name}: pallet {sum(name.encode())} went to gate {len(name)}."


BASE = {f"base-{at}": _content(f"base-{at}") for at in range(6)}


def _fill(template: Path, scratch: Path) -> None:
    """A folder with two writers' journals, a snapshot, records beyond it, and a tombstone."""
    scratch.mkdir(parents=True, exist_ok=True)
    names = list(BASE)
    for at, part in enumerate((names[:3], names[3:])):
        service = _open(template, scratch)
        for key in [*part, f"gone-{at}"]:
            service.store(_memory(key, BASE.get(key, "To be deleted.")))
        if at == 0:
            service.snapshot()
        service.delete(f"gone-{at}")
        service.close()


def _open(folder: Path, scratch: Path, follow_interval_ms: int = 0) -> MemoryService:
    settings = MemorySettings(follow_interval_ms=follow_interval_ms, cache_dir=scratch)
    return MemoryService(DataFolder(folder), HashEmbedder(), settings)


def _memory(key: str, content: str) -> NewMemory:
    """A memory whose metadata tells its content, so that a mixture of two versions would show."""
    return NewMemory(content=content, key=key, metadata={"of": content})


class Life:
    """One service's life under a fault, with another worker beside it."""

    def __init__(self, case: Case, folder: Path, scratch: Path, outcomes: Counter[str]) -> None:
        self._case = case
        self._folder = folder
        self._scratch = scratch
        self._outcomes = outcomes
        self._ledger = Ledger({key: {content} for key, content in BASE.items()})
        self._fault = Fault((), 0)
        self._to_close = ExitStack()

    def run(self) -> bool:
        """Live, check everything, and tell whether the fault was reached."""
        kinds, error = FAULTS[self._case.kind]
        with self._to_close:
            sleeper = self._opened(NEVER_MS)
            is_lasting = self._case.lasts is not Lasts.ONE_CALL
            with failing(self._folder, kinds, error, self._case.n, lasting=is_lasting) as self._fault:
                service = self._started()
                if service is not None:
                    self._work(service)
                self._read_strongly(sleeper)
                if service is not None and self._case.lasts is Lasts.BEYOND_THE_CLOSE:
                    self._close(service)
                    service = None
            self._recover(service or self._opened(), sleeper)
        return self._fault.is_reached

    # -- under the fault -------------------------------------------------------------------------------------------

    def _started(self) -> MemoryService | None:
        """A service opened under the fault; None when its start is refused while the fault lasts."""
        for _ in range(2):
            is_over = self._is_over
            try:
                return self._told("open", self._opened)
            except StartupError as error:
                self._demand(not is_over, f"a start after the fault was refused: {error}")
                self._demand(str(self._folder) in str(error), f"the refusal does not name the folder: {error}")
                self._outcomes["refused start"] += 1
        return None

    def _work(self, service: MemoryService) -> None:
        self._reads(service)
        self._store(service, "one", _content("one"))
        self._store_batch(service)
        self._store(service, "base-0", _content("base-0 anew"))
        self._delete(service, "base-1")
        self._attempt(service.snapshot)
        self._reads(service)
        self._attempt(service.compact)
        self._reads(service)
        self._store(service, "two", _content("two"))
        self._store(service, "base-3", _content("base-3 anew"))

    def _store(self, service: MemoryService, key: str, content: str) -> None:
        is_done = self._attempt(lambda: service.store(_memory(key, content)))
        self._note(key, content, is_done)
        self._reads(service)

    def _delete(self, service: MemoryService, key: str) -> None:
        self._note(key, None, self._attempt(lambda: service.delete(key)))
        self._reads(service)

    def _store_batch(self, service: MemoryService) -> None:
        """Each memory of a batch is acknowledged or refused on its own."""
        contents = {f"batch-{at}": _content(f"batch-{at}") for at in range(3)} | {"base-2": _content("base-2 anew")}
        results: list[object] = []

        def store() -> None:
            results.extend(service.store_batch([_memory(*item) for item in contents.items()]))

        self._attempt(store)
        for at, (key, content) in enumerate(contents.items()):
            result = results[at] if results else None
            if isinstance(result, Refused):
                self._demand(isinstance(result.error, Unavailable), f"{key} was refused with {result.error!r}")
            self._note(key, content, result is not None and not isinstance(result, Refused))
        self._reads(service)

    def _reads(self, service: MemoryService) -> None:
        """List, get and retrieve answer whatever fails, with everything acknowledged."""
        held = self._told("list", lambda: _held(service))
        self._ledger.check(held, f"{self._case}, while serving")
        key, content = sorted(held.items())[self._outcomes["read"] % len(held)]
        found = self._told("get", lambda: service.get(key))
        self._demand(found.content == content, f"{key} is listed with another content than it is got with")
        hits = self._told("retrieve", lambda: service.retrieve(Retrieval(query=content, k=1, mode=Mode.DENSE)).hits)
        self._demand(_is_first(key, hits), f"{key} is not found by its own text: {hits}")
        self._outcomes["read"] += 3

    def _read_strongly(self, sleeper: MemoryService) -> None:
        """Another worker, who saw nothing of all this, reads everything acknowledged or says that it cannot."""
        is_over = self._is_over
        try:
            held = self._told("strong list", lambda: _held(sleeper, Consistency.STRONG))
        except Unavailable as error:
            self._demand(not is_over, f"a strong read after the fault was refused: {error}")
            self._outcomes["failed strong read"] += 1
        else:
            self._ledger.check(held, f"{self._case}, another worker's strong read")

    def _close(self, service: MemoryService) -> None:
        self._told("close", service.close)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def _recover(self, service: MemoryService, sleeper: MemoryService) -> None:
        """The fault is over: everything works, everybody agrees, and a restart shows the same."""
        self._finish("store", lambda: service.store(_memory("after", _content("after"))))
        self._note("after", _content("after"), is_done=True)
        self._finish("batch", lambda: service.store_batch([_memory("base-4", _content("base-4 anew"))]))
        self._note("base-4", _content("base-4 anew"), is_done=True)
        state = self._agreed(service, sleeper)
        self._finish("snapshot", service.snapshot)
        self._finish("compact", service.compact)
        self._demand(self._agreed(service, sleeper) == state, "a snapshot and a compaction changed the state")
        self._finish("close", service.close)
        restarted = self._opened()
        self._demand(_held(restarted) == state, f"a restart shows {_held(restarted)} instead of {state}")
        self._pairs(restarted, state)

    def _agreed(self, service: MemoryService, sleeper: MemoryService) -> dict[str, str]:
        """What both services hold, which must be the same and as the ledger says."""
        states = []
        for one, who in ((service, "the service"), (sleeper, "another worker")):
            held = self._finish(f"strong read of {who}", partial(_held, one, Consistency.STRONG))
            self._ledger.check(held, f"{self._case}, after the fault, {who}")
            self._demand(not one.problems(), f"after the fault {who} still reports {one.problems()}")
            self._pairs(one, held)
            states.append(held)
        self._demand(states[0] == states[1], f"after the fault the workers disagree: {states}")
        return states[0]

    def _pairs(self, service: MemoryService, held: Mapping[str, str]) -> None:
        """No text has another text's vector."""
        for key, content in held.items():
            hits = service.retrieve(Retrieval(query=content, k=1, mode=Mode.DENSE)).hits
            self._demand(_is_first(key, hits), f"{key} is not found by its own text: {hits}")

    # -- telling what happened -------------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        """Whether the fault was there and is no more."""
        return self._case.lasts is Lasts.ONE_CALL and self._fault.is_reached

    def _note(self, key: str, content: str | None, is_done: bool) -> None:
        (self._ledger.acknowledge if is_done else self._ledger.leave_open)(key, content)

    def _attempt(self, act: Callable[[], object]) -> bool:
        """Change something: whether that was done. It may be refused as unavailable, unless the fault is over."""
        is_over = self._is_over
        try:
            self._told("a change", act)
        except Unavailable as error:
            self._demand(not is_over, f"a change after the fault was refused: {error}")
            self._outcomes["failed write"] += 1
            return False
        self._outcomes["done"] += 1
        return True

    def _finish(self, what: str, act: Callable[[], Result]) -> Result:
        """Do what must succeed, now that the fault is over."""
        try:
            return act()
        except Exception as error:
            raise AssertionError(f"{self._case}: after the fault {what} ended in {error!r}") from error

    def _told(self, what: str, act: Callable[[], Result]) -> Result:
        """Do something under the fault; only errors of the service that mean "not now" may come of it."""
        try:
            return act()
        except (Unavailable, StartupError) as error:
            self._demand(what not in {"get", "list", "retrieve", "close"}, f"{what} was refused: {error}")
            raise
        except ServiceError as error:
            raise AssertionError(f"{self._case}: {what} was answered {error!r}") from error
        except Exception as error:
            raise AssertionError(f"{self._case}: {what} ended in a traceback, {error!r}") from error

    def _demand(self, holds: bool, expectation: str) -> None:
        assert holds, f"{self._case}: {expectation}"

    def _opened(self, follow_interval_ms: int = 0) -> MemoryService:
        service = _open(self._folder, self._scratch, follow_interval_ms)
        self._to_close.callback(lambda: None if service.is_closed else service.close())
        return service


def _held(service: MemoryService, consistency: Consistency = Consistency.EVENTUAL) -> dict[str, str]:
    """Contents by key, after a look at whether content and metadata are of the same version."""
    memories: tuple[Memory, ...] = service.list(limit=1_000, consistency=consistency).memories
    for memory in memories:
        assert memory.metadata == {"of": memory.content}, f"{memory.key} is a mixture of two versions: {memory}"
    return {memory.key: memory.content for memory in memories}


def _is_first(key: str, hits: Sequence[Hit]) -> bool:
    """Whether the text that was asked for is found, exactly."""
    return bool(hits) and hits[0].memory.key == key and hits[0].score > 0.999
