"""Explains how an answer came about, and why a memory is not in it."""

import numpy as np

from indexes.group_index import Groups
from memory_service.filters.grammar import EVERYTHING, AllOf, AnyOf, Filter, Not, to_json
from memory_service.projection.applying import Projection
from memory_service.retrieval.ranking import Ranking
from memory_service.retrieval.searching import PreparedQuery, SearchResult, eligible_positions, rank
from memory_service.retrieval.selection import Positions
from vector_memory.retrieval import Condition, Explanation, Retrieval, WhyNot


def explain(projection: Projection, query: PreparedQuery, result: SearchResult, returned: Positions) -> Explanation:
    """Explain an answer.

    Args:
        projection: what was searched.
        query: what was asked.
        result: what the search found.
        returned: positions of the hits in the ranking, in their order.
    """
    namespace, analyzed = query.retrieval.namespace, query.query
    index = projection.index(namespace)
    key = query.retrieval.why_not
    return Explanation(
        meaning=None if query.vector is None or query.like_id is not None else analyzed.meaning,
        terms=analyzed.terms,
        speakers=tuple(sorted(analyzed.speakers | analyzed.called)),
        is_about_when=analyzed.is_about_when,
        coherence=0.0 if index is None else index.coherence(),
        memories=0 if index is None else len(index),
        candidates=result.count,
        filter=None if query.wanted == EVERYTHING else _condition(projection, namespace, query.wanted),
        signals=tuple({"key": result.hit_key(at), **_signals(result.ranking, at)} for at in returned),
        why_not=None if key is None else _why_not(projection, query, result, returned, key),
    )


def _condition(projection: Projection, namespace: str, wanted: Filter) -> Condition:
    matches = len(projection.catalog.matching_ids(namespace, wanted))
    match wanted:
        case AllOf(parts):
            shown = "$and"
        case AnyOf(parts):
            shown = "$or"
        case Not(part):
            shown, parts = "$not", (part,)
        case _:
            return Condition(shown=to_json(wanted), matches=matches)
    return Condition(shown=shown, matches=matches, parts=tuple(_condition(projection, namespace, it) for it in parts))


def _signals(ranking: Ranking, position: int) -> dict[str, float]:
    return {name: float(part[position]) for name, part in ranking.parts.items()}


def _why_not(
    projection: Projection, query: PreparedQuery, result: SearchResult, returned: Positions, key: str
) -> WhyNot:
    """Return the first reason why a memory is missing, in the order in which the search leaves memories out."""
    namespace = query.retrieval.namespace
    index = projection.index(namespace)
    pair = projection.catalog.find(namespace, key)
    if pair is None or index is None:
        message = f"There is no memory with key {key!r} in namespace {namespace!r}."
        return WhyNot(key=key, reason="missing", message=message)
    id, _ = pair
    if id == query.like_id:
        return WhyNot(key=key, reason="is_itself", message="It is the memory that the others are to be like.")
    # The filter comes before the time, so it is the reason if both leave the memory out.
    if (failed := _failed_condition(projection, namespace, query.wanted, id)) is not None:
        return WhyNot(key=key, reason="filter", message=f"It does not match the filter: {failed}.")
    if result.candidates is not None and id not in result.candidates:
        return WhyNot(key=key, reason="time", message="It happened before `after`, or not before `before`.")
    # It was a candidate, so a ranking of all candidates has its rank.
    everything = rank(projection, query, index, result.candidates, max(1, result.count))
    positions = np.flatnonzero(everything.ids == id)
    if not len(positions):
        return WhyNot(key=key, reason="missing", message="It was stored or deleted just now; ask again.")
    position = int(positions[0])
    reason, message = _why_not_chosen(query.retrieval, result, returned, everything, position)
    return WhyNot(key=key, reason=reason, message=message, rank=position + 1, signals=_signals(everything, position))


def _why_not_chosen(
    retrieval: Retrieval, result: SearchResult, returned: Positions, everything: Ranking, position: int
) -> tuple[str, str]:
    """Return the reason and a sentence for one candidate, which is at `position` in the ranking of all candidates."""
    id, rank, score = everything.ids[position], position + 1, float(everything.scores[position])
    chosen = result.ranking.ids[result.chosen]
    if id in result.ranking.ids[returned]:
        return "came_back", f"It came back; it is number {rank} of {result.count} candidates."
    if position not in eligible_positions(everything, retrieval):
        if retrieval.min_score is not None and score < retrieval.min_score:
            return "min_score", f"Its score of {score:.4f} is below min_score."
        return "min_relevance", "Its relevance is below min_relevance."
    if id in chosen:
        return "max_tokens", "With it, the hits would have had more tokens than max_tokens."
    if retrieval.per_session is not None and not retrieval.diversity and rank <= _last_rank(everything, chosen):
        return "per_session", f"Better ones of its session came back, and per_session is {retrieval.per_session}."
    if retrieval.diversity and rank <= _last_rank(everything, chosen):
        return "diversity", "Others that rank lower add more that is new, or its session reached per_session."
    # No rule left it out, so its score alone put it behind.
    least = min(result.ranking.scores[result.chosen].tolist(), default=None)
    behind = "" if least is None else f", and the lowest that came back is {least:.4f}"
    return "rank", f"It is number {rank} of {result.count} candidates: its score is {score:.4f}{behind}."


def _last_rank(everything: Ranking, chosen: Groups) -> int:
    """Return the rank, from 1, of the lowest chosen memory; 0 if none is chosen."""
    # (m,) the positions of the chosen memories in the ranking of all candidates, ascending.
    positions = np.flatnonzero(np.isin(everything.ids, chosen))
    return int(positions[-1]) + 1 if len(positions) else 0


def _failed_condition(projection: Projection, namespace: str, wanted: Filter, id: int) -> str | None:
    """Return the most precise condition of the filter that a memory does not meet; None if it meets all."""
    if id in projection.catalog.matching_ids(namespace, wanted):
        return None
    if isinstance(wanted, AllOf):
        # All parts must match, so the first one that does not is the reason. `$or` and `$not` fail as a whole.
        conditions = (_failed_condition(projection, namespace, part, id) for part in wanted.parts)
        return next((condition for condition in conditions if condition is not None), None)
    return to_json(wanted)
