"""Three workers over one folder against a plain list of writes: whatever they do, they agree with it and each other.

Two workers look at what the others wrote before every call. The third looks only when a call has to, as a worker does
that has just looked, and it has room for next to no index in memory. The clock is the machine's own.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memory_service.clock import HybridClock
from memory_service.embedding.embedder import TextWindow, Vectors
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from vector_memory.errors import Conflict, NotFound
from vector_memory.memories import Consistency, Event, EventKind, Memory, Metadata, NewMemory, Stored, StoreStatus
from vector_memory.retrieval import Mode, Retrieval
from vector_memory.times import iso_time

SECOND_MS = 1_000
DAY_MS = 24 * 3600 * SECOND_MS
HALF_PRECISION = 5e-4
"""Bound on the error of a cosine whose vector is kept in half precision: 2 to the -11th of each product."""

KEPT_MS = 7 * DAY_MS
SLACK_MS = 3600 * SECOND_MS
"""Superseded versions and remembered answers are forgotten up to an hour late, many at once."""

NAMESPACES = ("home", "work")
KEYS = ("a", "b")
WORDS = ("falcon", "cobalt", "walnut", "quartz", "velvet", "marzipan")
"""Each stands in one content only, so that its bytes in a file are bytes of that content."""

CONTENTS = (*(f"One {word}." for word in WORDS[:4]), *(f"Two {word}. And more of it." for word in WORDS[4:]))
"""The last two are embedded in two windows."""

COLOURS: tuple[Metadata, ...] = ({}, {"colour": "red"}, {"colour": "blue", "size": 2})
PATCHES: tuple[Metadata, ...] = ({"colour": "red"}, {"colour": None}, {"size": 3})
LIFETIMES_S = (None, None, 20, 100_000)
PAUSES_S = (20, 26 * 3600, 8 * 24 * 3600)
"""As long as the short lifetime; longer than answers are remembered; longer than superseded versions are kept."""

MOMENTS = 10
"""Of so many writes the moment after is looked back at."""

Place = tuple[str, str]
PLACES: tuple[Place, ...] = tuple((namespace, key) for namespace in NAMESPACES for key in KEYS)


class SentenceEmbedder(HashEmbedder):
    """Makes a window of each sentence."""

    def windows(self, text: str) -> list[TextWindow]:
        return [TextWindow(sentence, (0,)) for sentence in text.split(". ")]

    def vectors(self, text: str) -> Vectors:
        """One row for each window."""
        return self.embed(self.windows(text))


EMBEDDER = SentenceEmbedder()


def best_window_score(query: str, content: str) -> float:
    direction = EMBEDDER.vectors(query).sum(axis=0)
    return float((EMBEDDER.vectors(content) @ (direction / np.linalg.norm(direction))).max())


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a journal: what a place holds from then on; None is a delete."""

    place: Place
    at_ms: int
    memory: Memory | None

    def is_over(self, now_ms: int) -> bool:
        return self.memory is None or is_past(self.memory.expires_at_ms, now_ms)


def is_past(at_ms: int | None, now_ms: int) -> bool:
    return at_ms is not None and at_ms <= now_ms


