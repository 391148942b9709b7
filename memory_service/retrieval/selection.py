"""Selects which of the ranked memories are returned, if the caller wants variety."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from indexes.group_index import Vectors
from memory_service.namespaces.conversation import NONE
from memory_service.namespaces.index import NamespaceIndex
from memory_service.retrieval.ranking import Ranking

Positions = list[int]

POOL_MIN, POOL_FACTOR = 200, 4
"""A selection starts from the best max(200, 4 * k) candidates, and from four times as many while it leaves fewer than
k. 200 is what the ranking takes from each signal."""


def select(
    ranking: Ranking, eligible: Positions, index: NamespaceIndex, k: int, *, diversity: float, per_session: int | None
) -> Positions:
    """Return the positions in the ranking of at most k memories, in the order in which they are returned.

    Args:
        ranking: the memories, best first.
        eligible: the positions that may be chosen, ascending.
        index: the index of their namespace.
        k: most positions to return, at least 1.
        diversity: 0 to 1. Every step chooses the memory with the largest (1 - diversity) * score - diversity * cosine,
            where the cosine is to the most similar memory chosen before: maximal marginal relevance (Carbonell and
            Goldstein 1998), by the first window of each memory.
        per_session: most memories returned from one session; None sets no limit.
    """
    ids = ranking.ids[eligible]
    sessions = _sessions(ids, index) if per_session is not None else [NONE] * len(ids)
    if diversity == 0:
        return [eligible[at] for at in _capped(sessions, per_session or 0)][:k]
    pool = _pool(sessions, per_session or 0, k)
    eligible, sessions = [eligible[at] for at in pool], [sessions[at] for at in pool]
    # (n, dim) the first vectors. A memory that was just deleted gets zeros, so it is like nothing.
    vectors = np.nan_to_num(index.dense.firsts(ids[pool]))
    gains = (1 - diversity) * ranking.scores[eligible]  # (n,)
    return [eligible[at] for at in _diversify(gains, diversity, vectors, _SessionCap(sessions, per_session or 0), k)]


def _capped(sessions: list[int], per_session: int) -> Positions:
    """Return the positions of the first `per_session` memories of each session."""
    cap = _SessionCap(sessions, per_session)
    return [at for at in range(len(sessions)) if cap.admits(at)]


def _pool(sessions: list[int], per_session: int, k: int) -> Positions:
    """Return the positions to choose from. Their number is bounded, because each choice compares them all.

    The pool has enough extra memories of each session that the cap can still leave k.
    """
    pool_max = max(POOL_MIN, POOL_FACTOR * k)
    if len(sessions) <= pool_max:
        return list(range(len(sessions)))
    return _capped(sessions, POOL_FACTOR * per_session)[:pool_max]


def _sessions(ids: NDArray[np.int64], index: NamespaceIndex) -> list[int]:
    """Return the session of each memory; NONE for a memory without one, and for one that was just deleted."""
    texts = index.texts
    rows = [texts.lexical.row(id) for id in ids.tolist()]
    known = np.array([row for row in rows if row is not None], np.int64)
    sessions = iter(texts.talk.capped(known).tolist())
    return [NONE if row is None else next(sessions) for row in rows]


class _SessionCap:
    """Counts the memories taken of each session."""

    def __init__(self, sessions: list[int], per_session: int) -> None:
        self._sessions, self._per_session = sessions, per_session
        self._taken: Counter[int] = Counter()

    def admits(self, position: int) -> bool:
        """Take one memory, and return False if its session has reached the limit. NONE has no limit."""
        session = self._sessions[position]
        if session != NONE and self._taken[session] == self._per_session:
            return False
        self._taken[session] += 1
        return True


def _diversify(gains: NDArray[np.float32], diversity: float, vectors: Vectors, cap: _SessionCap, k: int) -> Positions:
    """Choose greedily by gain (n,) minus similarity to what is chosen; vectors are (n, dim)."""
    is_left = np.ones(len(gains), np.bool_)  # (n,) neither chosen nor refused by the cap
    similarity = np.zeros(len(gains), np.float32)  # (n,) cosine to the most similar one chosen
    chosen: Positions = []
    while len(chosen) < k and is_left.any():
        # The position with the largest gain minus similarity. Minus infinity excludes those that are no longer left.
        best = int(np.argmax(np.where(is_left, gains - diversity * similarity, -np.inf)))
        is_left[best] = False
        if cap.admits(best):
            chosen.append(best)
            cosines = vectors @ vectors[best]  # (n,)
            # (n,) the larger of both; the first choice replaces the zeros, since a cosine may be negative.
            similarity = cosines if len(chosen) == 1 else np.maximum(similarity, cosines)
    return chosen
