"""Vectors on their way out of one service and into another: what makes an export whole and an import quick."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.projection.applying import Projection
from vector_memory.errors import InvalidInput
from vector_memory.memories import Embedding, Memory

LENGTH_ERROR_MAX = 1e-3
"""How far from 1 a vector's length may be: float32 rounding of 384 squares stays below a thousandth of that."""

WINDOWS_MAX = 1_000
"""Of one memory: 100,000 characters of one letter and one blank each are some 400 windows."""


def exported(
    projection: Projection, namespace: str, memories: Sequence[Memory], fingerprint: Fingerprint
) -> tuple[Embedding | None, ...]:
    """The vectors of each memory; None for one that was changed or deleted since it was read."""
    index = projection.index(namespace)
    ids = projection.catalog.ids(namespace, [memory.key for memory in memories])
    held = projection.catalog.by_ids(sorted(ids.values()))

    def of(memory: Memory) -> Embedding | None:
        id = ids.get(memory.key)
        if id is None or index is None or held.get(id) != memory:
            return None
        vectors = index.dense.vectors(id)
        if len(vectors) == 0:
            return None
        return Embedding(
            revision=fingerprint.revision, vectors=base64.b64encode(vectors.astype("<f4").tobytes()).decode()
        )

    return tuple(of(memory) for memory in memories)


def imported(embedding: Embedding | None, fingerprint: Fingerprint) -> Vectors | None:
    """Vectors (windows, dim) that can be used as they are; None where they have to be made.

    Raises:
        InvalidInput: they are of this embedder and yet none that it makes.
    """
    if embedding is None or embedding.revision != fingerprint.revision:
        return None
    try:
        data = base64.b64decode(embedding.vectors, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInput("embedding.vectors is not base64.", field="embedding.vectors") from error
    row = 4 * fingerprint.dim
    if not data or len(data) % row or len(data) > WINDOWS_MAX * row:
        raise InvalidInput(
            f"embedding.vectors must hold 1 to {WINDOWS_MAX} rows of {fingerprint.dim} float32.",
            field="embedding.vectors",
        )
    vectors = np.frombuffer(data, dtype="<f4").reshape(-1, fingerprint.dim).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows or is no number is none of length 1
        lengths = np.linalg.norm(vectors, axis=1)
    if not bool((np.abs(lengths - 1) <= LENGTH_ERROR_MAX).all()):
        raise InvalidInput("embedding.vectors must have rows of length 1.", field="embedding.vectors")
    return vectors
