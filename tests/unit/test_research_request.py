"""A request is checked where it is made, whichever door it comes through."""

import pytest

from vector_memory.errors import InvalidInput
from vector_memory.research import ResearchRequest


def test_a_question_alone_is_a_request() -> None:
    request = ResearchRequest(query="Why?")

    assert (request.namespace, request.k, request.max_tokens, request.temperature) == ("default", 8, 2_000, 0.7)
    assert request.context_only is False


@pytest.mark.parametrize(
    "values",
    [
        {"query": "x" * 5_000},
        {"k": 1},
        {"k": 50},
        {"max_tokens": 100},
        {"max_tokens": 4_000},
        {"temperature": 0},
        {"temperature": 2},
        {"min_score": -1},
        {"min_score": 1.0},
        {"filter": {}},
        {"context_tokens": 1_024},
        {"context_tokens": 1_048_576},
        {"passages": 1},
        {"passages": 50},
        {"timeout_s": 1},
        {"timeout_s": 300.0},
        {"on_llm_error": "context"},
    ],
)
def test_the_bounds_themselves_are_allowed(values: dict[str, object]) -> None:
    ResearchRequest(**{"query": "Why?", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", ""),
        ("query", " \n"),
        ("query", "x" * 5_001),
        ("query", 7),
        ("namespace", ""),
        ("namespace", None),
        ("k", 0),
        ("k", 51),
        ("k", True),
        ("k", 8.0),
        ("k", "8"),
        ("min_score", 1.1),
        ("min_score", True),
        ("min_score", float("nan")),
        ("max_tokens", 99),
        ("max_tokens", 4_001),
        ("max_tokens", False),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "0.7"),
        pytest.param("temperature", 10**400, id="temperature-beyond-any-float"),
        ("context_only", 1),
        ("context_tokens", 1_023),
        ("context_tokens", 1_048_577),
        ("context_tokens", True),
        ("passages", 0),
        ("passages", 51),
        ("passages", "8"),
        ("timeout_s", 0.9),
        ("timeout_s", 300.1),
        ("timeout_s", float("nan")),
        ("timeout_s", True),
        ("on_llm_error", "ignore"),
        ("on_llm_error", None),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        ResearchRequest(**{"query": "Why?", field: value})  # type: ignore[arg-type]

    assert caught.value.field == field
