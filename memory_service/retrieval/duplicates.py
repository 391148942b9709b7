"""Finds near-duplicates: memories that say almost the same. They are reported, never merged."""

from collections.abc import Sequence

import numpy as np

from indexes.group_index import GroupIndex, Groups, Vectors
from memory_service.projection.applying import Projection
from vector_memory.memories import Alike, Duplicated, Memory

NEIGHBOURS_MAX = 20
"""Compare each memory with at most this many nearest neighbours of its first window. A memory with more duplicates
than that is still reported, and the others are reported with those they are near to."""


def near_duplicates(
    projection: Projection, namespace: str, memories: Sequence[Memory], threshold: float
) -> tuple[Duplicated, ...]:
    """Return the memories that have earlier near-duplicates. The later memory of a pair reports it.

    Args:
        projection: holds the memories.
        namespace: the namespace of all of them.
        memories: the memories to examine.
        threshold: least score of a near-duplicate, a cosine.
    """
    # Ids of near-duplicates come from the index. Their memories are read from the catalog in one query.
    index = projection.index(namespace)
    if index is None:
        return ()
    ids = projection.catalog.ids(namespace, [memory.key for memory in memories])
    scores_by_key = {key: _scores(index.dense, id, threshold) for key, id in ids.items()}
    others = projection.catalog.by_ids(sorted({id for scores in scores_by_key.values() for id in scores}))
    reported = []
    for memory in memories:
        scores = scores_by_key.get(memory.key, {})
        alike = [Alike(**dict(others[id]), score=score) for id, score in scores.items() if id in others]
        earlier = [each for each in alike if _age(each) < _age(memory)]
        if earlier:
            reported.append(Duplicated(**dict(memory), alike=tuple(sorted(earlier, key=lambda each: -each.score))))
    return tuple(reported)


def _age(memory: Memory) -> tuple[int, str]:
    return memory.created_at_ms, memory.key


def _scores(dense: GroupIndex, id: int, threshold: float) -> dict[int, float]:
    """Return the score of each near-duplicate of a memory by id: the least cosine over the memory's windows."""
    scores: dict[int, float] | None = None
    for window in dense.vectors(id):  # (dim,) each
        # A near-duplicate is alike in every window, so the neighbours of the first one are the only candidates.
        near = _neighbours(dense, window, threshold, None if scores is None else np.array(sorted(scores), np.int64))
        scores = near if scores is None else {it: min(scores[it], near[it]) for it in near}
        if scores.keys() <= {id}:  # only the memory itself is left, and a long text has a hundred windows
            break
    return {it: score for it, score in (scores or {}).items() if it != id}


def _neighbours(dense: GroupIndex, window: Vectors, threshold: float, among: Groups | None) -> dict[int, float]:
    ids, cosines = dense.search(window, NEIGHBOURS_MAX + 1, among)  # one more, since the memory finds itself
    return {
        id: min(1.0, cosine) for id, cosine in zip(ids.tolist(), cosines.tolist(), strict=True) if cosine >= threshold
    }