class View:
    """What somebody knows at a time who has seen these writes, which are in the order of their stamps."""

    def __init__(self, writes: Iterable[Write], now_ms: int) -> None:
        self._now_ms = now_ms
        self._writes: dict[Place, list[Write]] = {place: [] for place in PLACES}
        for write in writes:
            self._writes[write.place].append(write)

    def held(self, place: Place) -> Memory | None:
        versions = self._versions(place)
        return versions[-1][0] if versions else None

    def memories(self, namespace: str) -> dict[str, Memory]:
        found = ((key, self.held((namespace, key))) for key in KEYS)
        return {key: memory for key, memory in found if memory is not None}

    def then(self, place: Place, at_ms: int) -> Memory | None:
        """What was there at a time within the days that versions are kept."""
        for memory, until_ms in self._versions(place):
            if memory.updated_at_ms <= at_ms < until_ms and not is_past(memory.expires_at_ms, at_ms):
                return memory
        return None

    def history(self, place: Place) -> list[Event]:
        kept = [memory for memory, until_ms in self._versions(place) if until_ms > self._now_ms - KEPT_MS]
        events = [Event.of(memory) for memory in reversed(kept)]
        writes = self._writes[place]
        last = writes[-1].memory if writes else None
        if not events and last is not None and last.expires_at_ms is not None:
            events.append(Event(kind=EventKind.EXPIRED, at_ms=last.expires_at_ms))
        deletes = [write.at_ms for write in writes if write.memory is None]
        return [*events, *(Event(kind=EventKind.DELETED, at_ms=at_ms) for at_ms in deletes[-1:])]

    def contents_kept(self, slack_ms: int) -> set[str]:
        """Those that a file may hold after a compaction, since a caller can still see or look back at them."""
        return {
            memory.content
            for place in PLACES
            for memory, until_ms in self._versions(place)
            if until_ms > self._now_ms - KEPT_MS - slack_ms
        }

    def _versions(self, place: Place) -> list[tuple[Memory, int]]:
        """Each version with the time until which it was the memory, oldest first.

        A delete erases the versions before it, and so does a version whose time is over, itself included.
        """
        writes = self._writes[place]
        begin = max((at for at, write in enumerate(writes, 1) if write.is_over(self._now_ms)), default=0)
        untils = [*(write.at_ms for write in writes[begin + 1 :]), self._now_ms + 1]
        memories = [write.memory for write in writes[begin:] if write.memory is not None]
        return list(zip(memories, untils[: len(memories)], strict=True))


@dataclass(slots=True)
class Worker:
    """A service, and what the others have written since it last looked.

    Attributes:
        is_sleepy: whether it looks only when a call has to.
    """

    service: MemoryService
    is_sleepy: bool
    unseen: list[Write] = field(default_factory=list)


workers = st.integers(0, 2)
places = st.sampled_from(PLACES)
contents = st.sampled_from(CONTENTS)
lifetimes = st.sampled_from(LIFETIMES_S)
new_memories = st.builds(
    lambda place, content, metadata, ttl_seconds: NewMemory(
        content=content, key=place[1], namespace=place[0], metadata=metadata, ttl_seconds=ttl_seconds
    ),
    places,
    contents,
    st.sampled_from(COLOURS),
    lifetimes,
)


