"""Hybrid retrieval through the service: what it finds, what it survives, and that a restart changes nothing."""

import random
import threading
from datetime import UTC, datetime, timedelta

import pytest

from memory_service.journal.data_folder import DataFolder
from memory_service.namespaces import index as namespace_index
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings
from vector_memory.errors import InvalidInput
from vector_memory.memories import Consistency, NewMemory, Refused
from vector_memory.retrieval import Mode, Retrieval

STRONG = Consistency.STRONG
NOW = datetime.now(UTC)
TEXTS = [
    *("The flat white at the corner is too hot before ten.", "Dana asked for a second quote on the boilers."),
    *(
        "Do we park behind hall 4?",
        "Yes, next to the blue door.",
        "The boilers came on Tuesday.",
        "Thanks, that helps.",
    ),
    *("Who pays for the boilers?", "Brightwater does, from the first-year budget.", "It rained on the whole trip."),
    *("The summer party is on the roof.", "The zymurgy club meets there too.", "Bring a red umbrella."),
]
QUESTIONS = ["who pays for the boilers?", "when did Dana ask?", "zymurgy", "where do we park?", "what did Ann say?"]


def keys(hits):
    return [hit.memory.key for hit in hits]


def rankings(service, **rest):
    """What every question finds, with scores."""
    return [
        [
            (hit.memory.key, round(hit.score, 5), round(hit.lexical, 5))
            for hit in service.retrieve(Retrieval(query=question, k=50, **rest)).hits
        ]
        for question in QUESTIONS
    ]


def conversation(count=36, sessions=3):
    """Memories of several sessions by three speakers, and some without either."""
    memories = []
    for at in range(count):
        day = NOW - timedelta(days=sessions - at * sessions // count)
        metadata = {
            "session_id": f"s{at * sessions // count}",
            "speaker": ["Ann", "Bob Lee", "Cleo"][at % 3],
            "event_time": day.date().isoformat(),
        }
        memories.append(NewMemory(content=f"{TEXTS[at % len(TEXTS)]} ({at})", key=f"k{at}", metadata=metadata))
    return memories


def lived_through(service):
    """A history with updates, deletes and other workers' leavings: what is left is a conversation with gaps."""
    service.store_batch(conversation())
    changed = conversation()
    for at in (3, 7, 20):
        service.store(
            NewMemory(content=changed[at].content, key=f"k{at}", metadata={**changed[at].metadata, "speaker": "Dov"})
        )
    service.store(NewMemory(content="Zzz is no more.", key="gone", metadata={"session_id": "gone", "speaker": "Ghost"}))
    service.delete_keys(["gone", "k5", "k6", "k30"])


# -- what it finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "query", "k"),
    [
        ("Ticket INV-2231-B: settled in full.", "INV-2231-B", 1),
        (
            "After the rain we talked of the budget, parking, the boilers, the summer party and zymurgy.",
            "zymurgy",
            1,
        ),
        (
            "The red umbrellas were confirmed, by Okonkwo I think, after a long talk of boilers.",
            "what about Okonkwo?",
            5,
        ),
    ],
)
def test_a_code_a_rare_word_or_a_name_is_found_where_meaning_alone_misses_it(service, text, query, k):
    tickets = [f"Ticket INV-{at}-{letter}: settled in part." for at in range(2200, 2260) for letter in "AC"]
    clubs = ("brewing", "beer", "wine", "yeast", "chemistry", "fermentation", "zymosis", "distillery")
    callers = ("Oduya", "Okoro", "Pfister", "Konkol", "Obi", "Okafor", "Okonjo", "Nkonkwo")
    others = [f"The {club} club meets on the roof." for club in clubs] + [f"Mr {caller} called." for caller in callers]
    service.store_batch([NewMemory(content=content) for content in [*tickets, *others, text]])
    found = {
        mode: [hit.memory.content for hit in service.retrieve(Retrieval(query=query, k=k, mode=mode)).hits]
        for mode in Mode
    }
    assert text not in found[Mode.DENSE]
    assert text in found[Mode.HYBRID]
    assert text == found[Mode.LEXICAL][0]


