"""A file system without working locks, whose attributes and listings are up to a second old, as on a network.

The layer is ours: under the folder `os.stat`, `os.listdir` and `os.scandir` answer each client what it was told before,
for a second, about its own files too; a file that is opened is read as it is, also beyond the size that was told. Locks
fail. Time is the layer's own and advances when the scenario says so, which makes every run the same.

Two workers write, read and compact over it in a random order, each as a client of its own; a third one sleeps.
"""

import contextlib
import errno
import fcntl
import functools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from tests.faults.failing_calls import path_of
from tests.faults.rows import Row
from vector_memory.errors import Unavailable
from vector_memory.memories import Consistency, NewMemory
from vector_memory.retrieval import Mode, Retrieval

STRONG_READS_TRUST_ATTRIBUTES = False
"""Whether a strong read relies on the size that a file system tells; then it is as late as that."""

DELAY_MS = 1_000
NEVER_MS = 60_000
STEP_MS_MAX = 400
DAY_S = 24 * 3600
WEIGHTS = {"write": 8, "delete": 2, "read": 8, "strong": 4, "snapshot": 1, "compact": 1, "rush": 2}
"""How often a worker does what."""

CACHED = {"stat": "attributes", "listdir": "listings", "scandir": "listings"}


class Network:
    """What clients are told about the files of one folder.

    Attributes:
        now_ms: the layer's time.
        client: who is asking now.
        fresh: what is not cached at the moment, of "attributes" and "listings".
        late: answers that were not true any more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.absolute())
        self._told: dict[tuple[str, str, str], tuple[int, Any]] = {}
        self.now_ms = 0
        self.client = ""
        self.fresh: set[str] = set()
        self.late = 0

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """While inside, this process sees the folder through the network."""
        real = {name: getattr(os, name) for name in CACHED}
        locks = {name: getattr(fcntl, name) for name in ("flock", "lockf")}
        for name in CACHED:
            setattr(os, name, self._cached(name, real[name]))
        for name, lock in locks.items():
            setattr(fcntl, name, self._without_locks(lock))
        try:
            yield
        finally:
            for module, functions in ((os, real), (fcntl, locks)):
                for name, function in functions.items():
                    setattr(module, name, function)

    def _cached(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            where = path_of(path, kwargs.get("dir_fd"))
            if isinstance(path, int) or not where.startswith(self._folder):
                return real(path, *args, **kwargs)
            return self._tell(name, where, lambda: real(path, *args, **kwargs))

        return call

    def _tell(self, name: str, where: str, ask: Callable[[], Any]) -> Any:
        told_ms, answer = self._told.get((self.client, name, where), (-DELAY_MS, None))
        if self.now_ms - told_ms >= DELAY_MS or CACHED[name] in self.fresh:
            answer = list(ask()) if name == "scandir" else ask()
            self._told[self.client, name, where] = (self.now_ms, answer)
        else:
            self.late += _is_late(name, answer, ask)
        return _Entries(answer) if name == "scandir" else answer

    def _without_locks(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(file: Any, *args: Any) -> Any:
            descriptor = file if isinstance(file, int) else file.fileno()
            if path_of(descriptor, None).startswith(self._folder):
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            return real(file, *args)

        return call


class _Entries(list[Any]):
    """What `os.scandir` returned once, again."""

    def __enter__(self) -> "_Entries":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def _is_late(name: str, told: Any, ask: Callable[[], Any]) -> bool:
    try:
        true = ask()
    except OSError:
        return True
    if name == "stat":
        return bool((told.st_size, told.st_mtime_ns) != (true.st_size, true.st_mtime_ns))
    return sorted(map(_name, told)) != sorted(map(_name, true))


def _name(entry: Any) -> str:
    return str(getattr(entry, "name", entry))


@dataclass(slots=True)
class History:
    """Every acknowledged write of each key: when, and what it holds since. Each key has one writer."""

    writes: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)

    def note(self, key: str, at_ms: int, content: str | None) -> None:
        self.writes.setdefault(key, [(-DELAY_MS, None)]).append((at_ms, content))

    def last(self) -> dict[str, str]:
        held = {key: writes[-1][1] for key, writes in self.writes.items()}
        return {key: content for key, content in held.items() if content is not None}

    def possible(self, key: str, now_ms: int) -> set[str | None]:
        """What a reader may see who is told everything within the delay."""
        writes = self.writes[key]
        known = max(at for at, (at_ms, _) in enumerate(writes) if now_ms - at_ms >= DELAY_MS)
        return {content for _, content in writes[known:]}


def full(folder: Path) -> list[Row]:
    """Many lives in different orders."""
    return run(folder, seeds=8, steps=120)


def run(folder: Path, seeds: int, steps: int) -> list[Row]:
    """Lives of so many steps; one row."""
    seen: Counter[str] = Counter()
    for seed in range(seeds):
        where = folder / f"seed-{seed}"
        where.mkdir(parents=True)
        Story(where, random.Random(seed), seen).tell(steps)
    strong = "nothing else than after the delay" if STRONG_READS_TRUST_ATTRIBUTES else "every write at once"
    return [
        Row(
            f"attributes and listings up to {DELAY_MS} ms old, no locks",
            f"{seeds} lives of 2 workers and a sleeping one: {seen['write']} writes, {seen['compact']} compactions",
            f"{seen['late']} stale answers; {seen['read']} reads saw every write older than {DELAY_MS} ms and their "
            f"worker's own at once; {seen['strong']} strong reads saw {strong}; {seen['removed']} journals removed, "
            "all workers and a restart agree",
        )
    ]


class Story:
    """Workers over one folder, in a random order."""

    def __init__(self, folder: Path, chance: random.Random, seen: Counter[str]) -> None:
        self._folder = folder / "memory"
        self._scratch = folder
        self._chance = chance
        self._seen = seen
        self._network = Network(self._folder)
        self._history = History()
        self._workers: dict[str, MemoryService] = {}

    def tell(self, steps: int) -> None:
        """So many random steps, then everybody agrees."""
        self._fill()
        with self._network.mounted():
            self._workers = {name: self._opened(name) for name in ("one", "two")}
            sleeper = self._opened("sleeper", NEVER_MS)
            try:
                for at in range(steps):
                    self._step(at)
                self._network.now_ms += DELAY_MS
                self._agree({**self._workers, "sleeper": sleeper})
            finally:
                for service in (*self._workers.values(), sleeper):
                    service.close()
            self._agree({"a restart": self._opened("restart")}, close=True)
        self._seen["late"] += self._network.late

    def _fill(self) -> None:
        """What a worker of the day before yesterday left: its journal is quiet, so a compaction may take it away."""
        service = self._opened("old")
        for at in range(3):
            self._write("old", service, f"old-{at}", f"Old note {at}.")
        service.close()
        for path in (self._folder / "journal").iterdir():
            os.utime(path, (path.stat().st_atime - 2 * DAY_S, path.stat().st_mtime - 2 * DAY_S))

    def _opened(self, client: str, follow_interval_ms: int = 0) -> MemoryService:
        self._network.client = client
        settings = MemorySettings(follow_interval_ms=follow_interval_ms, cache_dir=self._scratch)
        return MemoryService(DataFolder(self._folder), HashEmbedder(), settings)

    def _step(self, at: int) -> None:
        name = self._chance.choice(list(self._workers))
        service = self._workers[name]
        match self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]:
            case "write":
                self._write(name, service, f"{name}-{self._chance.randrange(6)}", f"Note {at} of {name}.")
            case "delete":
                self._delete(name, service, f"{name}-{self._chance.randrange(6)}")
            case "read":
                self._read(name, service)
            case "strong":
                self._read_strongly(name, service)
            case "snapshot":
                self._network.client = name
                service.snapshot()
            case "compact":
                self._compact(name, service)
            case "rush":
                self._rush(at, name)
        self._network.now_ms += self._chance.randrange(STEP_MS_MAX)

    def _rush(self, at: int, name: str) -> None:
        """What one worker has just looked at, the other, who is told of its own changes at once, compacts away."""
        [(other, others)] = [(of, service) for of, service in self._workers.items() if of != name]
        self._read(name, self._workers[name])
        self._network.fresh = {"attributes", "listings"}
        self._write(other, others, f"{other}-rush", f"Note {at} of {other}, in a rush.")
        self._compact(other, others)
        self._network.fresh = set()
        self._read_strongly(name, self._workers[name])

    def _write(self, name: str, service: MemoryService, key: str, content: str) -> None:
        self._network.client = name
        service.store(NewMemory(content=content, key=key))
        self._history.note(key, self._network.now_ms, content)
        self._seen["write"] += 1

    def _delete(self, name: str, service: MemoryService, key: str) -> None:
        self._network.client = name
        service.delete_keys([key])
        self._history.note(key, self._network.now_ms, None)
        self._seen["write"] += 1

    def _read(self, name: str, service: MemoryService) -> None:
        """Own writes at once, those of others within the delay, and never anything that nobody wrote."""
        self._network.client = name
        held = _held(service)
        for key in {*held, *self._history.writes}:
            assert key in self._history.writes, f"{name} holds {key}, which nobody wrote"
            expected = {self._history.last().get(key)}
            if not key.startswith(name):
                expected = self._history.possible(key, self._network.now_ms)
            assert held.get(key) in expected, f"{self._when(name)} {key} is {held.get(key)!r}, expected {expected}"
        self._seen["read"] += 1

    def _read_strongly(self, name: str, service: MemoryService) -> None:
        """A strong read sees everything, although the attributes are stale; listings are not, for this moment."""
        self._network.client = name
        if STRONG_READS_TRUST_ATTRIBUTES:
            self._network.now_ms += DELAY_MS
        self._network.fresh = {"listings"}
        held = _held(service, Consistency.STRONG)
        self._network.fresh = set()
        expected = self._history.last()
        assert held == expected, f"{self._when(name)} a strong read shows {held}, expected {expected}"
        self._seen["strong"] += 1

    def _compact(self, name: str, service: MemoryService) -> None:
        """Whatever it removes, a fresh worker still finds everything."""
        self._network.client = name
        try:
            removed = service.compact().removed
        except Unavailable as error:
            raise AssertionError(
                f"{self._when(name)} a compaction was refused, though nothing fails: {error}"
            ) from error
        self._seen["removed"] += len(removed)
        self._seen["compact"] += 1
        self._agree({f"fresh-{self._seen['compact']}": self._opened(f"fresh-{self._seen['compact']}")}, close=True)

    def _agree(self, services: dict[str, MemoryService], *, close: bool = False) -> None:
        """Each holds exactly what was acknowledged, and each text has its own vector."""
        for name, service in services.items():
            self._network.client = name
            held = _held(service, Consistency.STRONG)
            expected = self._history.last()
            assert held == expected, f"{self._when(name)} {name} holds {held}, expected {expected}"
            for key, content in held.items():
                [hit] = service.retrieve(Retrieval(query=content, k=1, mode=Mode.DENSE)).hits
                assert hit.memory.key == key, f"{self._when(name)} {key} is not found by its own text, but {hit}"
                assert hit.score > 0.999, f"{self._when(name)} {key} has another text's vector: {hit}"
            if close:
                service.close()

    def _when(self, name: str) -> str:
        return f"{self._folder.parent.name}, at {self._network.now_ms} ms, for {name}:"


def _held(service: MemoryService, consistency: Consistency = Consistency.EVENTUAL) -> dict[str, str]:
    page = service.list(limit=1_000, consistency=consistency)
    return {memory.key: memory.content for memory in page.memories}
