"""What an answer cost, by the prices that the operator configured. The currency is theirs."""

from dataclasses import dataclass

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one endpoint; None where it has no such price.

    Attributes:
        per_million_input: for a million tokens of prompt.
        per_million_output: for a million tokens of answer.
        per_second: for a second in which the endpoint worked for one request.
    """

    per_million_input: float | None = None
    per_million_output: float | None = None
    per_second: float | None = None


def cost(prices: Prices, *, prompt_tokens: int, completion_tokens: int, seconds: float) -> float | None:
    """The cost of one completion: its tokens, 0 where the endpoint reported none, and its seconds to the last word.

    Returns:
        None when no price is set, or when one is for tokens and the endpoint reported none: unknown is not nothing.
    """
    priced = [
        (price, amount)
        for price, amount in (
            (prices.per_million_input, prompt_tokens / _MILLION),
            (prices.per_million_output, completion_tokens / _MILLION),
            (prices.per_second, seconds),
        )
        if price is not None
    ]
    if not priced or any(not amount for _, amount in priced):
        return None
    return sum(price * amount for price, amount in priced)
