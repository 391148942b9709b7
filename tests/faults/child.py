"""A process that works on a data folder at random and announces all it does: `python -m tests.faults.child FOLDER SEED`

It obeys words on its standard input, one a line:

    open     recover the folder, then write (and, if asked to, take snapshots and compact) until `stop`
    stop     finish what was begun, begin nothing more, and say so
    state    say everything that a strong read shows
    (end)    close the service and exit

It prints one JSON line for each thing that happens, at once, so that whoever kills it knows how far it was told:

    {"event": "begin", "op": "7-12", "kind": "store", "namespace": "n0", "writes": [[key, content]], "at_ms": 1}
    {"event": "ack", "op": "7-12", "done": [[key, content, stamp_ms]], "at_ms": 2}

A deletion is a write of the content null. `Child` is the other end of these pipes.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_service.clock import wall_ms
from memory_service.journal.data_folder import DataFolder
from memory_service.model import DeleteOutcome
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from tests.worker_process import environment
from vector_memory.errors import NotFound, Unavailable
from vector_memory.memories import Consistency, Memory, NewMemory, Stored
from vector_memory.retrieval import Mode, Retrieval

ANSWER_S_MAX = 60
GROUPS = 6
"""What `delete_matching` tells memories apart by: one call deletes a sixth of them."""

KINDS = {"store": 8, "touch": 3, "delete": 4, "store_batch": 2, "delete_matching": 1}
"""The operations of a writer, and how often each is chosen. A touch keeps the content and changes the metadata."""

KEEPER_PAUSE_S_MAX = 0.08

FILLERS = ("", "", " It rained.", " And so on." * 400)
"""What follows a content: now and then as much as makes a write of many pages, which a kill can cut in two."""

Pairs = Sequence[tuple[str, str | None]]
State = tuple[str, str]
"""A memory as these scenarios see it: its content, and the operation that wrote it."""


def settings(folder: Path) -> MemorySettings:
    """Snapshots in the background as often as can be set, and what is local beside the folder."""
    return MemorySettings(cache_dir=folder.parent, snapshot_records=100, snapshot_interval_s=1)


def group(op: str) -> int:
    """The group of what an operation stores."""
    return int(op.rpartition("-")[2]) % GROUPS


def everything(service: MemoryService, namespace: str) -> Iterator[Memory]:
    """All memories of a namespace by a strong read, page by page."""
    cursor = None
    while True:
        page = service.list(namespace=namespace, limit=100, cursor=cursor, consistency=Consistency.STRONG)
        yield from page.memories
        if (cursor := page.cursor) is None:
            return


# -- the process -------------------------------------------------------------------------------------------------------


class Announcer:
    """Says on standard output what is about to be done, and what was answered. Thread-safe."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._numbers = itertools.count()
        self._speaking = threading.Lock()

    def name(self) -> str:
        """A name for an operation that no other has, of whichever process."""
        return f"{self._seed}-{next(self._numbers)}"

    def begin(self, op: str, kind: str, namespace: str = "", writes: Pairs = (), group: int | None = None) -> None:
        self.say("begin", op=op, kind=kind, namespace=namespace, writes=writes, group=group)

    def ack(self, op: str, done: Sequence[tuple[str, str | None, int | None]] = ()) -> None:
        self.say("ack", op=op, done=done)

    def say(self, event: str, **fields: Any) -> None:
        with self._speaking:
            print(json.dumps({"event": event, "at_ms": wall_ms(), **fields}), flush=True)


