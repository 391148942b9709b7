"""Indexes within a budget: a service that evicts nearly everything all the time answers as one that evicts nothing."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.clock import HybridClock
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from tests.faults.embedder import HashEmbedder
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Mode, Retrieval

NAMESPACES = ("a", "b", "c", "d")
CONTENTS = ("Ann: do you like tea?", "Bob: yes, since 2021", "red kettle", "the quagga", "tea tea tea", "Thanks, Bob!")
METADATA = ({}, {"session_id": "s"}, {"session_id": 2, "speaker": "Ann"}, {"event_time": "2023-05-08"}, {"n": 1})
QUESTIONS = ("does Ann like tea?", "when was the kettle red?", "quagga")

namespaces, keys, numbers = st.sampled_from(NAMESPACES), st.integers(0, 7), st.integers(0, 200)
histories = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(st.tuples(namespaces, keys, numbers), min_size=1, max_size=6)),
        st.tuples(st.just("delete"), st.tuples(namespaces, st.lists(keys, min_size=1, max_size=4))),
        st.tuples(st.just("retrieve"), st.tuples(namespaces, numbers)),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=25,
)


class Ticking:
    """A clock that goes on when it is told to, so that two histories have the same times."""

    def __init__(self):
        self.ms = 1_700_000_000_000

    def __call__(self):
        return self.ms


class Life:
    """A service over a folder of its own, and its restarts."""

    def __init__(self, folder, budget_mb):
        self.folder, self.cache = folder / "memory", folder / "cache"
        self.cache.mkdir(parents=True)
        self.settings = MemorySettings(index_budget_mb=budget_mb, cache_dir=self.cache, follow_interval_ms=0)
        self.now = Ticking()
        self.open()

    def open(self):
        self.service = MemoryService(DataFolder(self.folder), HashEmbedder(), self.settings, HybridClock(self.now))

    def act(self, what, value):
        self.now.ms += 1_000
        match what:
            case "store":
                made = [
                    NewMemory(
                        content=f"{CONTENTS[n % 6]} {n}", key=f"k{key}", namespace=namespace, metadata=METADATA[n % 5]
                    )
                    for namespace, key, n in value
                ]
                return [stored.status for stored in self.service.store_batch(made)]
            case "delete":
                namespace, found = value
                return self.service.delete_keys([f"k{key}" for key in found], namespace=namespace).keys
            case "retrieve":
                return seen(self.service, value[0], QUESTIONS[value[1] % 3])
        if value:
            self.service.snapshot()
        self.service.close()
        assert list(self.cache.iterdir()) == [], "nothing is left on local disk"
        return self.open()


def seen(service, namespace, question):
    """What a caller sees of a namespace, to the last bit, vectors included."""
    answers = []
    for mode in Mode:
        for k in (3, 50):
            hits = service.retrieve(Retrieval(query=question, namespace=namespace, k=k, mode=mode)).hits
            answers.append([(hit.memory.key, hit.memory.content, hit.score, hit.dense, hit.lexical) for hit in hits])
    return answers


@settings(max_examples=settings().max_examples // 3)
@given(history=histories)
def test_a_tiny_budget_changes_no_answer_and_no_snapshot(history):
    root = Path(tempfile.mkdtemp())
    lives = [Life(root / "unlimited", 0), Life(root / "tiny", 0.000_001)]
    try:
        for what, value in [*history, ("restart", True)]:
            answers = [life.act(what, value) for life in lives]
            assert answers[0] == answers[1]
            tiny = lives[1].service._projection
            tiny.expire(0)
            assert len(tiny._indexes.in_ram()) <= 1
        for question in QUESTIONS:
            for namespace in NAMESPACES:
                assert seen(lives[0].service, namespace, question) == seen(lives[1].service, namespace, question)
        held = [life.service._projection.memories_held() for life in lives]
        assert held[0] == held[1] == sum(lives[0].service.counts().values())
        written = [snapshot_files(life.folder) for life in lives]
        assert written[0] == written[1]
    finally:
        for life in lives:
            life.service.close()
        assert all(list(life.cache.iterdir()) == [] for life in lives)
        shutil.rmtree(root)


def snapshot_files(folder):
    """The FAISS files of the newest snapshot, which the order of namespaces decides, too."""
    newest = max((folder / "snapshots").iterdir())
    return {path.name: path.read_bytes() for path in newest.glob("*.faiss")}
