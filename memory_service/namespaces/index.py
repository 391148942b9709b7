"""What a namespace is searched by: the vectors, the words and the structure of its memories, by the catalog's ids.

One writer at a time, any number of readers without a lock. Vectors, and words with structure, are published one after
the other; a reader in between finds a memory in one of the two alone, and leaves it out.
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
"""Neighbours that are this much more alike than any two memories are a conversation: chats measure .12 to .35,
documents in no order .007 (docs/retrieval.md)."""

DIGITS = 4
"""Of coherence: what follows is the order in which a worker's sums were made."""

SAMPLE_PAIRS = 256
SAMPLE_MIN = 8
"""Coherence is measured on about so many pairs, from so many memories on. Which, depends on their lots, and so on the
living memories alone: every worker ranks by the same."""

PACKED_VERSION = 2
"""Of what is packed of words and structure, and of what counts as a word: what another version packed is made anew."""

PACKED_VALUES = 6
"""Into so many msgpack values."""

ALL_ALIKE = 1e-4
"""Where any two memories are as alike as this, neighbours cannot be more so than by rounding."""

OBJECT_BYTES = 300
"""What the objects that hold the three indexes together take."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A memory to be found.

    Attributes:
        vectors: (windows, dim).
    """

    text: Text
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Texts:
    """Words and structure; a row of the one is the same row of the other."""

    lexical: LexicalIndex
    talk: Conversation


@dataclass(frozen=True, slots=True)
class FrozenIndex:
    """A namespace's index as it was at one moment, whatever happens to it since."""

    _dense: FrozenGroupIndex
    _lexical: LexicalIndex
    _talk: Conversation

    def __len__(self) -> int:
        """Number of memories."""
        return len(self._lexical)

    @property
    def vector_count(self) -> int:
        """Number of vectors."""
        return len(self._dense)

    def rows(self) -> Iterator[EncodedRows]:
        """Yield the vectors with the ids of their memories, ascending, in pieces of bounded size."""
        return self._dense.rows()

    def packed_texts(self) -> Iterator[bytes]:
        """Words and structure, for `unpacked_texts`: one msgpack value after the other.

        In parts, since packing holds up every other thread.
        """
        arrays = self._lexical.arrays()
        yield msgpack.packb(arrays.groups.astype("<i8").tobytes())
        yield msgpack.packb(arrays.lengths.astype("<u4").tobytes())
        yield msgpack.packb(arrays.terms)
        yield msgpack.packb(arrays.counts.astype("<u4").tobytes())
        yield msgpack.packb(arrays.postings.astype("<u4").tobytes())
        yield msgpack.packb(self._talk.state(self._lexical.alive[: self._lexical.count]))


def unpacked_texts(values: Iterator[Any]) -> Texts:
    """Words and structure, of the next values of those that `FrozenIndex.packed_texts` packed."""
    groups, lengths, terms, counts, postings, talk = (next(values) for _ in range(PACKED_VALUES))
    arrays = Arrays(
        np.frombuffer(groups, "<i8").astype(np.int64),
        np.frombuffer(lengths, "<u4").astype(np.uint32),
        terms,
        np.frombuffer(counts, "<u4"),
        np.frombuffer(postings, "<u4"),
    )
    return Texts(LexicalIndex.over(arrays), Conversation.over(talk))