def test_each_mode_says_what_it_ranked_by(service):
    service.store_batch([NewMemory(content=text) for text in TEXTS])
    for hit in service.retrieve(Retrieval(query="boilers", mode=Mode.DENSE)).hits:
        assert (hit.score, hit.lexical) == (hit.dense, None)
    for hit in service.retrieve(Retrieval(query="boilers", mode=Mode.LEXICAL)).hits:
        assert (hit.score, hit.dense) == (hit.lexical, None)
    for hit in service.retrieve(Retrieval(query="boilers")).hits:
        assert None not in (hit.dense, hit.lexical)
    assert (
        service.retrieve(Retrieval(query="boilers")).hits
        == service.retrieve(Retrieval(query="boilers", mode=Mode.HYBRID)).hits
    )


def test_looking_back_is_by_meaning_alone_and_says_so(service):
    service.store(NewMemory(content=TEXTS[0]))
    now = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert service.retrieve(Retrieval(query="coffee", as_of=now)).hits[0].lexical is None
    assert service.retrieve(Retrieval(query="coffee", as_of=now, mode=Mode.DENSE)).hits
    for mode in (Mode.LEXICAL, Mode.HYBRID):
        with pytest.raises(InvalidInput, match="as_of") as caught:
            Retrieval(query="coffee", as_of=now, mode=mode)
        assert caught.value.field == "mode"


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_fills_k_from_what_a_filter_admits(service, mode):
    service.store_batch([NewMemory(content=f"{text} {at}", metadata={"at": at}) for at, text in enumerate(TEXTS * 30)])
    for k, admitted in ((5, {"at": {"$lt": 0}}), (5, {"at": 7}), (50, {"at": {"$gte": 100}}), (1_000, {})):
        hits = service.retrieve(Retrieval(query="an unrelated question", k=k, filter=admitted, mode=mode)).hits
        count = len(service.list(filter=admitted, limit=1_000).memories)
        assert len(set(keys(hits))) == len(hits) == min(k, count)


def test_new_metadata_move_a_memory_to_another_session(service):
    def beside_the_word():
        hits = service.retrieve(Retrieval(query="zymurgy", k=10, mode=Mode.LEXICAL)).hits
        return {hit.memory.key for hit in hits if hit.score > 0}

    for at, session in enumerate(["one", "one", "two", "two"]):
        service.store(
            NewMemory(content=TEXTS[10] if at == 1 else TEXTS[8], key=f"k{at}", metadata={"session_id": session})
        )
    assert beside_the_word() == {"k0", "k1"}
    service.store(NewMemory(content=TEXTS[10], key="k1", metadata={"session_id": "two"}))
    assert beside_the_word() == {"k1", "k2", "k3"}


def test_a_delete_makes_neighbours_of_those_around_it(service):
    def lexical():
        return {
            hit.memory.key: hit.score
            for hit in service.retrieve(Retrieval(query="zymurgy", k=10, mode=Mode.LEXICAL)).hits
        }

    texts = [TEXTS[10], *[TEXTS[8]] * 3]
    service.store_batch(
        [NewMemory(content=text, key=f"k{at}", metadata={"session_id": "s"}) for at, text in enumerate(texts)]
    )
    before = lexical()
    assert before["k1"] > before["k2"] > before["k3"] == 0
    service.delete("k1")
    after = lexical()
    assert after["k2"] > before["k2"] + 0.05
    assert after["k3"] > 0


