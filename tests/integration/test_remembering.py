"""Answers that become memories, and everything that must not."""

import hashlib
import json
from pathlib import Path

import pytest

from memory_service.metadata import canonical
from research.context.packing import pack
from research.grounding.claims import read
from research.grounding.strictness import keep_supported
from research.grounding.verification import verify
from research.llm.endpoints import connect
from research.llm.settings import LLMSettings
from research.remembering import memory_of
from research.researcher import Researcher
from tests.list_recall import ListRecall, hits, memory
from tests.stand_in_llm import StandInLLM, answering, completion, hanging, replying
from vector_memory.errors import InvalidInput, StorageUnavailable
from vector_memory.memories import METADATA_BYTES_MAX as BYTES_MAX
from vector_memory.memories import NewMemory
from vector_memory.research import QUERY, ResearchRequest
from vector_memory.retrieval import Hit, Retrieval

FACTS = {
    "budget": "The budget of Brightwater is now 62,000 euro.",
    "key": "The spare key of the cabinet is with Jonas.",
    "gate": "Gate 4 opens at six.",
}
QUESTION = "What is the budget of Brightwater?"
TRUE = "The budget of Brightwater is now 62,000 euro [1]."


@pytest.fixture
def facts(service):
    service.store_batch([NewMemory(content=fact, key=key) for key, fact in FACTS.items()])
    return service


async def asked(recall, script, query=QUESTION, fallback="none", **rest):
    with StandInLLM(script) as server:
        settings = LLMSettings(base_url=server.base_url if fallback == "none" else None, fallback=fallback)
        researcher = Researcher(recall, settings, connect(settings))
        try:
            return await researcher.research(ResearchRequest(query=query, **rest))
        finally:
            await researcher.close()


