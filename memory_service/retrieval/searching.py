"""Searches index and catalog in one pass for a prepared query.

A writer changes the index and the catalog one right after the other. A pass in between may get ids that only one of
them knows, and then reports that it is incomplete. `Retriever` repeats it under the publish lock.
"""

from dataclasses import dataclass

import numpy as np

from indexes.group_index import Groups
from memory_service.embedding.queue import PendingVector
from memory_service.filters.grammar import EVERYTHING, Filter
from memory_service.namespaces.index import NamespaceIndex
from memory_service.projection.applying import Projection
from memory_service.retrieval import ranking
from memory_service.retrieval.analyzing import AnalyzedQuery
from memory_service.retrieval.ranking import Boosts, Ranking
from memory_service.retrieval.selection import POOL_FACTOR, POOL_MIN, Positions, select
from vector_memory.memories import Memory
from vector_memory.retrieval import Hit, Mode, Retrieval

NEAREST_MAX = 3
"""Hits shown as the nearest misses when no memory is relevant enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuery:
    """A retrieval whose filter is parsed and whose query is analyzed for its namespace.

    Attributes:
        wanted: the parsed filter.
        query: the analyzed query.
        vector: waits for the vector (dim,) of the query's meaning; None before `embed`, and in lexical mode.
        as_of_ms: the time to look back at, in milliseconds since 1970; None is the present.
        boosts: what counts in addition to the query.
        like_id: id of the memory that the hits are to be like.
    """

    retrieval: Retrieval
    wanted: Filter
    query: AnalyzedQuery
    vector: PendingVector | None = None
    as_of_ms: int | None
    boosts: Boosts
    like_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of one pass over index and catalog.

    Attributes:
        candidates: ids of the memories that match filter and time; None where all do.
        count: number of candidates.
        ranking: the best candidates.
        chosen: positions in the ranking that are returned, in this order; `max_tokens` may still leave some out.
        nearest: positions of the nearest misses, if no memory is relevant enough.
        memories: the memories at these positions, by id.
    """

    candidates: Groups | None
    count: int
    ranking: Ranking
    chosen: Positions
    nearest: Positions
    memories: dict[int, Memory]

    def hit_key(self, position: int) -> str:
        """Return the key of the memory at a position of `chosen`."""
        return self.memories[int(self.ranking.ids[position])].key

    def hits(self, positions: Positions) -> list[Hit]:
        """Return the hits at positions of `chosen` or `nearest`."""
        signals, ids = self.ranking.signals(), self.ranking.ids.tolist()
        return [Hit.of(self.memories[ids[at]], *signals[at]) for at in positions]


def search(projection: Projection, query: PreparedQuery) -> tuple[SearchResult, bool]:
    """Search once; return the result, and whether it is complete.

    It is incomplete if a writer changed the namespace between the reads of index and catalog.
    """
    retrieval = query.retrieval
    index = projection.index(retrieval.namespace)
    among = candidate_ids(projection, query, index)
    count = len(among) if among is not None else 0 if index is None else len(index)
    ranking, eligible, chosen = _choose(projection, query, index, among)
    nearest: Positions = []
    if not eligible and retrieval.min_relevance is not None:
        nearest = list(range(min(NEAREST_MAX, len(ranking.ids))))
    # Only the memories that are returned are read from the catalog.
    ids = {at: int(ranking.ids[at]) for at in (*chosen, *nearest)}
    memories = projection.catalog.by_ids(list(ids.values()), query.as_of_ms)
    is_complete = len(ranking.ids) >= min(retrieval.k, count) and len(memories) == len(ids)
    chosen, nearest = ([at for at in positions if ids[at] in memories] for positions in (chosen, nearest))
    result = SearchResult(
        candidates=among, count=count, ranking=ranking, chosen=chosen, nearest=nearest, memories=memories
    )
    return result, is_complete


def candidate_ids(projection: Projection, query: PreparedQuery, index: NamespaceIndex | None) -> Groups | None:
    """Return the ids, ascending, that filter and time admit; None admits all."""
    retrieval = query.retrieval
    ids: Groups | None = None
    if query.wanted != EVERYTHING or query.as_of_ms is not None:
        ids = projection.catalog.matching_ids(retrieval.namespace, query.wanted, query.as_of_ms)
    if index is not None and retrieval.span_ms != (None, None):
        # Both are ascending and without repetition, so the intersection (n,) is, too.
        in_span = index.in_span(*retrieval.span_ms)
        ids = in_span if ids is None else np.intersect1d(ids, in_span, assume_unique=True)
    if index is not None and query.like_id is not None:
        others = index.in_span(None, None) if ids is None else ids
        ids = others[others != query.like_id]
    return ids


def rank(
    projection: Projection, query: PreparedQuery, index: NamespaceIndex | None, among: Groups | None, k: int
) -> Ranking:
    """Return the k best candidates in the retrieval's mode."""
    if query.as_of_ms is not None:
        assert query.vector is not None, "looking back is by meaning"
        pairs = projection.nearest_at(query.retrieval.namespace, query.vector(), k, among)
        ids = np.array([id for id, _ in pairs], np.int64)
        scores = np.array([score for _, score in pairs], np.float32)
        return Ranking(ids=ids, scores=scores, dense=scores)
    if index is None:
        return Ranking(ids=np.empty(0, np.int64), scores=np.empty(0, np.float32))
    if query.vector is None or query.retrieval.ranked_by is Mode.LEXICAL:
        return ranking.rank_by_words(query.query, index, k, among, boosts=query.boosts)
    if query.retrieval.ranked_by is Mode.DENSE:
        return ranking.rank_by_meaning(query.vector(), index, k, among, boosts=query.boosts)
    return ranking.rank_hybrid(query.query, query.vector, index, k, among, boosts=query.boosts)


def _choose(
    projection: Projection, query: PreparedQuery, index: NamespaceIndex | None, among: Groups | None
) -> tuple[Ranking, Positions, Positions]:
    """Return the ranking, the positions that reach the minimum scores, and the chosen ones of these positions."""
    retrieval = query.retrieval
    if index is None or not retrieval.is_selective:
        best = rank(projection, query, index, among, retrieval.k)
        eligible = eligible_positions(best, retrieval)
        return best, eligible, eligible
    pool = max(POOL_MIN, POOL_FACTOR * retrieval.k)
    while True:
        best = rank(projection, query, index, among, pool)
        eligible = eligible_positions(best, retrieval)
        chosen = select(
            best, eligible, index, retrieval.k, diversity=retrieval.diversity, per_session=retrieval.per_session
        )
        # A larger pool cannot help if it would only bring candidates below `min_score`, or none at all.
        # Otherwise the pool grows until the selection has k memories.
        is_exhausted = len(best.ids) < pool or _ends_below_minimum(best, retrieval)
        if len(chosen) == retrieval.k or is_exhausted:
            return best, eligible, chosen
        pool *= POOL_FACTOR


def _ends_below_minimum(best: Ranking, retrieval: Retrieval) -> bool:
    return retrieval.min_score is not None and bool(best.scores[-1] < retrieval.min_score)


def eligible_positions(best: Ranking, retrieval: Retrieval) -> Positions:
    """Return the positions, ascending, that reach `min_score` and `min_relevance`."""
    # (n,) one flag for each memory of the ranking.
    is_eligible = np.ones(len(best.ids), np.bool_)
    if retrieval.min_score is not None:
        is_eligible &= best.scores >= retrieval.min_score
    if retrieval.min_relevance is not None and best.relevance is not None:
        is_eligible &= best.relevance >= retrieval.min_relevance
    return list(np.flatnonzero(is_eligible).tolist())
