"""Vectors in exports and imports: an import with vectors of the same model need not embed its texts."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from memory_service.embedding.embedder import Fingerprint, Vectors
from memory_service.projection.applying import Projection
from vector_memory.errors import InvalidInput
from vector_memory.memories import Embedding, Memory

LENGTH_ERROR_MAX = 1e-3
"""How far from 1 the length of an imported vector may be. Rounding to half precision stays below half of it."""

WINDOWS_MAX = 1_000
"""Windows of one memory at most. 100,000 characters, every second one a blank, make some 400 windows."""


def exported(
    projection: Projection, namespace: str, memories: Sequence[Memory], fingerprint: Fingerprint
) -> tuple[Embedding | None, ...]:
    """Return the vectors of each memory; None for a memory that was changed or deleted since it was read."""
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
    """Return vectors (windows, dim) that can be used as they are; None where the text must be embedded.

    Raises:
        InvalidInput: the vectors name this embedder, and it makes no such vectors.
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
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow or a NaN is not a length of 1
        lengths = np.linalg.norm(vectors, axis=1)
    if not bool((np.abs(lengths - 1) <= LENGTH_ERROR_MAX).all()):
        raise InvalidInput("embedding.vectors must have rows of length 1.", field="embedding.vectors")
    return vectors
