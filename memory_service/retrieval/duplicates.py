"""Near-duplicates: which memories say almost the same. They are reported, never merged."""

from collections.abc import Sequence

import numpy as np

from indexes.group_index import GroupIndex, Groups, Vectors
from memory_service.projection.applying import Projection
from vector_memory.memories import Alike, Duplicated, Memory

ALIKE_MAX = 20
"""Of one memory, so many are looked at that are most alike at its beginning: who has more sees the others at these."""

Age = tuple[int, str]


def near_duplicates(
    projection: Projection, namespace: str, memories: Sequence[Memory], threshold: float
) -> tuple[Duplicated, ...]:
    """Those of the memories that have earlier near-duplicates: a pair is reported once, by the later of the two.

    Args:
        projection: that has them.
        namespace: of all of them.
        memories: to be looked at.
        threshold: the least score, a cosine.
    """
    index = projection.index(namespace)
    if index is None:
        return ()
    ids = projection.catalog.ids(namespace, [memory.key for memory in memories])
    found = {key: _alike(index.dense, id, threshold) for key, id in ids.items()}
    others = projection.catalog.by_ids(sorted({id for scores in found.values() for id in scores}))
    reported = []
    for memory in memories:
        scores = found.get(memory.key, {})
        alike = [Alike(**dict(others[id]), score=score) for id, score in scores.items() if id in others]
        earlier = [each for each in alike if _age(each) < _age(memory)]
        if earlier:
            reported.append(Duplicated(**dict(memory), alike=tuple(sorted(earlier, key=lambda each: -each.score))))
    return tuple(reported)


def _age(memory: Memory) -> Age:
    return memory.created_at_ms, memory.key


def _alike(dense: GroupIndex, id: int, threshold: float) -> dict[int, float]:
    """The scores of the others that are alike, by id: in all windows, so those alike in the first are looked at."""
    scores: dict[int, float] | None = None
    for window in dense.vectors(id):
        near = _near(dense, window, threshold, None if scores is None else np.array(sorted(scores), np.int64))
        scores = near if scores is None else {it: min(scores[it], near[it]) for it in near}
        if scores.keys() <= {id}:  # none is left, and a long text has a hundred windows
            break
    return {it: score for it, score in (scores or {}).items() if it != id}


def _near(dense: GroupIndex, window: Vectors, threshold: float, among: Groups | None) -> dict[int, float]:
    ids, cosines = dense.search(window, ALIKE_MAX + 1, among)
    return {
        id: min(1.0, cosine) for id, cosine in zip(ids.tolist(), cosines.tolist(), strict=True) if cosine >= threshold
    }
