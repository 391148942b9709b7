"""Explaining: how an answer came about, and why a memory did not come back."""

import numpy as np

from indexes.group_index import Groups
from memory_service.filters.grammar import EVERYTHING, AllOf, AnyOf, Filter, Not, shown
from memory_service.projection.applying import Projection
from memory_service.retrieval.ranking import Ranking
from memory_service.retrieval.request import Condition, Explanation, Retrieval, WhyNot
from memory_service.retrieval.searching import PreparedQuery, SearchResult, eligible, ranked
from memory_service.retrieval.selection import Places


def explain(projection: Projection, search: PreparedQuery, look: SearchResult, returned: Places) -> Explanation:
    """How an answer came about.

    Args:
        projection: that was searched.
        search: what was asked.
        look: what was found.
        returned: places in the ranking of the hits, in their order.
    """
    namespace, question = search.retrieval.namespace, search.question
    index = projection.index(namespace)
    wanted = search.wanted
    key = search.retrieval.why_not
    return Explanation(
        meaning=None if search.vector is None or search.itself is not None else question.meaning,
        terms=question.terms,
        speakers=tuple(sorted(question.speakers | question.called)),
        is_about_when=question.is_about_when,
        coherence=0.0 if index is None else index.coherence(),
        memories=0 if index is None else len(index),
        candidates=look.count,
        filter=None if wanted == EVERYTHING else _condition(projection, namespace, wanted),
        signals=tuple(_signals(look.ranked, at) for at in returned),
        why_not=None if key is None else _why_not(projection, search, look, returned, key),
    )


def _condition(projection: Projection, namespace: str, wanted: Filter) -> Condition:
    matches = len(projection.catalog.matching_ids(namespace, wanted))
    match wanted:
        case AllOf(parts):
            return Condition("$and", matches, tuple(_condition(projection, namespace, part) for part in parts))
        case AnyOf(parts):
            return Condition("$or", matches, tuple(_condition(projection, namespace, part) for part in parts))
        case Not(part):
            return Condition("$not", matches, (_condition(projection, namespace, part),))
    return Condition(shown(wanted), matches)


def _signals(found: Ranking, at: int) -> dict[str, float]:
    return {name: float(part[at]) for name, part in found.parts.items()}


def _why_not(projection: Projection, search: PreparedQuery, look: SearchResult, returned: Places, key: str) -> WhyNot:
    """The first reason, in the order in which memories are left out."""
    namespace = search.retrieval.namespace
    index = projection.index(namespace)
    found = projection.catalog.find(namespace, key)
    if found is None or index is None:
        return WhyNot(
            key=key, reason="missing", message=f"There is no memory with key {key!r} in namespace {namespace!r}."
        )
    id, _ = found
    if id == search.itself:
        return WhyNot(key=key, reason="is_itself", message="It is the memory that the others are to be like.")
    if (failed := _failed(projection, namespace, search.wanted, id)) is not None:
        return WhyNot(key=key, reason="filter", message=f"It does not match the filter: {failed}.")
    if look.candidates is not None and id not in look.candidates:
        return WhyNot(key=key, reason="time", message="It happened before `after`, or not before `before`.")
    everything = ranked(projection, search, index, look.candidates, max(1, look.count))
    places = np.flatnonzero(everything.ids == id)
    if not len(places):
        return WhyNot(key=key, reason="missing", message="It was stored or deleted just now; ask again.")
    at = int(places[0])
    reason, message = _why_not_chosen(search.retrieval, look, returned, everything, at)
    return WhyNot(key=key, reason=reason, message=message, rank=at + 1, signals=_signals(everything, at))


def _why_not_chosen(
    retrieval: Retrieval, look: SearchResult, returned: Places, everything: Ranking, at: int
) -> tuple[str, str]:
    """Why a candidate did not come back that has this place in a ranking of all candidates: the reason, a sentence."""
    id, rank, score = everything.ids[at], at + 1, float(everything.scores[at])
    chosen = look.ranked.ids[look.chosen]
    if id in look.ranked.ids[returned]:
        return "came_back", f"It came back; it is number {rank} of {look.count} candidates."
    if at not in eligible(everything, retrieval):
        if retrieval.min_score is not None and score < retrieval.min_score:
            return "min_score", f"Its score of {score:.4f} is below min_score."
        return "min_relevance", "It is less relevant than min_relevance asks for."
    if id in chosen:
        return "max_tokens", "With it, the hits would have had more tokens than max_tokens."
    if retrieval.per_session is not None and not retrieval.diversity and rank <= _last_rank(everything, chosen):
        return "per_session", f"Better ones of its session came back, and per_session is {retrieval.per_session}."
    if retrieval.diversity and rank <= _last_rank(everything, chosen):
        return "diversity", "Others that rank lower add more that is new, or its session had given enough."
    least = min(look.ranked.scores[look.chosen].tolist(), default=None)
    behind = "" if least is None else f", and the lowest that came back is {least:.4f}"
    return "rank", f"It is number {rank} of {look.count} candidates: its score is {score:.4f}{behind}."


def _last_rank(everything: Ranking, chosen: Groups) -> int:
    """The rank, from 1, of the lowest of those chosen; 0 if there is none."""
    places = np.flatnonzero(np.isin(everything.ids, chosen))
    return int(places[-1]) + 1 if len(places) else 0


def _failed(projection: Projection, namespace: str, wanted: Filter, id: int) -> str | None:
    """A condition of the filter that a memory does not meet, as precise as can be; None if it meets all."""
    if id in projection.catalog.matching_ids(namespace, wanted):
        return None
    if isinstance(wanted, AllOf):
        return next(
            (failed for part in wanted.parts if (failed := _failed(projection, namespace, part, id)) is not None), None
        )
    return shown(wanted)