# -- what it survives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 7, 1.5, [], ["a"], {"a": 1}, "", "\0", "nan", "x" * 16_000),
        *("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999", "0001-01-01T00:00:00+23:59", "0001-01-01"),
    ],
    ids=repr,
)
def test_a_store_never_fails_because_of_what_ranking_looks_at(open_service, tmp_path, value):
    """A date of the year 10000 in UTC raised amid a commit: the catalog had the memory, the indexes did not."""
    service = open_service(tmp_path / "memory")
    for field in ("session_id", "speaker", "event_time"):
        service.store(NewMemory(content=f"The zymurgy club, {field}.", key=field, metadata={field: value}))
    service.store(NewMemory(content=TEXTS[0], key="after"))
    assert set(keys(service.retrieve(Retrieval(query="zymurgy", k=10)).hits)) == {
        "session_id",
        "speaker",
        "event_time",
        "after",
    }
    service.close()
    again = open_service(tmp_path / "memory")
    assert len(again.retrieve(Retrieval(query="zymurgy", k=10)).hits) == 4


def test_a_batch_with_strange_metadata_stores_every_item(service):
    metadata = [{"event_time": "9999-12-31T23:59:59-01:00"}, {"session_id": []}, {"speaker": {}}, None]
    results = service.store_batch(
        [NewMemory(content=f"{TEXTS[0]} {at}", metadata=what) for at, what in enumerate(metadata)]
    )
    assert not any(isinstance(result, Refused) for result in results)
    assert len(service.retrieve(Retrieval(query="coffee", k=10)).hits) == 4


def test_many_copies_of_one_text_are_found(service):
    service.store_batch([NewMemory(content=TEXTS[0], key=f"k{at:02}") for at in range(20)])
    assert keys(service.retrieve(Retrieval(query="flat white", k=20)).hits) == [f"k{at:02}" for at in range(20)]


# -- the same after a restart --------------------------------------------------------------------------------------


def test_a_start_from_journals_alone_ranks_the_same(open_service, tmp_path):
    """Also what names, sessions and neighbours come to: nothing of what is gone may be left in a score."""
    service = open_service(tmp_path / "memory")
    lived_through(service)
    before = rankings(service)
    service.close()
    assert rankings(open_service(tmp_path / "memory")) == before


