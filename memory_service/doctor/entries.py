"""The state of a key in a form that can be compared: a stamp, and digests in place of texts and vectors.

Journals and snapshots are both reduced to this form, so `verdict.py` can compare them. It is made from records alone,
without the projection's code, and knows nothing of files.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.journal.records import Put, Record, RememberedReply, Removal

UNIT_LENGTH_ERROR_MAX = 1e-3
"""How far from 1 a vector's length may be. float32 is within 1e-6, and half precision is still within this bound."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """The state of a key after a record.

    Attributes:
        text: digest of content, metadata and times; None for a delete.
        vectors: digest of the vectors.
    """

    stamp: Stamp
    text: bytes | None = None
    vectors: bytes | None = None
    expires_at_ms: int | None = None

    def is_alive(self, now_ms: int) -> bool:
        """Return whether the key has a memory that has not expired."""
        return self.text is not None and (self.expires_at_ms is None or self.expires_at_ms > now_ms)


Name: TypeAlias = tuple[str, str]
"""Namespace and key."""


State: TypeAlias = dict[Name, KeyState]


def change_of(record: Record) -> tuple[Name, KeyState] | None:
    """Return the key that a record changes, and its new state; None for a reply, which changes no memory."""
    match record.mutation:
        case Put() as put:
            text = repr((put.content, put.metadata, put.created_at_ms, put.expires_at_ms)).encode()
            vectors = put.vectors.astype("<f2").tobytes()  # journals have more digits, and snapshots these
            entry = KeyState(record.stamp, _digest(text), _digest(vectors), put.expires_at_ms)
            return (put.namespace, put.key), entry
        case Removal(namespace, key):
            return (namespace, key), KeyState(record.stamp)
        case RememberedReply():
            return None


def last_of(changes: Iterable[tuple[Name, KeyState]]) -> State:
    """Return the last state of each key, by the stamps."""
    state: State = {}
    for name, entry in changes:
        if name not in state or state[name].stamp < entry.stamp:
            state[name] = entry
    return state


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def vector_fault(vectors: Vectors) -> tuple[str | None, int]:
    """Return what is wrong with rows (n, dim) that should be of length 1, and the index of the first such row."""
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(np.linalg.norm(vectors, axis=1) - 1)
    bad = np.flatnonzero(~(off <= UNIT_LENGTH_ERROR_MAX))  # negated, so that NaN counts as bad
    if len(bad) == 0:
        return None, 0
    first = int(bad[0])
    is_finite = bool(np.isfinite(vectors[first]).all())
    return "a vector that is not of unit length" if is_finite else "a vector that is not finite", first