def files(folder: Path) -> dict[str, str]:
    """Digests of every file under a folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


async def test_research_alone_writes_nothing(facts, tmp_path):
    """What was recalled is never stored back: neither a memory nor a byte of the data folder changes."""
    before, counts, state = files(tmp_path / "memory"), facts.counts(), facts.state("default")
    assert before

    for rest in ({}, {"strict": True}, {"context_only": True}, {"trace": True}, {"include_model": True}):
        answer = await asked(facts, answering(TRUE), **rest)
        assert (answer.remembered, answer.not_remembered) == (None, None)
    await asked(facts, hanging, fallback="extractive")

    assert (facts.counts(), facts.state("default"), files(tmp_path / "memory")) == (counts, state, before)


async def test_a_supported_answer_becomes_a_memory_that_says_what_it_is(facts):
    answer = await asked(facts, answering(TRUE), remember=True)

    assert answer.not_remembered is None
    kept = facts.get(answer.remembered)
    assert kept.key.startswith("research-")
    assert kept.content == f"Question: {QUESTION}\nAnswer: The budget of Brightwater is now 62,000 euro."
    assert kept.metadata == {
        "provenance": "model",
        "source": "research",
        "query": QUESTION,
        "model": "stand-in",
        "sources": ["budget"],
        "verdicts": {"supported": 1, "weak": 0},
    }
    assert kept.expires_at_ms is None


async def test_the_same_question_updates_its_memory_and_another_filter_makes_another(facts):
    first = await asked(facts, answering(TRUE), remember=True)
    again = await asked(facts, answering(f"As of today: {TRUE}"), query=f" {QUESTION} ", remember=True)
    other = await asked(facts, answering(TRUE), remember=True, filter={"key": "budget"})

    assert first.remembered == again.remembered != other.remembered
    assert "As of today" in facts.get(first.remembered).content
    assert facts.counts() == {"default": len(FACTS) + 2}


async def test_only_what_the_memories_support_is_remembered(facts):
    answer = await asked(facts, answering(f"{TRUE} It was 99,000 euro [1]. Everybody cheered."), remember=True)

    assert "99,000" in answer.result
    assert facts.get(answer.remembered).content.endswith("Answer: The budget of Brightwater is now 62,000 euro.")


@pytest.mark.parametrize(
    ("reason", "script", "rest"),
    [
        ("unsupported", answering("The budget is 99,000 euro [1]."), {}),
        ("unsupported", answering("It is 62,000 euro."), {}),
        ("unsupported", answering("The memories do not tell."), {}),
        ("truncated", "truncated", {}),
        ("degraded", replying("", status=503), {"on_llm_error": "context"}),
        ("abstained", answering(TRUE), {"namespace": "empty"}),
        ("abstained", answering(TRUE), {"query": "How do volcanoes form under the sea?"}),
        ("context_only", answering(TRUE), {"context_only": True}),
        ("quoted", hanging, {"fallback": "extractive"}),
    ],
)
async def test_what_no_memory_supports_is_not_remembered_and_the_answer_tells_why(facts, reason, script, rest):
    if script == "truncated":
        choice = {"message": {"content": f"{TRUE} And"}, "finish_reason": "length"}
        script = replying(json.dumps(completion("", choices=[choice])))
    answer = await asked(facts, script, remember=True, **rest)

    assert (answer.remembered, answer.not_remembered) == (None, reason)
    assert facts.counts() == {"default": len(FACTS)}


async def test_an_answer_goes_out_when_the_memories_take_no_writes():
    class ReadOnly(ListRecall):
        def store(self, memory):
            raise StorageUnavailable

    answer = await asked(ReadOnly([memory(FACTS["budget"])]), answering(TRUE), remember=True)

    assert (answer.result, answer.remembered, answer.not_remembered) == (TRUE, None, "not stored")


async def test_what_a_model_wrote_is_no_passage_unless_it_is_asked_for(facts):
    remembered = (await asked(facts, answering(TRUE), remember=True)).remembered

    usual = await asked(facts, answering(TRUE))
    with_it = await asked(facts, answering(TRUE), include_model=True)
    filtered = await asked(facts, answering(TRUE), filter={"provenance": "model"})
    theirs = await asked(facts, answering(TRUE), filter={"provenance": "model"}, include_model=True)

    assert remembered in {hit.memory.key for hit in facts.retrieve(Retrieval(query=QUESTION)).hits}, "retrieve finds it"
    assert {passage.key for passage in usual.context} == set(FACTS)
    assert remembered in {passage.key for passage in with_it.context}
    assert next(p.provenance for p in with_it.context if p.key == remembered) == "model"
    assert filtered.abstained
    assert [passage.key for passage in theirs.context] == [remembered]


async def test_what_a_model_wrote_takes_no_places_away_from_other_memories(facts):
    facts.store_batch(
        [
            NewMemory(content=f"{QUESTION} It is {n}.", key=f"model-{n}", metadata={"provenance": "model"})
            for n in range(20)
        ]
    )

    answer = await asked(facts, answering(TRUE), k=3)

    assert {passage.key for passage in answer.context} == set(FACTS)


async def test_namespaces_are_walls_for_what_is_remembered(facts):
    facts.store(NewMemory(content=FACTS["budget"], key="budget", namespace="other"))
    answer = await asked(facts, answering(TRUE), remember=True, namespace="other")

    assert answer.remembered
    assert facts.counts() == {"default": len(FACTS), "other": 2}
    mine = await asked(facts, answering(TRUE), include_model=True)
    assert answer.remembered not in {passage.key for passage in mine.context}


async def test_a_remembered_answer_goes_no_later_than_what_it_rests_on(facts):
    facts.store(NewMemory(content=FACTS["budget"], key="budget", ttl_seconds=60))
    answer = await asked(facts, answering(TRUE), remember=True)

    source, kept = facts.get("budget"), facts.get(answer.remembered)
    assert kept.expires_at_ms is not None
    assert kept.expires_at_ms <= source.expires_at_ms


async def test_answers_that_rest_on_a_memory_can_be_deleted_with_it(facts):
    remembered = (await asked(facts, answering(TRUE), remember=True)).remembered

    deleted = facts.delete_matching({"$or": [{"key": "budget"}, {"sources": {"$contains": "budget"}}]})

    assert set(deleted.keys) == {"budget", remembered}


def test_a_huge_question_with_many_long_keys_stays_within_the_bounds_of_a_memory(service):
    found = [Hit.of(memory(f"Fact {n} is true.", key=f"{n:02}" + "\x01" * 510), 1.0) for n in range(50)]
    passages = pack(found, 100_000).passages
    sentences = read(" ".join(f"Fact {p.content.split()[1]} is true [{p.n}]." for p in passages) * 9)
    kept = keep_supported("", sentences, verify(sentences, passages, ListRecall().embed))
    request = ResearchRequest(query="\x02" * (QUERY.chars_max - 1) + "?")

    made = memory_of(request, kept, found, "m", 0)

    assert len(canonical(made.metadata).encode()) <= BYTES_MAX
    assert 0 < len(made.metadata["sources"]) < 50
    assert service.store(made).key == made.key


def test_a_long_answer_is_cut_at_the_end_of_a_sentence():
    text = "The budget is 62,000 euro [1]. " * 400
    sentences = read(text)
    passages = pack(hits("The budget is 62,000 euro."), 1_000).passages
    kept = keep_supported(text, sentences, verify(sentences, passages, ListRecall().embed))

    content = memory_of(ResearchRequest(query="Why?"), kept, hits("x"), None, 0).content

    assert len(content) < 4_100
    assert content.endswith("62,000 euro.")


@pytest.mark.parametrize("field", ["remember", "include_model", "trace"])
def test_a_wish_is_yes_or_no(field):
    with pytest.raises(InvalidInput, match=field):
        ResearchRequest(query="Why?", **{field: "yes"})
