"""Ranks memories by how well they answer a query: by meaning, by words, and by what stands around them.

Two signals are absolute, so they do not depend on the other candidates. One is the cosine of the best window. The other
is the share of the query's words that a memory has, weighted by rarity (BM25's saturation and inverse document
frequency). The score is their mean. `evidence.py` adds what neighbours, speakers and sessions tell. `Boosts` add age
and importance, if the caller wants them to count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from indexes.group_index import Groups, Vectors
from memory_service.namespaces.index import NamespaceIndex
from memory_service.retrieval.analyzing import AnalyzedQuery
from memory_service.retrieval.candidates import Candidates, Rows, Scores
from memory_service.retrieval.evidence import SESSION, neighbour_meaning, priors, session_bests, word_shares

SIGNAL_CANDIDATES = 200
"""Candidates taken from each signal. Taking more changed no result in docs/retrieval.md."""

SIGNAL_DEVIATIONS = 1.5
"""Standard deviations beyond the expected distance within which an index of sketches searches for the candidates by
meaning. This finds 99.2 % of the 200 nearest of 100,000 memories, and all of the first ten in 300 queries, in 60 % of
the time that a search without a miss takes."""

RELEVANCE_DENSE, RELEVANCE_LEXICAL, RELEVANCE_BEHIND, RELEVANCE_CONSTANT = 3.114, 3.772, -4.349, -4.595
"""Logistic coefficients of a hit's cosine, of its share of the words, and of how far its score is behind the first one.
They were fitted on the development half of the data of docs/retrieval.md, where half of the questions had no answer."""

_HALF = np.float32(0.5)


class HitSignals(NamedTuple):
    """The signals of one memory; the fields are described in `Ranking`."""

    score: float
    dense: float | None = None
    lexical: float | None = None
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Boosts:
    """The age and importance that a caller wants to count in addition to the query.

    Attributes:
        now_ms: the time from which age is counted, in milliseconds since the Unix epoch.
        half_life_ms: age at which a score falls to half; None leaves age out.
        importance_weight: factor of the importance that is added to the score.
    """

    now_ms: int = 0
    half_life_ms: float | None = None
    importance_weight: float = 0.0

    def __bool__(self) -> bool:
        return self.half_life_ms is not None or self.importance_weight > 0


NO_BOOSTS = Boosts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Memories, best first.

    Attributes:
        ids: (n,) int64 ids of the memories.
        scores: (n,) scores, descending.
        dense: (n,) cosines; None in lexical mode.
        lexical: (n,) shares of the query's words, 0 to about 1; None in dense mode.
        relevance: (n,) 0 to 1, how likely each memory answers the query; only with both signals.
        parts: the parts that each score is the sum of, by name, (n,) each.
    """

    ids: Groups
    scores: Scores
    dense: Scores | None = None
    lexical: Scores | None = None
    relevance: Scores | None = None
    parts: Mapping[str, Scores] = field(default_factory=dict)

    def signals(self) -> list[HitSignals]:
        """Return the signals of each memory."""
        absent = [None] * len(self.ids)
        columns = (absent if it is None else it.tolist() for it in (self.dense, self.lexical, self.relevance))
        return [HitSignals(*row) for row in zip(self.scores.tolist(), *columns, strict=True)]


def rank_by_meaning(
    vector: Vectors, index: NamespaceIndex, k: int, among: Groups | None, *, boosts: Boosts = NO_BOOSTS
) -> Ranking:
    """Return the k memories whose best window is nearest to a vector (dim,)."""
    view = Candidates(index)
    view.compare(vector, among)
    rows = view.nearest(max(SIGNAL_CANDIDATES, k) if boosts else k, among)
    rows = _with_boosted(view, rows, boosts, among)
    cosines = view.cosines_of(rows)
    # (n,) without memories whose vectors were removed. Rounding can put a cosine just beyond 1.
    rows, cosines = rows[~np.isnan(cosines)], np.clip(cosines[~np.isnan(cosines)], -1, 1)
    return _best(view, rows, _boost(view, {"meaning": cosines}, rows, boosts), k, dense=cosines)


def rank_by_words(
    query: AnalyzedQuery, index: NamespaceIndex, k: int, among: Groups | None, *, boosts: Boosts = NO_BOOSTS
) -> Ranking:
    """Return the k memories with the largest share of the query's words; memories without any come last."""
    view = Candidates(index)
    shares = word_shares(view, query.terms)  # (count,)
    # (n,) the rows with the largest shares, more than k of them if boosts may change their order.
    rows = view.largest(shares, np.flatnonzero(view.allowed(among)), max(SIGNAL_CANDIDATES, k) if boosts else k)
    rows = _with_boosted(view, rows, boosts, among)
    return _best(view, rows, _boost(view, {"words": shares[rows]}, rows, boosts), k, lexical=shares[rows])


