"""Research that says that it does not know, over the real model."""

import pytest

from research.llm.endpoints import connect
from research.llm.settings import LLMSettings
from research.researcher import IRRELEVANT, Researcher
from tests.stand_in_llm import StandInLLM, answering
from vector_memory.errors import InvalidInput
from vector_memory.memories import NewMemory
from vector_memory.research import ResearchRequest

FACTS = (
    "Dana drinks oat flat white, never before ten.",
    "The budget of Brightwater is now 62,000 euro.",
    "The spare key of the cabinet is with Jonas.",
    "Gate 4 opens at six.",
)


@pytest.fixture
def facts(service):
    service.store_batch([NewMemory(content=fact, key=f"k{at}") for at, fact in enumerate(FACTS)])
    return service


async def answered(service, query, **rest):
    """The answer, and how many requests the LLM saw."""
    with StandInLLM(answering("Yes [1].")) as server:
        settings = LLMSettings(base_url=server.base_url)
        researcher = Researcher(service, settings, connect(settings))
        answer = await researcher.research(ResearchRequest(query=query, **rest))
        await researcher.close()
        return answer, len(server.requests)


async def test_nothing_is_spent_on_a_question_that_no_memory_answers(facts):
    answer, requests = await answered(facts, "How do volcanoes form under the sea?")
    assert (answer.abstained, answer.result, answer.tokens_used, requests) == (True, IRRELEVANT, 0, 0)
    assert len(answer.nearest) == 3
    assert answer.context == ()
    assert all(miss.relevance < 0.05 for miss in answer.nearest)


async def test_a_question_that_a_memory_answers_is_asked_with_all_that_was_found(facts):
    answer, requests = await answered(facts, "When does gate 4 open?", k=4)
    assert (answer.abstained, answer.nearest, len(answer.context)) == (False, (), 4)
    assert requests >= 1


async def test_the_caller_may_ask_for_more_certainty_or_none(facts):
    answer, _ = await answered(facts, "When does gate 4 open?", min_relevance=0.999)
    assert answer.abstained
    answer, _ = await answered(facts, "How do volcanoes form under the sea?", min_relevance=0)
    assert not answer.abstained
    with pytest.raises(InvalidInput, match="min_relevance"):
        ResearchRequest(query="x", min_relevance=2)


async def test_who_asks_for_the_context_alone_judges_it_alone(facts):
    answer, requests = await answered(facts, "How do volcanoes form under the sea?", context_only=True)
    assert (answer.abstained, len(answer.context), requests) == (False, 4, 0)