def test_a_start_from_a_snapshot_and_what_came_after_it_ranks_the_same(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    lived_through(service)
    service.snapshot()
    service.delete_keys(["k8", "k20"])
    service.store(NewMemory(content=TEXTS[3], key="k10", metadata={"session_id": "s0", "speaker": "Ann"}))
    before = rankings(service)
    service.close()
    assert rankings(open_service(tmp_path / "memory")) == before


def test_a_start_after_a_compaction_ranks_the_same(open_service, tmp_path):
    service = open_service(tmp_path / "memory")
    lived_through(service)
    before = rankings(service)
    service.compact()
    assert rankings(service) == before
    service.close()
    assert list((tmp_path / "memory" / "journal").iterdir()) == []
    assert rankings(open_service(tmp_path / "memory")) == before


def test_what_was_deleted_is_in_no_file_after_a_compaction_also_not_as_a_speaker_or_session(open_service, tmp_path):
    service = open_service(tmp_path / "memory", MemorySettings(versions_kept_days=0))
    service.store_batch(conversation())
    metadata = {"speaker": "Wilhelmina Quagga", "session_id": "quagga-session"}
    service.store(NewMemory(content="Thanks, Quaggalina! Quaggaword.", key="secret", metadata=metadata))
    service.store(NewMemory(content="Quaggalabel: hello there", key="labelled"))
    service.snapshot()
    service.delete_keys(["secret", "labelled"])
    service.compact()
    files = [path for path in (tmp_path / "memory").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"quagga" in path.read_bytes().lower()] == []


def test_a_snapshot_whose_words_another_version_made_is_used_with_words_made_anew(open_service, tmp_path, monkeypatch):
    service = open_service(tmp_path / "memory")
    lived_through(service)
    before = rankings(service)
    monkeypatch.setattr("memory_service.projection.snapshots.PACKED_VERSION", 99)
    service.compact()
    service.close()
    monkeypatch.undo()
    assert rankings(open_service(tmp_path / "memory")) == before


def test_workers_that_applied_the_same_records_in_another_order_rank_the_same(minilm, tmp_path):
    """Rows and ids differ between them. What may differ is the order of memories whose scores are equal."""
    settings = MemorySettings(follow_interval_ms=0)
    one, two, late = (
        MemoryService(
            DataFolder(tmp_path / "memory"),
            minilm,
            MemorySettings(follow_interval_ms=60_000) if is_late else settings,
        )
        for is_late in (False, False, True)
    )
    memories = conversation()
    random.Random(5).shuffle(memories)
    for at, memory in enumerate(memories):
        (one, two, late)[at % 3].store(memory)
    for service, key in ((one, "k4"), (late, "k9"), (two, "k4")):
        [memory] = [memory for memory in memories if memory.key == key]
        service.store(
            NewMemory(content=memory.content, key=key, metadata={**memory.metadata, "speaker": "Dov"}),
            idempotency_key=key,
        )
    late.delete("k11")
    reader = MemoryService(DataFolder(tmp_path / "memory"), minilm, settings)
    seen = [rankings(service, consistency=STRONG) for service in (one, two, late, reader)]
    for service in (one, two, late, reader):
        service.close()
    for other in seen[1:]:
        for mine, theirs in zip(seen[0], other, strict=True):
            assert sorted(mine) == sorted(theirs)
            assert [score for _, score, _ in mine] == [score for _, score, _ in theirs]


# -- readers beside writers ----------------------------------------------------------------------------------------


def test_readers_never_fail_beside_writers_a_snapshot_and_rows_being_reclaimed(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(namespace_index, "DEAD_SHARE_MAX", 0.02)
    service = MemoryService(DataFolder(tmp_path / "memory"), minilm)
    service.store_batch(conversation(60))
    failures, stop = [], threading.Event()

    def forever(act):
        at = 0
        while not stop.is_set():
            try:
                act(at)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                failures.append(error)
                return
            at += 1

    def write(at):
        texts = [f"{name}: {TEXTS[(at + n) % len(TEXTS)]}" for n, name in enumerate(("Ann", "Bob", f"N{at}"))]
        metadata = [{}, {"session_id": f"s{at % 7}"}, {"event_time": NOW.isoformat(), "speaker": f"N{at}"}]
        service.store_batch(
            [
                NewMemory(content=text, key=f"w{at % 11}-{n}", namespace="busy", metadata=metadata[n])
                for n, text in enumerate(texts)
            ]
        )
        if at % 3 == 0:
            service.delete_keys([f"w{(at + 5) % 11}-{n}" for n in range(3)], namespace="busy")

    def read(at):
        question = QUESTIONS[at % len(QUESTIONS)]
        for mode in (Mode.HYBRID, Mode.LEXICAL):
            hits = service.retrieve(Retrieval(query=question, namespace="busy", k=5, mode=mode)).hits
            assert len(set(keys(hits))) == len(hits)
        assert len(service.retrieve(Retrieval(query=question, k=60)).hits) == 60

    threads = [
        threading.Thread(target=forever, args=(act,)) for act in (write, read, read, lambda _: service.snapshot())
    ]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    index = service._projection.index("busy")
    assert len(index.texts.lexical) == len(index) == len(service.list(namespace="busy", limit=1_000).memories)
    before = [keys(service.retrieve(Retrieval(query=question, namespace="busy", k=50)).hits) for question in QUESTIONS]
    service.close()
    again = MemoryService(DataFolder(tmp_path / "memory"), minilm)
    after = [keys(again.retrieve(Retrieval(query=question, namespace="busy", k=50)).hits) for question in QUESTIONS]
    again.close()
    assert [sorted(found) for found in after] == [sorted(found) for found in before]