class StoreMachine(RuleBasedStateMachine):
    """Every rule takes a second, so the order of the rules is the order of their stamps."""

    def __init__(self) -> None:
        super().__init__()
        self._root = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self._folder = self._root / "memory"
        self._now_ms = 1_790_000_000_000
        self._writes: list[Write] = []
        self._receipts: list[str] = []
        self._answers: dict[tuple[str, str], tuple[NewMemory, Stored, int]] = {}
        self._workers = [Worker(self._opened(number), is_sleepy=number == 2) for number in range(3)]

    def teardown(self) -> None:
        try:
            for number in range(3):
                self.agree(number, CONTENTS[-1])
        finally:
            for worker in self._workers:
                worker.service.close()
            shutil.rmtree(self._root)

    # -- writing ---------------------------------------------------------------------------------------------------

    @rule(number=workers, memory=new_memories)
    def store(self, number: int, memory: NewMemory) -> None:
        worker = self._call(number)
        self._note_store(worker, memory, worker.service.store(memory))

    @rule(number=workers, memories=st.lists(new_memories, min_size=2, max_size=4))
    def store_batch(self, number: int, memories: list[NewMemory]) -> None:
        worker = self._call(number)
        for memory, stored in zip(memories, worker.service.store_batch(memories), strict=True):
            assert isinstance(stored, Stored)
            self._note_store(worker, memory, stored)

    @rule(number=workers, memory=new_memories, name=st.sampled_from(["once", "twice"]))
    def store_with_an_idempotency_key(self, number: int, memory: NewMemory, name: str) -> None:
        worker = self._call(number, strong=True)
        request, answer, at_ms = self._answers.get((memory.namespace, name), (memory, None, self._now_ms))
        if answer is None or at_ms < self._now_ms - DAY_MS:
            stored = worker.service.store(memory, idempotency_key=name)
            self._note_store(worker, memory, stored)
            self._answers[memory.namespace, name] = (memory, stored, self._now_ms)
            return
        assert worker.service.store(request, idempotency_key=name) == answer
        if memory != request:
            with pytest.raises(Conflict):
                worker.service.store(memory, idempotency_key=name)

    @rule(
        number=workers,
        place=places,
        content=st.none() | contents,
        patch=st.sampled_from(PATCHES),
        ttl_seconds=lifetimes,
    )
    def update(self, number: int, place: Place, content: str | None, patch: Metadata, ttl_seconds: int | None) -> None:
        worker = self._call(number, strong=True)
        held = self._view(worker).held(place)

        def change() -> Stored:
            return worker.service.update(
                place[1], namespace=place[0], content=content, metadata=patch, ttl_seconds=ttl_seconds
            )

        if held is None:
            with pytest.raises(NotFound):
                change()
            return
        merged = {name: value for name, value in {**held.metadata, **patch}.items() if value is not None}
        expires_at_ms = held.expires_at_ms if ttl_seconds is None else self._now_ms + ttl_seconds * SECOND_MS
        self._note(worker, place, content or held.content, merged, expires_at_ms, change())

    @rule(number=workers, place=places)
    def delete(self, number: int, place: Place) -> None:
        worker = self._call(number)
        if self._view(worker).held(place) is None:
            worker.unseen.clear()  # what is missing is looked for at the others
        if self._view(worker).held(place) is None:
            with pytest.raises(NotFound):
                worker.service.delete(place[1], namespace=place[0])
        else:
            self._note_deleted(
                worker, place[0], worker.service.delete(place[1], namespace=place[0]).receipt, [place[1]]
            )

    @rule(number=workers, namespace=st.sampled_from(NAMESPACES), colour=st.sampled_from(["red", "blue"]))
    def delete_matching(self, number: int, namespace: str, colour: str) -> None:
        worker = self._call(number)
        deleted = worker.service.delete_matching({"colour": colour}, namespace=namespace)
        assert list(deleted.keys) == sorted(matching(self._view(worker).memories(namespace), colour))
        self._note_deleted(worker, namespace, deleted.receipt, deleted.keys)

    @rule(seconds=st.sampled_from(PAUSES_S))
    def pass_time(self, seconds: int) -> None:
        self._now_ms += seconds * SECOND_MS

    # -- keeping ---------------------------------------------------------------------------------------------------

    @rule(number=workers)
    def snapshot(self, number: int) -> None:
        self._call(number, strong=True).service.snapshot()

    @rule(number=workers)
    def compact(self, number: int) -> None:
        self._call(number, strong=True).service.compact()

    @precondition(lambda self: self._receipts)
    @rule()
    def compact_everything(self) -> None:
        """Every worker leaves its journal, the journals of former lives are quiet: no file holds what was erased."""
        for number in range(3):
            self._call(number, strong=True).service.compact()
        for journal in (self._folder / "journal").iterdir():
            os.utime(journal, (time.time() - 2 * DAY_MS / SECOND_MS,) * 2)
        worker = self._call(0, strong=True)
        assert worker.service.compact().kept == ()
        data = b"".join(path.read_bytes() for path in self._folder.rglob("*") if path.is_file())
        kept = self._view(worker).contents_kept(SLACK_MS)
        for word, content in zip(WORDS, CONTENTS, strict=True):
            if content not in kept:
                assert word.encode() not in data, f"{content!r} is gone, and its bytes are not"
                assert all(vector.tobytes() not in data for vector in EMBEDDER.vectors(content)[:1])
        assert all(worker.service.receipt(receipt).files == () for receipt in self._receipts)
        self._receipts.clear()

    @rule(number=workers)
    def restart(self, number: int) -> None:
        worker = self._call(number, strong=True)
        worker.service.close()
        worker.service = self._opened(number)

    @rule(query=contents)
    def start_over_what_a_kill_would_leave(self, query: str) -> None:
        copy = self._root / "copy"
        shutil.copytree(self._folder, copy, copy_function=os.link)
        service = self._opened(0, copy)
        try:
            self._check(service, View(self._writes, self._now_ms), query)
        finally:
            service.close()
            shutil.rmtree(copy)

    # -- reading ---------------------------------------------------------------------------------------------------

    @rule(number=workers)
    def glance(self, number: int) -> None:
        """A read that demands nothing shows what the worker has seen."""
        worker = self._call(number)
        for namespace in NAMESPACES:
            shown = {memory.key: memory for memory in worker.service.list(namespace=namespace).memories}
            assert shown == self._view(worker).memories(namespace)

    @rule(number=workers, query=contents)
    def agree(self, number: int, query: str) -> None:
        """A strong read shows everything that anybody wrote."""
        worker = self._call(number, strong=True)
        self._check(worker.service, self._view(worker), query)

    @invariant()
    def everything_can_be_read(self) -> None:
        assert [worker.service.problems() for worker in self._workers] == [[], [], []]

    def _check(self, service: MemoryService, view: View, query: str) -> None:
        for namespace in NAMESPACES:
            memories = view.memories(namespace)
            newest_first = sorted(memories.values(), key=lambda memory: (-memory.created_at_ms, memory.key))
            assert listed(service, namespace) == newest_first
            for key in KEYS:
                assert got(service, namespace, key) == memories.get(key)
                assert history(service, namespace, key) == view.history((namespace, key))
            check_retrieve(service, namespace, query, memories)
            check_retrieve(service, namespace, query, matching(memories, "red"), {"colour": "red"})
        counts = {namespace: len(view.memories(namespace)) for namespace in NAMESPACES}
        assert service.counts() == {namespace: count for namespace, count in counts.items() if count}
        for write in self._writes[-MOMENTS:]:
            if write.at_ms > self._now_ms - KEPT_MS:
                check_then(service, view, write.place[0], write.at_ms)

    # -- the model -------------------------------------------------------------------------------------------------

    def _opened(self, number: int, folder: Path | None = None) -> MemoryService:
        settings = MemorySettings(
            cache_dir=self._root,
            follow_interval_ms=60_000 if number == 2 else 0,
            index_budget_mb=0.000_001 if number == 2 else 0,
            versions_kept_days=KEPT_MS / DAY_MS,
        )
        return MemoryService(DataFolder(folder or self._folder), EMBEDDER, settings, HybridClock(lambda: self._now_ms))

    def _call(self, number: int, *, strong: bool = False) -> Worker:
        """A second passes, then a worker is called."""
        self._now_ms += SECOND_MS
        worker = self._workers[number]
        if strong or not worker.is_sleepy:
            worker.unseen.clear()
        return worker

    def _view(self, worker: Worker) -> View:
        return View((write for write in self._writes if write not in worker.unseen), self._now_ms)

    def _note_store(self, worker: Worker, memory: NewMemory, stored: Stored) -> None:
        assert memory.key is not None
        assert memory.metadata is not None
        expires_at_ms = None if memory.ttl_seconds is None else self._now_ms + memory.ttl_seconds * SECOND_MS
        place = memory.namespace, memory.key
        begins = memory.ttl_seconds is not None  # a lifetime from now is a change, even to one that ends then
        self._note(worker, place, memory.content, memory.metadata, expires_at_ms, stored, is_change=begins)

    def _note(
        self,
        worker: Worker,
        place: Place,
        content: str,
        metadata: Metadata,
        expires_at_ms: int | None,
        stored: Stored,
        *,
        is_change: bool = False,
    ) -> None:
        """Hold an answer against what the worker has seen, and write it down."""
        held = self._view(worker).held(place)
        created_at_ms = self._now_ms if held is None else held.created_at_ms
        memory = Memory(
            namespace=place[0],
            key=place[1],
            content=content,
            metadata=metadata,
            created_at_ms=created_at_ms,
            updated_at_ms=self._now_ms,
            expires_at_ms=expires_at_ms,
        )
        updated_at_ms = self._now_ms
        if held is None:
            status = StoreStatus.STORED
        elif not is_change and (held.content, held.metadata, held.expires_at_ms) == (content, metadata, expires_at_ms):
            status, updated_at_ms = StoreStatus.UNCHANGED, held.updated_at_ms
        else:
            status = StoreStatus.UPDATED
        expected = Stored(
            namespace=place[0],
            key=place[1],
            status=status,
            created_at_ms=created_at_ms,
            updated_at_ms=updated_at_ms,
        )
        assert stored == expected
        if expected.status is not StoreStatus.UNCHANGED:
            self._write(worker, Write(place, self._now_ms, memory))

    def _note_deleted(self, worker: Worker, namespace: str, receipt: str | None, keys: Sequence[str]) -> None:
        assert (receipt is not None) == bool(keys)
        self._receipts += [receipt] if receipt else []
        for key in keys:
            self._write(worker, Write((namespace, key), self._now_ms, None))

    def _write(self, worker: Worker, write: Write) -> None:
        self._writes.append(write)
        for other in self._workers:
            if other is not worker:
                other.unseen.append(write)


