"""Judges how good a ranking is, given what should be in it. It knows no service.

These are the measures of one question with evidence E and of the first k memories returned:

- any@k: 1 if any of E is among them;
- recall@k: the share of E that is among them;
- all@k: 1 if all of E is among them;
- nDCG@10: the sum of gains of the relevant memories divided by log2(1 + rank), as a share of the sum of the best
  possible ranking (Järvelin and Kekäläinen 2002). A gain is 1 for evidence and the grade for judged documents;
- MRR: 1 / the rank of the first of E, 0 if none of E is returned.

A figure is the mean over questions, in percent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.texts import SEED

DEPTH = 20
"""Memories asked for. A memory beyond this rank counts as not returned."""

NDCG_DEPTH = 10
RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Judged:
    """One answered question.

    Attributes:
        source: name of the data set.
        conversation: name of the conversation.
        part: part of the split that the conversation is in.
        ranks: ranks of the evidence that was returned, from 1, ascending.
        evidence: number of turns that are evidence.
        tokens: number of tokens of the first ten memories.

    """

    source: str
    conversation: str
    part: str
    category: str
    ranks: tuple[int, ...]
    evidence: int
    tokens: int

    def recall(self, k: int) -> float:
        """Return the share of the evidence that is among the first k."""
        return sum(rank <= k for rank in self.ranks) / self.evidence

    def ndcg(self) -> float:
        """Return nDCG@10 with a gain of 1 for each piece of evidence."""
        return ndcg(dict.fromkeys(self.ranks, 1), [1] * self.evidence)


def _any(k: int) -> Callable[[Judged], float]:
    return lambda one: float(one.recall(k) > 0)


def _recall(k: int) -> Callable[[Judged], float]:
    return lambda one: one.recall(k)


MEASURES: dict[str, Callable[[Judged], float]] = {
    **{f"any@{k}": _any(k) for k in (1, 5, 10, 20)},
    **{f"recall@{k}": _recall(k) for k in (1, 5, 10, 20)},
    "all@10": lambda one: float(one.recall(10) == 1),
    "nDCG@10": lambda one: one.ndcg(),
    "MRR": lambda one: 1 / one.ranks[0] if one.ranks else 0.0,
}
HEADLINES = ("any@10", "recall@10")


def ndcg(gains: Mapping[int, float], possible: Sequence[float]) -> float:
    """Return the discounted gain of a ranking as a share of the best ranking's.

    Args:
        gains: the gains of the ranking by rank, from 1.
        possible: the gains of everything that is relevant, at least one, in any order.

    """
    best = dict(enumerate(sorted(possible, reverse=True), 1))
    return _discounted(gains) / _discounted(best)


def _discounted(gains: Mapping[int, float]) -> float:
    return float(sum(gain / np.log2(1 + rank) for rank, gain in gains.items() if rank <= NDCG_DEPTH))


def mean(judged: Sequence[Judged], measure: str) -> float:
    """Return the mean of a measure in percent. There must be at least one judged question."""
    return 100 * float(np.mean([MEASURES[measure](one) for one in judged]))


def any_by_k(judged: Sequence[Judged]) -> list[float]:
    """Return any@1 to any@`DEPTH` in percent. There must be at least one judged question."""
    return [100 * float(np.mean([one.recall(k) > 0 for one in judged])) for k in range(1, DEPTH + 1)]


def interval(judged: Sequence[Judged], measure: str) -> tuple[float, float]:
    """Return the middle 95 % of the mean in percent, over questions drawn again with replacement (bootstrap).

    Questions of one conversation are not independent, so the truth is less certain than this.
    """
    # (questions,) the measure of each question.
    values = np.array([MEASURES[measure](one) for one in judged])
    chooser = np.random.default_rng(SEED)
    # (RESAMPLES,) the mean of as many questions, drawn with replacement.
    means = [values[chooser.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)
