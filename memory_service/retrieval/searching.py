"""Searching: one look at a namespace's index and at the catalog, for one search."""

from dataclasses import dataclass

import numpy as np

from indexes.group_index import Groups
from memory_service.embedding.queue import Awaited
from memory_service.filters.grammar import EVERYTHING, Filter
from memory_service.model import Hit, Memory, Mode
from memory_service.namespaces.index import NamespaceIndex
from memory_service.projection.applying import Projection
from memory_service.retrieval import ranking
from memory_service.retrieval.ranking import AnalyzedQuery, Boosts, Ranking
from memory_service.retrieval.request import Retrieval
from memory_service.retrieval.selection import POOL_FACTOR, POOL_MIN, Places, select

NEAREST_MAX = 3
"""Hits that are shown where none is relevant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuery:
    """A retrieval whose query is understood and embedded.

    Attributes:
        wanted: the filter.
        question: what the query asks.
        vector: waits for that of the question's meaning, (dim,); None where meaning is not asked for.
        as_of_ms: the time to look back at; None is the present.
        boosts: what counts besides.
        itself: the id of the memory that hits are to be like.
    """

    retrieval: Retrieval
    wanted: Filter
    question: AnalyzedQuery
    vector: Awaited | None
    as_of_ms: int | None
    boosts: Boosts
    itself: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What one look at index and catalog finds.

    Attributes:
        candidates: ids of the memories that match filter and time; None where all do.
        count: how many candidates there are.
        ranked: the best of them.
        chosen: places in the ranking of what is returned, in this order, but for `max_tokens`.
        nearest: places of what to show where nothing is relevant enough.
        memories: of the places named, by id.
    """

    candidates: Groups | None
    count: int
    ranked: Ranking
    chosen: Places
    nearest: Places
    memories: dict[int, Memory]

    def hits(self, places: Places) -> list[Hit]:
        """The hits at places that were chosen or are nearest."""
        signals, ids = self.ranked.signals(), self.ranked.ids.tolist()
        return [Hit(self.memories[ids[at]], *signals[at]) for at in places]


def look(projection: Projection, search: PreparedQuery) -> tuple[SearchResult, bool]:
    """The best memories that index and catalog both know, and whether these are as many as there should be."""
    retrieval = search.retrieval
    index = projection.index(retrieval.namespace)
    among = candidates(projection, search, index)
    count = len(among) if among is not None else 0 if index is None else len(index)
    ranked, eligible, chosen = _chosen(projection, search, index, among)
    nearest = [] if eligible or retrieval.min_relevance is None else list(range(min(NEAREST_MAX, len(ranked.ids))))
    ids = {at: int(ranked.ids[at]) for at in (*chosen, *nearest)}
    memories = projection.catalog.by_ids(list(ids.values()), search.as_of_ms)
    is_whole = len(ranked.ids) >= min(retrieval.k, count) and len(memories) == len(ids)
    chosen, nearest = ([at for at in places if ids[at] in memories] for places in (chosen, nearest))
    return SearchResult(
        candidates=among, count=count, ranked=ranked, chosen=chosen, nearest=nearest, memories=memories
    ), is_whole


def candidates(projection: Projection, search: PreparedQuery, index: NamespaceIndex | None) -> Groups | None:
    """The ids, ascending, of what may be found; None admits all."""
    retrieval = search.retrieval
    found: Groups | None = None
    if search.wanted != EVERYTHING or search.as_of_ms is not None:
        found = projection.catalog.matching_ids(retrieval.namespace, search.wanted, search.as_of_ms)
    if index is not None and retrieval.span_ms != (None, None):
        in_span = index.in_span(*retrieval.span_ms)
        found = in_span if found is None else np.intersect1d(found, in_span, assume_unique=True)
    if index is not None and search.itself is not None:
        others = index.in_span(None, None) if found is None else found
        found = others[others != search.itself]
    return found


def ranked(
    projection: Projection, search: PreparedQuery, index: NamespaceIndex | None, among: Groups | None, k: int
) -> Ranking:
    """The k best of the candidates, by ids and what speaks for them."""
    if search.as_of_ms is not None:
        assert search.vector is not None, "looking back is by meaning"
        found = projection.nearest_then(search.retrieval.namespace, search.vector(), k, among)
        ids = np.array([id for id, _ in found], np.int64)
        scores = np.array([score for _, score in found], np.float32)
        return Ranking(ids=ids, scores=scores, dense=scores)
    if index is None:
        return Ranking(ids=np.empty(0, np.int64), scores=np.empty(0, np.float32))
    if search.vector is None or search.retrieval.ranked_by is Mode.LEXICAL:
        return ranking.by_words(search.question, index, k, among, boosts=search.boosts)
    if search.retrieval.ranked_by is Mode.DENSE:
        return ranking.by_meaning(search.vector(), index, k, among, boosts=search.boosts)
    return ranking.by_all(search.question, search.vector, index, k, among, boosts=search.boosts)


def _chosen(
    projection: Projection, search: PreparedQuery, index: NamespaceIndex | None, among: Groups | None
) -> tuple[Ranking, Places, Places]:
    """The best, the places of those that are good enough, and of these the ones to return."""
    retrieval = search.retrieval
    if index is None or not retrieval.is_selective:
        found = ranked(projection, search, index, among, retrieval.k)
        good = eligible(found, retrieval)
        return found, good, good
    pool = max(POOL_MIN, POOL_FACTOR * retrieval.k)
    while True:
        found = ranked(projection, search, index, among, pool)
        good = eligible(found, retrieval)
        chosen = select(
            found, good, index, retrieval.k, diversity=retrieval.diversity, per_session=retrieval.per_session
        )
        if len(chosen) == retrieval.k or len(found.ids) < pool or _ends(found, retrieval):
            return found, good, chosen
        pool *= POOL_FACTOR


def _ends(found: Ranking, retrieval: Retrieval) -> bool:
    """Whether all that comes after has too low a score."""
    return retrieval.min_score is not None and bool(found.scores[-1] < retrieval.min_score)


def eligible(found: Ranking, retrieval: Retrieval) -> Places:
    """The places, ascending, of what is good enough."""
    good = np.ones(len(found.ids), np.bool_)
    if retrieval.min_score is not None:
        good &= found.scores >= retrieval.min_score
    if retrieval.min_relevance is not None and found.relevance is not None:
        good &= found.relevance >= retrieval.min_relevance
    return list(np.flatnonzero(good).tolist())