def unpacked(data: bytes) -> Iterator[Any]:
    """The msgpack values in some bytes."""
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
        """Number of memories."""
        return len(self.dense)

    @property
    def nbytes(self) -> int:
        """What it takes in RAM, about; Python's objects included."""
        return OBJECT_BYTES + self.dense.nbytes + self.texts.lexical.nbytes + self.texts.talk.nbytes

    def add(self, entries: Sequence[tuple[int, Entry]]) -> None:
        """Add memories under ids that are ascending and larger than all before."""
        with self._change():
            for id, entry in entries:
                self.add_text(id, entry.text)
            counts = [len(entry.vectors) for _, entry in entries]
            ids = np.repeat(np.array([id for id, _ in entries], dtype=np.int64), counts)
            self.dense.add(ids, np.concatenate([entry.vectors for _, entry in entries]))

    def add_text(self, id: int, text: Text) -> None:
        """Add a memory whose vectors are there already."""
        lexical, talk = self.texts.lexical, self.texts.talk
        found, event_ms = words(text.content), event_time_ms(text.metadata)
        talk.add(lexical.count, text, found, event_ms)
        lexical.add(id, frequencies(text.content, event_ms, found), marks(text.content))

    def remove(self, ids: Groups) -> None:
        """Forget memories; unknown ones are ignored."""
        with self._change():
            self.dense.remove(ids)
            lexical, talk = self.texts.lexical, self.texts.talk
            for id in ids.tolist():
                row = lexical.remove(id)
                if row is not None:
                    talk.remove(row)
            if lexical.dead > DEAD_SHARE_MAX * lexical.count:
                alive = lexical.alive[: lexical.count].copy()
                self.texts = Texts(LexicalIndex.over(lexical.arrays()), talk.compacted(alive))

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Count it as it begins and as it ends: the count is odd while something changes."""
        self._changes += 1
        try:
            yield
        finally:
            self._changes += 1

    def in_span(self, after_ms: int | None, before_ms: int | None) -> Groups:
        """The ids, ascending, of what happened from one time on and before another, in ms; None sets no bound."""
        lexical, talk = self.texts.lexical, self.texts.talk
        count = lexical.count
        times, chosen = talk.time_ms[:count], lexical.alive[:count].copy()
        if after_ms is not None:
            chosen &= times >= after_ms
        if before_ms is not None:
            chosen &= times < before_ms
        return lexical.groups[:count][chosen]

    def state(self) -> tuple[str, int]:
        """A name for what is held, the same in every worker that holds the same; and how often it changed here.

        Halfway through a change it is a name that nothing has at rest, or the next call gives another one: an answer
        of then belongs to no name.
        """
        changes, state = self._state
        if changes != self._changes or changes % 2:
            changes = self._changes  # of before, as with coherence
            lexical, talk = self.texts.lexical, self.texts.talk
            alive = np.flatnonzero(lexical.alive[: lexical.count])
            sums = talk.lot[alive].sum(dtype=np.uint64), talk.turn[alive].astype(np.uint64).sum()
            state = f"{len(alive)}-{len(self.dense)}-{sums[0]:x}-{sums[1]:x}"  # a memory may be in one of the two alone
            self._state = changes, state
        return state, changes

    def coherence(self) -> float:
        """0 to 1: how far memories that follow each other belong together, where no session says so."""
        changes, coherence = self._coherence
        if changes != self._changes:
            changes = self._changes  # of before: what changes meanwhile is measured the next time
            coherence = self._measured()
            self._coherence = changes, coherence
        return coherence

    def _measured(self) -> float:
        lexical, talk = self.texts.lexical, self.texts.talk
        count, share = lexical.count, SAMPLE_PAIRS / max(SAMPLE_PAIRS, len(lexical))
        drawn = np.flatnonzero(talk.lot[:count] < share * 2**32)
        before = talk.before[drawn]
        is_asked = lexical.alive[drawn] & ~talk.given(drawn) & (before != NONE) & (before < count)
        rows, before = drawn[is_asked], before[is_asked]
        if len(rows) < SAMPLE_MIN - 1:
            return 0.0
        here = self.dense.firsts(lexical.groups[rows])
        there = self.dense.firsts(lexical.groups[before])
        known = ~(np.isnan(here[:, 0]) | np.isnan(there[:, 0]))
        here, there = here[known].astype(np.float64), there[known].astype(np.float64)
        count = len(here)
        if count < SAMPLE_MIN - 1:
            return 0.0
        near = float((here * there).sum(1).mean())
        whole = here.sum(0)
        any_two = float((whole @ whole - count) / (count * (count - 1)))
        if 1 - any_two < ALL_ALIKE:
            return 0.0
        coherence = min(1.0, max(0.0, (near - any_two) / (1 - any_two) / COHERENT))
        return round(coherence, DIGITS)

    def freeze(self) -> FrozenIndex:
        """The index of this moment."""
        texts = self.texts
        return FrozenIndex(self.dense.freeze(), texts.lexical.frozen(), texts.talk)
