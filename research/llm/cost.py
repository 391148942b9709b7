"""Computes what an answer cost, by the prices that the operator configured, in their currency."""

from dataclasses import dataclass

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one endpoint. None means that there is no such price.

    Attributes:
        per_million_input: price of a million tokens of prompt.
        per_million_output: price of a million tokens of answer.
        per_second: price of a second in which the endpoint works for one request.
    """

    per_million_input: float | None = None
    per_million_output: float | None = None
    per_second: float | None = None


def cost(prices: Prices, *, prompt_tokens: int, completion_tokens: int, seconds: float) -> float | None:
    """Compute the cost of one completion.

    Args:
        prices: the endpoint's prices.
        prompt_tokens: tokens of the prompt; 0 if the endpoint reported none.
        completion_tokens: tokens of the answer; 0 if the endpoint reported none.
        seconds: seconds from the request to the last word.

    Returns:
        None if no price is set, or if a price needs tokens that the endpoint did not report: the cost is unknown.
    """
    rates = (prices.per_million_input, prices.per_million_output, prices.per_second)
    amounts = (prompt_tokens / _MILLION, completion_tokens / _MILLION, seconds)
    priced = [(price, amount) for price, amount in zip(rates, amounts, strict=True) if price is not None]
    if not priced or any(not amount for _, amount in priced):
        return None
    return sum(price * amount for price, amount in priced)