def rank_hybrid(
    query: AnalyzedQuery,
    vector: Vectors | Callable[[], Vectors],
    index: NamespaceIndex,
    k: int,
    among: Groups | None,
    *,
    boosts: Boosts = NO_BOOSTS,
) -> Ranking:
    """Return the k best memories by meaning, words and all other evidence.

    Args:
        query: analyzed for this namespace.
        vector: (dim,) of the query's meaning, or a function that waits for it while the words are counted.
        index: of the namespace.
        k: at least 1.
        among: ids of the candidates; None admits all memories.
        boosts: what counts in addition.
    """
    view = Candidates(index)
    shares = word_shares(view, query.terms)  # (count,)
    count = max(SIGNAL_CANDIDATES, k)
    # (m,) the best rows by words, without those that have none.
    with_words = view.largest(shares, np.flatnonzero((shares > 0) & view.allowed(among)), count)
    view.compare(vector() if callable(vector) else vector, among)
    # (n,) the union of the best rows by meaning, by words and by boosts.
    rows = np.union1d(view.nearest(count, among, SIGNAL_DEVIATIONS), with_words)
    rows = _with_boosted(view, rows, boosts, among)
    cosines = view.cosines_of(rows)
    # (n,) without memories whose vectors were removed.
    rows, cosines = rows[~np.isnan(cosines)], cosines[~np.isnan(cosines)]
    # (n,) each. A score is the sum of its parts, and half of each signal makes their mean.
    parts: dict[str, Scores] = {
        "meaning": _HALF * cosines,
        "neighbours_meaning": _HALF * neighbour_meaning(view, rows, cosines),
        "words": _HALF * shares[rows],
        **priors(view, rows, query),
    }
    # (n,) the best score of the session, so this part comes after all parts that it sums up.
    parts["session"] = SESSION * session_bests(view, rows, _total(parts))
    parts = _boost(view, parts, rows, boosts)
    return _best(view, rows, parts, k, dense=np.clip(cosines, -1, 1), lexical=shares[rows])


def _with_boosted(view: Candidates, rows: Rows, boosts: Boosts, among: Groups | None) -> Rows:
    """Add the rows that boosts may lift to the top whatever the query: the latest and the most important ones."""
    if not boosts:
        return rows
    # `allowed` is (m,), the rows that may be found. The unions are ascending and without repetition.
    talk, allowed = view.texts.talk, np.flatnonzero(view.allowed(among))
    if boosts.half_life_ms is not None:
        rows = np.union1d(rows, view.largest(talk.time_ms, allowed, SIGNAL_CANDIDATES))
    if boosts.importance_weight:
        rows = np.union1d(rows, view.largest(talk.importance, allowed, SIGNAL_CANDIDATES))
    return rows


def _boost(view: Candidates, parts: dict[str, Scores], rows: Rows, boosts: Boosts) -> dict[str, Scores]:
    """Add the parts (n,) of importance and age."""
    if boosts.importance_weight:
        parts = {**parts, "importance": boosts.importance_weight * view.texts.talk.importance[rows]}
    if boosts.half_life_ms is not None:
        # (n,) 0 for a time in the future.
        age_ms = np.maximum(0, boosts.now_ms - view.texts.talk.time_ms[rows])
        kept = 0.5 ** (age_ms / boosts.half_life_ms)  # (n,) the share of the score that is left
        # Age takes away from positive scores only; a negative one would rise by it.
        parts = {**parts, "age": ((kept - 1) * np.maximum(0, _total(parts))).astype(np.float32)}
    return parts


def _best(
    view: Candidates,
    rows: Rows,
    parts: Mapping[str, Scores],
    k: int,
    *,
    dense: Scores | None = None,
    lexical: Scores | None = None,
) -> Ranking:
    """Return the ranking of the k rows whose parts (n,) have the largest sums."""
    scores = _total(parts)  # (n,)
    best = view.order(rows, scores)[:k]  # (k,) positions in `rows`, best first
    # (k,) each
    scores = scores[best]
    dense, lexical = (None if it is None else it[best] for it in (dense, lexical))
    relevance = None if dense is None or lexical is None else _relevance(scores, dense, lexical)
    ids, parts = view.texts.lexical.groups[rows[best]], {name: part[best] for name, part in parts.items()}
    return Ranking(ids=ids, scores=scores, dense=dense, lexical=lexical, relevance=relevance, parts=parts)


def _total(parts: Mapping[str, Scores]) -> Scores:
    # (n,) the sum over the parts, which are stacked to (parts, n).
    total: Scores = np.sum(list(parts.values()), axis=0, dtype=np.float32)
    return total


def _relevance(scores: Scores, dense: Scores, lexical: Scores) -> Scores:
    """Return how likely each hit answers the query (n,), by a logistic curve. The scores must be descending."""
    if not len(scores):
        return scores
    # (n,) the logarithm of the odds, and the probability that belongs to it.
    signals = RELEVANCE_DENSE * dense + RELEVANCE_LEXICAL * lexical
    odds = signals + RELEVANCE_BEHIND * (scores[0] - scores) + RELEVANCE_CONSTANT
    relevance: Scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return relevance
