"""Cuts a document's text into chunks that the model reads at once.

A chunk stays within one section. It ends at the end of a block if possible, otherwise at the end of a sentence,
otherwise at the end of a word. Code and tables stay whole if they fit. If a chunk could end in several such places, the
checksum of the text before each place decides, and not the distance from the beginning. So after a change in a text,
the chunks soon end where they ended before, and a repeated upload finds most of its chunks unchanged. This is
content-defined chunking (Muthitacharoen et al. 2001, "A low-bandwidth network file system").
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from memory_service.documents.model import Block, BlockKind, Chunk, Extracted
from memory_service.embedding.embedder import Embedder

CHUNK_TOKENS_MAX = 256
"""Most tokens of a chunk: what MiniLM reads at once. Short passages are found more exactly, also by a model that reads
more."""

OVERLAP_TOKENS = 32
"""Tokens that neighbouring chunks share: about two sentences, as between the windows of a long memory."""

CHUNK_CHARS_MAX = 8_000
"""Most characters of a chunk. Tokens do not bound them: to MiniLM, any word of over 100 characters is one token."""

_SENTENCE_END = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])(?=\S)|\n(?=[^\S\n]*(?:[-*+•]|\d+[.)])\s)"  # or a new item of a list
)
_LINE_END = re.compile(r"\n")
_WORD_END = re.compile(r"\s+")


class _Joint(IntEnum):
    """What ends at the end of an atom. A chunk prefers to end at a greater joint."""

    PIECE = 0
    WORD = 1
    SENTENCE = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Atom:
    """A part of the text that is not cut any further.

    Attributes:
        start, end: its span in the text.
        tokens: number of its tokens.
        joint: what ends at its end.
        shared: whether the next chunk may begin inside it.
    """

    start: int
    end: int
    tokens: int
    joint: _Joint
    shared: bool


class Chunker:
    """Cuts texts by one embedder's tokenizer. It is thread-safe."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._special = self.tokens("")  # special tokens of one window
        # A window of the model may be smaller than a chunk would be.
        window = len(embedder.windows("a " * (2 * CHUNK_TOKENS_MAX))[0].ids)
        self.tokens_max = min(CHUNK_TOKENS_MAX, window)
        self._overlap = min(OVERLAP_TOKENS, self.tokens_max // 8)
        self._body = self.tokens_max - self._special - self._overlap

    def tokens(self, text: str) -> int:
        """Count the model's tokens of a text, with the special tokens of every window."""
        return sum(len(window.ids) for window in self._embedder.windows(text))

    def chunks(self, document: Extracted) -> list[Chunk]:
        """Return chunks of at most `tokens_max` tokens, in order, that together hold all text that is not blank."""
        return [chunk for section in sections(document.blocks) for chunk in self._of_section(document.text, *section)]

    def _of_section(self, text: str, headings: tuple[str, ...], blocks: Sequence[Block]) -> Iterator[Chunk]:
        atoms = [atom for block in blocks for atom in self._atoms(text, block)]
        begin = 0
        while begin < len(atoms):
            end = self._end(text, atoms, begin)
            start = atoms[begin].start
            # Code and tables are not repeated in the next chunk.
            if begin and atoms[begin - 1].shared:
                start = self._overlapping(text, atoms[begin - 1].start, start, atoms[end - 1].end)
            yield Chunk(start, atoms[end - 1].end, headings)
            begin = end

    def _end(self, text: str, atoms: Sequence[_Atom], begin: int) -> int:
        """Return the index after the last atom of the chunk that begins with atom `begin`."""
        start, tokens, half = atoms[begin].start, 0, begin + 1
        most = begin
        # `most` is the end of the largest chunk that fits, and `half` is the end of one that fills half of it.
        while most < len(atoms) and self._fits(tokens + atoms[most].tokens, atoms[most].end - start, self._body):
            tokens += atoms[most].tokens
            most += 1
            if tokens <= self._body // 2:
                half = most + 1
        # Every chunk takes at least one atom, so that the loop over the atoms always goes on.
        most = max(most, begin + 1)
        # With some tokenizers, a text has more tokens than its parts together.
        while most > begin + 1 and self._count(text[start : atoms[most - 1].end]) > self._body:
            most -= 1
        if most == len(atoms):
            return most
        # The ends in the upper half compete, so that chunks are neither tiny nor always as large as possible.
        ends = range(min(half, most), most + 1)
        best = max(atoms[end - 1].joint for end in ends)
        best_ends = [end for end in ends if atoms[end - 1].joint is best]
        # Ends of words are everywhere, so the last one is taken. The checksum chooses among sentences and blocks.
        if best < _Joint.SENTENCE:
            return best_ends[-1]
        return min(best_ends, key=lambda end: (_checksum(text, atoms[end - 1]), -end))

    def _overlapping(self, text: str, earliest: int, start: int, end: int) -> int:
        """Return the start of a chunk that shares text before `start`, at a sentence if possible, or else at a word."""
        before = text[max(earliest, start - CHUNK_CHARS_MAX // 8) : start]
        offset = start - len(before)
        for ends in (_SENTENCE_END, _WORD_END):
            starts = [offset + match.end() for match in ends.finditer(before) if offset + match.end() < start]
            if earliest == offset:
                starts.insert(0, earliest)
            # The starts are ascending, so the first one that fits shares the most text.
            for begin in starts:
                if self._count(text[begin:start]) <= self._overlap and self._fits(
                    self._count(text[begin:end]), end - begin, self._body + self._overlap
                ):
                    return begin
        return start

    def _atoms(self, text: str, block: Block) -> Iterator[_Atom]:
        is_unit = block.kind in (BlockKind.CODE, BlockKind.TABLE)
        tokens = self._count(text[block.start : block.end])
        if is_unit and self._fits(tokens, block.end - block.start, self._body):
            yield _Atom(start=block.start, end=block.end, tokens=tokens, joint=_Joint.BLOCK, shared=False)
            return
        # A heading counts as the end of a word only, so a chunk rarely ends with it.
        last = _Joint.WORD if block.kind is BlockKind.HEADING else _Joint.BLOCK
        spans = list(_parts(text, block.start, block.end, _LINE_END if is_unit else _SENTENCE_END))
        for position, (start, end) in enumerate(spans):
            joint = last if position == len(spans) - 1 else _Joint.SENTENCE
            yield from self._atoms_of_sentence(text, start, end, joint, shared=not is_unit)

    def _atoms_of_sentence(self, text: str, start: int, end: int, joint: _Joint, *, shared: bool) -> Iterator[_Atom]:
        tokens = self._count(text[start:end])
        if self._fits(tokens, end - start, self._body):
            yield _Atom(start=start, end=end, tokens=tokens, joint=joint, shared=shared)
            return
        spans = list(_parts(text, start, end, _WORD_END))
        for begin, stop in spans:
            ending = joint if stop == end else _Joint.WORD
            tokens = self._count(text[begin:stop])
            if self._fits(tokens, stop - begin, self._body):
                yield _Atom(start=begin, end=stop, tokens=tokens, joint=ending, shared=shared)
            else:
                yield from self._pieces(text, begin, stop, ending)

    def _pieces(self, text: str, start: int, end: int, joint: _Joint) -> Iterator[_Atom]:
        """Cut a word that is too long for a chunk. Texts without spaces and base64 have such words."""
        while start < end:
            size = min(end - start, CHUNK_CHARS_MAX)
            # Halve the piece until it fits.
            while size > 1 and (size > CHUNK_CHARS_MAX or self._count(text[start : start + size]) > self._body):
                size //= 2
            if start + size < end:
                # Cut after a sign in the second half, if there is one.
                mark = max((at for at in range(size // 2, size) if not text[start + at - 1].isalnum()), default=0)
                size = mark or size
            stop = start + size
            tokens = self._count(text[start:stop])
            yield _Atom(
                start=start, end=stop, tokens=tokens, joint=joint if stop == end else _Joint.PIECE, shared=False
            )
            start = stop

    def _count(self, text: str) -> int:
        return self.tokens(text) - self._special

    @staticmethod
    def _fits(tokens: int, chars: int, tokens_max: int) -> bool:
        return tokens <= tokens_max and chars <= CHUNK_CHARS_MAX


def page_of(pages: Sequence[int], chunk: Chunk) -> int | None:
    """Return the page, from 1, on which a chunk begins; None for a document without pages."""
    return sum(start <= chunk.start for start in pages) or None


def sections(blocks: Sequence[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Yield the blocks of each section with its headings. A heading without text belongs to the next section."""
    path: list[tuple[int, str]] = []
    section: list[Block] = []
    for block in blocks:
        if block.kind is BlockKind.HEADING:
            if any(it.kind is not BlockKind.HEADING for it in section):
                yield tuple(title for _, title in path), section
                section = []
            # A heading closes all sections of its own level and below.
            path = [*((level, title) for level, title in path if level < block.level), (block.level, block.title)]
        section.append(block)
    if section:
        yield tuple(title for _, title in path), section


def _parts(text: str, start: int, end: int, separator: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield the spans between separators, without blank ones and without blanks at their ends.

    Signs in a separator, such as a quote after a full stop, belong to the span before it.
    """
    inner = text[start:end]
    edges = [0, *(match.end() for match in separator.finditer(inner)), len(inner)]
    for begin, stop in pairwise(edges):
        part = inner[begin:stop]
        if part.strip():
            yield start + begin + len(part) - len(part.lstrip()), start + begin + len(part.rstrip())


def _checksum(text: str, atom: _Atom) -> int:
    return zlib.crc32(text[max(atom.start, atom.end - 64) : atom.end].encode())