def matching(memories: Mapping[str, Memory], colour: str) -> dict[str, Memory]:
    return {key: memory for key, memory in memories.items() if memory.metadata.get("colour") == colour}


def check_then(service: MemoryService, view: View, namespace: str, at_ms: int) -> None:
    """Looking back shows what was there at a time, each memory once."""
    page = service.list(namespace=namespace, as_of=iso_time(at_ms))
    expected = [memory for key in KEYS if (memory := view.then((namespace, key), at_ms)) is not None]
    assert sorted(page.memories, key=lambda memory: memory.key) == expected


def listed(service: MemoryService, namespace: str) -> list[Memory]:
    """Everything, in pages of two."""
    found: list[Memory] = []
    cursor = None
    while True:
        page = service.list(namespace=namespace, limit=2, cursor=cursor, consistency=Consistency.STRONG)
        found += page.memories
        if (cursor := page.cursor) is None:
            return found


def got(service: MemoryService, namespace: str, key: str) -> Memory | None:
    try:
        return service.get(key, namespace=namespace, consistency=Consistency.STRONG)
    except NotFound:
        return None


def history(service: MemoryService, namespace: str, key: str) -> list[Event]:
    try:
        return service.history(key, namespace=namespace, consistency=Consistency.STRONG)
    except NotFound:
        return []


def check_retrieve(
    service: MemoryService,
    namespace: str,
    query: str,
    candidates: Mapping[str, Memory],
    filter: Mapping[str, str] | None = None,
) -> None:
    """k is always filled with candidates; by meaning they are the best ones, scored exactly."""
    scores = sorted((best_window_score(query, memory.content) for memory in candidates.values()), reverse=True)
    for mode, k in ((Mode.DENSE, 1), (Mode.DENSE, 50), (Mode.HYBRID, 2)):
        hits = service.retrieve(
            Retrieval(query=query, namespace=namespace, k=k, filter=filter, mode=mode, consistency=Consistency.STRONG)
        ).hits
        assert len({hit.key for hit in hits}) == len(hits) == min(k, len(candidates))
        for hit in hits:
            assert dict(hit) | dict(candidates[hit.key]) == dict(hit)
            assert hit.dense == pytest.approx(best_window_score(query, hit.content), abs=HALF_PRECISION)
        if mode is Mode.DENSE:
            assert [hit.score for hit in hits] == pytest.approx(scores[:k], abs=HALF_PRECISION)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=30)
