"""The index of one namespace: the vectors, the words and the structure of its memories, under the catalog's ids.

One writer at a time and any number of readers, which take no lock. The writer publishes vectors first, then words and
structure. A reader in between finds a memory in one of the two alone and leaves it out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from indexes.group_index import FrozenGroupIndex, GroupIndex, Groups, Vectors
from indexes.lexical import Arrays, LexicalIndex
from indexes.rows import EncodedRows
from indexes.segments import DEAD_SHARE_MAX
from memory_service.namespaces.conversation import NONE, Conversation, Text, event_time_ms, marks
from memory_service.namespaces.words import frequencies, words

COHERENT = 0.12
"""Neighbours this much more alike than any two memories make a conversation. Chats measure .12 to .35, documents in no
order .007 (docs/retrieval.md)."""

DIGITS = 4
"""Decimal places of coherence. Further ones depend on the order in which a worker added up."""

SAMPLE_PAIRS = 256
SAMPLE_MIN = 8
"""Coherence is measured on about 256 pairs, and is 0 for fewer than 8 memories. Hashes of the stamps choose the
pairs, so that every worker measures the same."""

PACKED_VERSION = 2
"""Version of the format of packed words and structure, and of what counts as a word. Data that another version packed
is not read; words and structure are computed from the texts again."""

PACKED_VALUES = 6
"""Number of msgpack values that packed words and structure consist of."""

ALL_ALIKE = 1e-4
"""Least distance from 1 of the mean cosine of any two memories. Below it, only rounding makes neighbours more alike."""

OBJECT_BYTES = 300
"""Estimated memory of the objects that hold the three indexes together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A memory to be indexed.

    Attributes:
        text: what its words and structure are taken from.
        vectors: (windows, dim), one vector for each window of the text.
    """

    text: Text
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Texts:
    """The words and the structure of a namespace. Both have the same rows."""

    lexical: LexicalIndex
    talk: Conversation


@dataclass(frozen=True, slots=True)
class FrozenIndex:
    """A namespace's index as it was at one moment; later changes do not reach it."""

    _dense: FrozenGroupIndex
    _lexical: LexicalIndex
    _talk: Conversation

    def __len__(self) -> int:
        """Return the number of memories."""
        return len(self._lexical)

    @property
    def vector_count(self) -> int:
        """Return the number of vectors."""
        return len(self._dense)

    def rows(self) -> Iterator[EncodedRows]:
        """Yield the vectors with the ids of their memories, ascending, in pieces of bounded size."""
        return self._dense.rows()

    def packed_texts(self) -> Iterator[bytes]:
        """Yield words and structure for `unpacked_texts`, one msgpack value at a time.

        Packing all at once would hold up every other thread.
        """
        arrays = self._lexical.arrays()
        yield msgpack.packb(arrays.groups.astype("<i8").tobytes())
        yield msgpack.packb(arrays.lengths.astype("<u4").tobytes())
        yield msgpack.packb(arrays.terms)
        yield msgpack.packb(arrays.counts.astype("<u4").tobytes())
        yield msgpack.packb(arrays.postings.astype("<u4").tobytes())
        yield msgpack.packb(self._talk.state(self._lexical.alive[: self._lexical.count]))


def unpacked_texts(values: Iterator[Any]) -> Texts:
    """Return words and structure from the next values that `FrozenIndex.packed_texts` packed."""
    groups, lengths, terms, counts, postings, talk = (next(values) for _ in range(PACKED_VALUES))
    ids, word_counts = np.frombuffer(groups, "<i8").astype(np.int64), np.frombuffer(lengths, "<u4").astype(np.uint32)
    arrays = Arrays(ids, word_counts, terms, np.frombuffer(counts, "<u4"), np.frombuffer(postings, "<u4"))
    return Texts(LexicalIndex.over(arrays), Conversation.over(talk))


def unpacked(data: bytes) -> Iterator[Any]:
    """Yield the msgpack values in some bytes."""
    unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)
    unpacker.feed(data)
    yield from unpacker


