"""What an answer cost, and when that is unknown."""

import pytest

from research.llm.cost import Prices, cost


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        (Prices(), None),
        (Prices(per_million_input=2.0), 0.002),
        (Prices(per_million_input=2.0, per_million_output=10.0), 0.004),
        (Prices(per_second=0.01), 0.04),
        (Prices(per_million_input=2.0, per_second=0.01), 0.042),
        (Prices(per_million_input=0.0), 0.0),
    ],
)
def test_every_price_that_is_set_counts(prices: Prices, expected: float | None) -> None:
    found = cost(prices, prompt_tokens=1_000, completion_tokens=200, seconds=4.0)

    assert found == (None if expected is None else pytest.approx(expected))


def test_without_a_count_of_tokens_their_price_is_unknown_and_not_nothing() -> None:
    assert cost(Prices(per_million_input=2.0), prompt_tokens=0, completion_tokens=0, seconds=4.0) is None
    assert cost(Prices(per_second=0.5), prompt_tokens=0, completion_tokens=0, seconds=4.0) == 2.0
