"""Selection: which of the ranked memories are returned, where a caller wants variety."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from indexes.group_index import Vectors
from memory_service.namespaces.conversation import NONE
from memory_service.namespaces.index import NamespaceIndex
from memory_service.retrieval.ranking import Ranking

Places = list[int]

POOL_MIN, POOL_FACTOR = 200, 4
"""Where a selection leaves some out, so many of the best are looked at, or so many times k; more if need be."""


def select(
    ranked: Ranking, eligible: Places, index: NamespaceIndex, k: int, *, diversity: float, per_session: int | None
) -> Places:
    """The places in the ranking of at most k memories, in the order in which they are returned.

    Args:
        ranked: best first.
        eligible: the places that may be chosen, ascending.
        index: of their namespace.
        k: at least 1.
        diversity: 0 to 1. Chosen next is the one with the largest (1 - diversity) * score - diversity * cosine, where
            the cosine is to the most alike of those chosen before: maximal marginal relevance (Carbonell and
            Goldstein 1998), by the first window of each.
        per_session: at most so many of one session; None sets no limit.
    """
    ids = ranked.ids[eligible]
    sessions = _sessions(ids, index) if per_session is not None else [NONE] * len(ids)
    if diversity == 0:
        return [eligible[at] for at in _admitted(sessions, per_session or 0)][:k]
    compared = _compared(sessions, per_session or 0, k)
    eligible, sessions = [eligible[at] for at in compared], [sessions[at] for at in compared]
    vectors = np.nan_to_num(index.dense.firsts(ids[compared]))
    gains = (1 - diversity) * ranked.scores[eligible]
    return [eligible[at] for at in _varied(gains, diversity, vectors, _Cap(sessions, per_session or 0), k)]


def _admitted(sessions: list[int], per_session: int) -> Places:
    """The places of the first of each session, at most so many."""
    cap = _Cap(sessions, per_session)
    return [at for at in range(len(sessions)) if cap.admits(at)]


def _compared(sessions: list[int], per_session: int, k: int) -> Places:
    """The places to choose from: each choice compares them all, so there is a bound on them.

    Of each session there are so many times as many as may be taken of it that k can be chosen as before.
    """
    most = max(POOL_MIN, POOL_FACTOR * k)
    if len(sessions) <= most:
        return list(range(len(sessions)))
    return _admitted(sessions, POOL_FACTOR * per_session)[:most]


def _sessions(ids: NDArray[np.int64], index: NamespaceIndex) -> list[int]:
    """The session of each, NONE for those of no session and for those that are gone by now."""
    texts = index.texts
    rows = [texts.lexical.row(id) for id in ids.tolist()]
    known = np.array([row for row in rows if row is not None], np.int64)
    found = iter(texts.talk.capped(known).tolist())
    return [NONE if row is None else next(found) for row in rows]


class _Cap:
    """How many of each session were taken."""

    def __init__(self, sessions: list[int], per_session: int) -> None:
        self._sessions, self._per_session = sessions, per_session
        self._taken: Counter[int] = Counter()

    def admits(self, place: int) -> bool:
        """Take one, unless its session has given enough; NONE is no session."""
        session = self._sessions[place]
        if session != NONE and self._taken[session] == self._per_session:
            return False
        self._taken[session] += 1
        return True


def _varied(gains: NDArray[np.float32], diversity: float, vectors: Vectors, cap: _Cap, k: int) -> Places:
    """Places in the order in which each adds most that is new; `gains` (n,) is what each adds if nothing is alike."""
    left = np.ones(len(gains), np.bool_)
    alike = np.zeros(len(gains), np.float32)
    chosen: Places = []
    while len(chosen) < k and left.any():
        at = int(np.argmax(np.where(left, gains - diversity * alike, -np.inf)))
        left[at] = False
        if cap.admits(at):
            chosen.append(at)
            cosines = vectors @ vectors[at]
            alike = cosines if len(chosen) == 1 else np.maximum(alike, cosines)
    return chosen