class NamespaceIndex:
    """The memories of one namespace."""

    def __init__(self, dense: GroupIndex, texts: Texts | None = None) -> None:
        self.dense = dense
        self.texts = texts or Texts(LexicalIndex(), Conversation())
        self._changes = 0
        self._coherence = (-1, 0.0)
        self._state = (-1, "")

    def __len__(self) -> int:
        """Return the number of memories."""
        return len(self.dense)

    @property
    def nbytes(self) -> int:
        """Return the estimated memory in bytes, Python's objects included."""
        return OBJECT_BYTES + self.dense.nbytes + self.texts.lexical.nbytes + self.texts.talk.nbytes

    def add(self, entries: Sequence[tuple[int, Entry]]) -> None:
        """Add memories under ids that are ascending and larger than all before."""
        with self._change():
            for id, entry in entries:
                self.add_text(id, entry.text)
            counts = [len(entry.vectors) for _, entry in entries]
            # (vectors,) the id of each vector: a memory's id once for each of its windows.
            ids = np.repeat(np.array([id for id, _ in entries], dtype=np.int64), counts)
            self.dense.add(ids, np.concatenate([entry.vectors for _, entry in entries]))

    def add_text(self, id: int, text: Text) -> None:
        """Add the words and structure of a memory whose vectors are indexed already."""
        lexical, talk = self.texts.lexical, self.texts.talk
        found, event_ms = words(text.content), event_time_ms(text.metadata)
        talk.add(lexical.count, text, found, event_ms)
        lexical.add(id, frequencies(text.content, event_ms, found), marks(text.content))

    def remove(self, ids: Groups) -> None:
        """Remove memories. Unknown ids are ignored."""
        with self._change():
            self.dense.remove(ids)
            lexical, talk = self.texts.lexical, self.texts.talk
            for id in ids.tolist():
                row = lexical.remove(id)
                if row is not None:
                    talk.remove(row)
            # Too many rows are dead, so an index of the living rows replaces this one in one step.
            if lexical.dead > DEAD_SHARE_MAX * lexical.count:
                alive = lexical.alive[: lexical.count].copy()
                self.texts = Texts(LexicalIndex.over(lexical.arrays()), talk.compacted(alive))

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Count a change when it begins and when it ends, so that the count is odd during a change."""
        self._changes += 1
        try:
            yield
        finally:
            self._changes += 1

    def in_span(self, after_ms: int | None, before_ms: int | None) -> Groups:
        """Return the ids, ascending, of memories with a time in [after_ms, before_ms); None sets no bound."""
        lexical, talk = self.texts.lexical, self.texts.talk
        count = lexical.count
        # (count,) the time of each row, and whether the row is chosen.
        times, chosen = talk.time_ms[:count], lexical.alive[:count].copy()
        if after_ms is not None:
            chosen &= times >= after_ms
        if before_ms is not None:
            chosen &= times < before_ms
        return lexical.groups[:count][chosen]

    def state(self) -> tuple[str, int]:
        """Return a fingerprint of the contents, equal in every worker with the same contents, and a change counter.

        Caches use both as part of their keys. During a change the fingerprint is one that no contents at rest have, or
        the next call returns another, so that no answer made during a change is found later.
        """
        changes, state = self._state
        if changes != self._changes or changes % 2:
            changes = self._changes  # read before measuring, as in `coherence`
            lexical, talk = self.texts.lexical, self.texts.talk
            # Sums over the living rows (n,) do not depend on the order in which a worker read them.
            alive = np.flatnonzero(lexical.alive[: lexical.count])
            sums = talk.stamp_hash[alive].sum(dtype=np.uint64), talk.turn[alive].astype(np.uint64).sum()
            state = f"{len(alive)}-{len(self.dense)}-{sums[0]:x}-{sums[1]:x}"  # a memory may be in one of the two alone
            self._state = changes, state
        return state, changes

    def coherence(self) -> float:
        """Return how far memories that follow each other belong together where no session says so, 0 to 1."""
        changes, coherence = self._coherence
        if changes != self._changes:
            changes = self._changes  # read before measuring: a later change is measured by the next call
            coherence = self._measured()
            self._coherence = changes, coherence
        return coherence

    def _measured(self) -> float:
        lexical, talk = self.texts.lexical, self.texts.talk
        count, share = lexical.count, SAMPLE_PAIRS / max(SAMPLE_PAIRS, len(lexical))
        # (drawn,) the rows whose hash is below the share, and then (n,) those that have a neighbour found by order.
        drawn = np.flatnonzero(talk.stamp_hash[:count] < share * 2**32)
        before = talk.before[drawn]
        is_asked = lexical.alive[drawn] & ~talk.given(drawn) & (before != NONE) & (before < count)
        rows, before = drawn[is_asked], before[is_asked]
        if len(rows) < SAMPLE_MIN - 1:
            return 0.0
        # (n, dim) the first vector of each row and of the row before it; NaN for a memory whose vectors were removed.
        here = self.dense.firsts(lexical.groups[rows])
        there = self.dense.firsts(lexical.groups[before])
        # (n,) the pairs whose vectors are both known.
        known = ~(np.isnan(here[:, 0]) | np.isnan(there[:, 0]))
        here, there = here[known].astype(np.float64), there[known].astype(np.float64)
        count = len(here)
        if count < SAMPLE_MIN - 1:
            return 0.0
        # The mean cosine of neighbours.
        near = float((here * there).sum(1).mean())
        # The mean cosine of any two. The square of the sum (dim,) has every pair twice, and each vector with itself.
        total = here.sum(0)
        any_two = float((total @ total - count) / (count * (count - 1)))
        if 1 - any_two < ALL_ALIKE:
            return 0.0
        # The share of the possible gain over any two memories, scaled so that `COHERENT` becomes 1.
        coherence = min(1.0, max(0.0, (near - any_two) / (1 - any_two) / COHERENT))
        return round(coherence, DIGITS)

    def freeze(self) -> FrozenIndex:
        """Return the index as it is now."""
        texts = self.texts
        return FrozenIndex(self.dense.freeze(), texts.lexical.frozen(), texts.talk)