class Writer:
    """One thread's random stores, updates and deletions in one namespace."""

    def __init__(
        self,
        service: MemoryService,
        announcer: Announcer,
        chance: random.Random,
        namespace: str,
        keys: int,
        may_write: threading.Event,
    ) -> None:
        self._service = service
        self._announcer = announcer
        self._chance = chance
        self._namespace = namespace
        self._keys = [f"k{number:03d}" for number in range(keys)]
        self._may_write = may_write

    def step(self) -> None:
        """Do one thing, as soon as it may."""
        self._may_write.wait()
        key = self._chance.choice(self._keys)
        match self._chance.choices(list(KINDS), list(KINDS.values()))[0]:
            case "store":
                self._store(key)
            case "touch":
                self._touch(key)
            case "store_batch":
                self._store_batch(self._chance.choices(self._keys, k=self._chance.randint(2, 20)))
            case "delete":
                self._delete(key)
            case "delete_matching":
                self._delete_matching(self._chance.randrange(GROUPS))

    def _content(self, key: str, op: str, at: int = 0) -> str:
        """A text that nobody else writes, in any operation, under any key."""
        return f"{self._namespace}/{key} as operation {op} had it at {at}.{self._chance.choice(FILLERS)}"

    def _store(self, key: str) -> None:
        op = self._announcer.name()
        self._put(op, "store", key, self._content(key, op))

    def _touch(self, key: str) -> None:
        try:
            held = self._service.get(key, namespace=self._namespace)
        except NotFound:
            return
        self._put(self._announcer.name(), "touch", key, held.content)

    def _put(self, op: str, kind: str, key: str, content: str) -> None:
        self._announcer.begin(op, kind, self._namespace, [(key, content)])
        stored = self._service.store(self._memory(op, key, content))
        self._announcer.ack(op, [(key, content, stored.updated_at_ms)])

    def _store_batch(self, keys: Sequence[str]) -> None:
        """The same key may come twice; then the last one holds."""
        op = self._announcer.name()
        pairs = [(key, self._content(key, op, at)) for at, key in enumerate(keys)]
        self._announcer.begin(op, "store_batch", self._namespace, pairs)
        results = self._service.store_batch([self._memory(op, key, content) for key, content in pairs])
        stored = [result for result in results if isinstance(result, Stored)]
        assert len(stored) == len(pairs), f"items of {op} were refused: {results}"
        done = [(key, content, item.updated_at_ms) for (key, content), item in zip(pairs, stored, strict=True)]
        self._announcer.ack(op, done)

    def _memory(self, op: str, key: str, content: str) -> NewMemory:
        return NewMemory(content=content, key=key, namespace=self._namespace, metadata={"op": op, "group": group(op)})

    def _delete(self, key: str) -> None:
        op = self._announcer.name()
        self._announcer.begin(op, "delete", self._namespace, [(key, None)])
        self._announce_deleted(op, self._service.delete_keys([key], namespace=self._namespace))

    def _delete_matching(self, group: int) -> None:
        op = self._announcer.name()
        self._announcer.begin(op, "delete_matching", self._namespace, [(key, None) for key in self._keys], group)
        self._announce_deleted(op, self._service.delete_matching({"group": group}, namespace=self._namespace))

    def _announce_deleted(self, op: str, deleted: DeleteOutcome) -> None:
        """With the stamp where the answer has one and it can be no other key's."""
        stamp = getattr(deleted, "stamp", None) if len(deleted.keys) == 1 else None
        self._announcer.ack(op, [(key, None, stamp.ms if stamp else None) for key in deleted.keys])


class Keeper:
    """One thread's snapshots and compactions at random moments, half of them while the writers pause.

    So a compaction meets a journal that grows, and one that is quiet, which it may take away from under its writer.
    """

    def __init__(
        self, service: MemoryService, announcer: Announcer, chance: random.Random, may_write: threading.Event
    ) -> None:
        self._service = service
        self._announcer = announcer
        self._chance = chance
        self._may_write = may_write

    def step(self) -> None:
        """Let the writers go on for a moment, then take a snapshot or compact."""
        time.sleep(self._chance.uniform(0, KEEPER_PAUSE_S_MAX))
        if self._chance.random() < 0.5:
            self._may_write.clear()
        self._keep(self._chance.choice(("snapshot", "compact")))
        self._may_write.set()

    def _keep(self, kind: str) -> None:
        op = self._announcer.name()
        self._announcer.begin(op, kind)
        try:
            if kind == "snapshot":
                self._service.snapshot()
            else:
                self._service.compact()
        except Unavailable as error:
            self._announcer.say("refused", op=op, why=str(error))
        else:
            self._announcer.ack(op)


class Session:
    """The process between `open` and its end."""

    def __init__(self, folder: Path, announcer: Announcer) -> None:
        op = announcer.name()
        announcer.begin(op, "open")
        self._service = MemoryService(DataFolder(folder), HashEmbedder(), settings(folder))
        announcer.ack(op)
        self._announcer = announcer
        self._stopping = threading.Event()
        self._may_write = threading.Event()
        self._may_write.set()
        self._threads: list[threading.Thread] = []

    def work(self, seed: int, writers: int, keys: int, *, shared: bool, keeper: bool) -> None:
        """Begin to write: each writer in a namespace of its own, or all in one."""
        for number in range(writers):
            namespace = "shared" if shared else f"n{number}"
            chance = random.Random(seed * 1_000 + number)
            writer = Writer(self._service, self._announcer, chance, namespace, keys, self._may_write)
            self._repeat(writer.step)
        if keeper:
            self._repeat(Keeper(self._service, self._announcer, random.Random(~seed), self._may_write).step)

    def stop(self) -> None:
        """Finish what was begun."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def state(self, namespace: str) -> list[list[Any]]:
        """Each memory with its times, and what a search for its text finds."""
        rows = []
        for memory in everything(self._service, namespace):
            hit = self._service.retrieve(
                Retrieval(query=memory.content, namespace=namespace, k=1, mode=Mode.DENSE)
            ).hits[0]
            times = memory.created_at_ms, memory.updated_at_ms
            rows.append([memory.key, memory.content, memory.metadata["op"], *times, hit.memory.key, hit.score])
        return rows

    def close(self) -> None:
        self.stop()
        self._service.close()

    def _repeat(self, step: Callable[[], None]) -> None:
        def run() -> None:
            try:
                while not self._stopping.is_set():
                    step()
            except BaseException:  # noqa: BLE001 - an operation that fails for no fault of ours ends the process
                traceback.print_exc()
                os._exit(70)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()


def main() -> None:
    """Obey standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.child")
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--keys", type=int, default=40)
    parser.add_argument("--shared", action="store_true", help="all writers in one namespace, whose keys others write")
    parser.add_argument("--keeper", action="store_true", help="also take snapshots and compact")
    chosen = parser.parse_args()
    announcer = Announcer(chosen.seed)
    session: Session | None = None
    for line in sys.stdin:
        match line.strip(), session:
            case "open", None:
                session = Session(chosen.folder, announcer)
                session.work(chosen.seed, chosen.writers, chosen.keys, shared=chosen.shared, keeper=chosen.keeper)
            case "stop", Session():
                session.stop()
                announcer.say("stopped")
            case "state", Session():
                announcer.say("state", memories=session.state("shared"))
    if session is not None:
        session.close()


