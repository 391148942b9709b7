"""Selection: which of the ranked memories are returned, where a caller wants variety."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from indexes.group_index import Vectors
from memory_service.conversation import NONE
from memory_service.namespace_index import NamespaceIndex
from memory_service.ranking import Ranked

Places = list[int]


def select(
    ranked: Ranked, eligible: Places, index: NamespaceIndex, k: int, *, diversity: float, per_session: int | None
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
    cap = _Cap(sessions, per_session or 0)
    if diversity == 0:
        return [eligible[at] for at in range(len(ids)) if cap.admits(at)][:k]
    vectors = np.nan_to_num(index.dense.firsts(ids))
    return [eligible[at] for at in _varied((1 - diversity) * ranked.scores[eligible], diversity, vectors, cap, k)]


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
            alike = np.maximum(alike, vectors @ vectors[at])
    return chosen