# -- its other end -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Operation:
    """What a process announced of one operation.

    Attributes:
        kind: a writer's (KINDS), or open, snapshot, compact.
        writes: the (key, content) that it may lead to; for a deletion by group every key that could be of the group.
        group: of a deletion by group.
        done: the (key, content, stamp in ms if known) that it was answered to have led to; None without an answer.
        ended_ms: when the answer came, or when the process was gone.
        refused: why it was not done.
    """

    id: str
    kind: str
    namespace: str
    writes: list[tuple[str, str | None]]
    group: int | None
    began_ms: int
    done: list[tuple[str, str | None, int | None]] | None = None
    ended_ms: int = 0
    refused: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was begun and never answered."""
        return self.done is None and self.refused is None

    def state(self, content: str | None) -> State | None:
        """What a key holds after one of its writes."""
        return None if content is None else (content, self.id)


class Child:
    """A started process: tell it what to do, know what it announced, kill it.

    Attributes:
        seed: that it was started with.
        operations: by their names, in the order of their beginnings; complete once the process has ended.
    """

    def __init__(self, folder: Path, seed: int, *options: str) -> None:
        """Args:
        folder: the data folder; the process's log goes beside it.
        seed: of what it does; of processes over one folder each needs its own.
        options: as of the command line.
        """
        self.operations: dict[str, Operation] = {}
        self.seed = seed
        self._answers: dict[str, dict[str, Any]] = {}
        self._heard = threading.Condition()
        self._log = folder.parent / f"child-{seed}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.child", str(folder), str(seed), *options],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def open(self) -> None:
        """Have it open the folder; it is at it when this returns."""
        self._tell("open")
        self._wait_until(lambda: bool(self.operations), "it was to begin to open the folder")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: whoever waits for its answer says so
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()

    def ask(self, word: str, event: str) -> dict[str, Any]:
        """Tell it, and wait for what it says to that."""
        self._tell(word)
        self._wait_until(lambda: event in self._answers, f"it was told to {word}")
        return self._answers.pop(event)

    def wait_for(self, kind: str) -> None:
        """Wait until it begins an operation of this kind, from now on."""
        begun = self._count(kind)
        self._wait_until(lambda: self._count(kind) > begun, f"it was to begin: {kind}")

    def kill(self) -> None:
        """SIGKILL, unless it has ended by itself, which is an error."""
        self._process.kill()
        self._process.wait()
        self._hang_up()
        assert self._process.returncode == -9, self._story("it was to be killed")

    def end(self) -> None:
        """Have it close its service and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(ANSWER_S_MAX) == 0, self._story("it was to exit")
        self._hang_up()

    def discard(self) -> None:
        """End it in whatever state it is."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._listener.join(ANSWER_S_MAX)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _count(self, kind: str) -> int:
        return sum(operation.kind == kind for operation in self.operations.values())

    def _wait_until(self, has_come: Callable[[], bool], what: str) -> None:
        with self._heard:
            came = self._heard.wait_for(lambda: has_come() or not self._listener.is_alive(), ANSWER_S_MAX)
        assert came and has_come(), self._story(what)  # noqa: PT018

    def _story(self, what: str) -> str:
        return f"process {self.seed} ({self._process.poll()}): {what}. It left:\n{self._log.read_text()[-4_000:]}"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # what is cut off in the middle was not announced
                with self._heard:
                    self._note(json.loads(line))
                    self._heard.notify_all()
        gone_ms = wall_ms()
        with self._heard:
            for operation in self.operations.values():
                operation.ended_ms = operation.ended_ms or gone_ms
            self._heard.notify_all()

    def _note(self, said: dict[str, Any]) -> None:
        match said["event"]:
            case "begin":
                writes = [(key, content) for key, content in said["writes"]]
                self.operations[said["op"]] = Operation(
                    said["op"], said["kind"], said["namespace"], writes, said["group"], said["at_ms"]
                )
            case "ack":
                operation = self.operations[said["op"]]
                operation.done = [(key, content, stamp_ms) for key, content, stamp_ms in said["done"]]
                operation.ended_ms = said["at_ms"]
            case "refused":
                operation = self.operations[said["op"]]
                operation.refused, operation.ended_ms = said["why"], said["at_ms"]
            case answer:
                self._answers[answer] = said


if __name__ == "__main__":
    main()
