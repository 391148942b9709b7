"""Cuts what was read of a document into chunks that the model reads at once.

A chunk never reaches beyond its section. Within one it ends at the end of a block if it can, else of a sentence, else
of a word, and code and tables stay whole where they fit. Which of several such ends it takes is told by the text at the
end itself (its checksum), not by how far it is from the beginning: so behind a change the old ends are soon met again,
and a repeated upload finds its chunks where they were. This is content-defined chunking (Muthitacharoen et al. 2001,
"A low-bandwidth network file system").
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
"""What MiniLM reads at once. A model with a longer window still finds a passage more exactly by a vector of its own."""

OVERLAP_TOKENS = 32
"""As between the windows of a long memory (`windows.py`): about two sentences."""

CHUNK_CHARS_MAX = 8_000
"""Some tokens are long: for MiniLM any word of over 100 characters is a single one."""

_SENTENCE_END = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])(?=\S)|\n(?=[^\S\n]*(?:[-*+•]|\d+[.)])\s)"  # or a new item of a list
)
_LINE_END = re.compile(r"\n")
_WORD_END = re.compile(r"\s+")


class _Joint(IntEnum):
    """What ends with an atom; a chunk rather ends with a greater one."""

    PIECE = 0
    WORD = 1
    SENTENCE = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Atom:
    """A stretch of text that is not cut any more, with what it ends."""

    start: int
    end: int
    tokens: int
    joint: _Joint
    shared: bool
    """Whether the next chunk may begin within it."""


class Chunker:
    """Cuts texts by one embedder's tokenizer. Thread-safe."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._special = self.tokens("")
        window = len(embedder.windows("a " * (2 * CHUNK_TOKENS_MAX))[0].ids)
        self.tokens_max = min(CHUNK_TOKENS_MAX, window)
        self._overlap = min(OVERLAP_TOKENS, self.tokens_max // 8)
        self._body = self.tokens_max - self._special - self._overlap

    def tokens(self, text: str) -> int:
        """The model's tokens of a text, with the special ones around it; of a long one, with those of each window."""
        return sum(len(window.ids) for window in self._embedder.windows(text))

    def chunks(self, document: Extracted) -> list[Chunk]:
        """Chunks of at most `tokens_max` tokens, in order, that together hold all text that is not blank."""
        return [chunk for section in _sections(document.blocks) for chunk in self._of_section(document.text, *section)]

    def _of_section(self, text: str, headings: tuple[str, ...], blocks: Sequence[Block]) -> Iterator[Chunk]:
        atoms = [atom for block in blocks for atom in self._atoms(text, block)]
        begin = 0
        while begin < len(atoms):
            end = self._end(text, atoms, begin)
            start = atoms[begin].start
            if begin and atoms[begin - 1].shared:
                start = self._overlapping(text, atoms[begin - 1].start, start, atoms[end - 1].end)
            yield Chunk(start, atoms[end - 1].end, headings)
            begin = end

    def _end(self, text: str, atoms: Sequence[_Atom], begin: int) -> int:
        """Behind which atom the chunk ends that begins with this one."""
        start, tokens, half = atoms[begin].start, 0, begin + 1
        most = begin
        while most < len(atoms) and self._fits(tokens + atoms[most].tokens, atoms[most].end - start, self._body):
            tokens += atoms[most].tokens
            most += 1
            if tokens <= self._body // 2:
                half = most + 1
        most = max(most, begin + 1)
        # Some tokenizers take two neighbours together for more than they take each.
        while most > begin + 1 and self._count(text[start : atoms[most - 1].end]) > self._body:
            most -= 1
        if most == len(atoms):
            return most
        ends = range(min(half, most), most + 1)
        best = max(atoms[end - 1].joint for end in ends)
        of_best = [end for end in ends if atoms[end - 1].joint is best]
        if best < _Joint.SENTENCE:
            return of_best[-1]
        return min(of_best, key=lambda end: (_checksum(text, atoms[end - 1]), -end))

    def _overlapping(self, text: str, earliest: int, start: int, end: int) -> int:
        """Where a chunk begins that shares what ends before `start`: with a sentence if it can, else with a word."""
        before = text[max(earliest, start - CHUNK_CHARS_MAX // 8) : start]
        offset = start - len(before)
        for ends in (_SENTENCE_END, _WORD_END):
            starts = [offset + found.end() for found in ends.finditer(before) if offset + found.end() < start]
            if earliest == offset:
                starts.insert(0, earliest)
            for begin in starts:
                if self._count(text[begin:start]) <= self._overlap and self._fits(
                    self._count(text[begin:end]), end - begin, self._body + self._overlap
                ):
                    return begin
        return start

    def _atoms(self, text: str, block: Block) -> Iterator[_Atom]:
        whole = block.kind in (BlockKind.CODE, BlockKind.TABLE)
        tokens = self._count(text[block.start : block.end])
        if whole and self._fits(tokens, block.end - block.start, self._body):
            yield _Atom(start=block.start, end=block.end, tokens=tokens, joint=_Joint.BLOCK, shared=False)
            return
        # A chunk does not end with a heading if it can help it.
        last = _Joint.WORD if block.kind is BlockKind.HEADING else _Joint.BLOCK
        spans = list(_parts(text, block.start, block.end, _LINE_END if whole else _SENTENCE_END))
        for at, (start, end) in enumerate(spans):
            joint = last if at == len(spans) - 1 else _Joint.SENTENCE
            yield from self._atoms_of_sentence(text, start, end, joint, shared=not whole)

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
        """A word that is too long for a chunk: a text without spaces, or base64."""
        while start < end:
            size = min(end - start, CHUNK_CHARS_MAX)
            while size > 1 and (size > CHUNK_CHARS_MAX or self._count(text[start : start + size]) > self._body):
                size //= 2
            if start + size < end:
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
    """The page, from 1, on which a chunk begins; None where there are no pages."""
    return sum(start <= chunk.start for start in pages) or None


def _sections(blocks: Sequence[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Blocks under the same headings. Headings with nothing below them go with the section that follows."""
    path: list[tuple[int, str]] = []
    section: list[Block] = []
    for block in blocks:
        if block.kind is BlockKind.HEADING:
            if any(held.kind is not BlockKind.HEADING for held in section):
                yield tuple(title for _, title in path), section
                section = []
            path = [*((level, title) for level, title in path if level < block.level), (block.level, block.title)]
        section.append(block)
    if section:
        yield tuple(title for _, title in path), section


def _parts(text: str, start: int, end: int, separator: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """The stretches between separators, none of them blank and none with blanks around it.

    What a separator has besides blanks (quotes behind a full stop) ends the stretch before it.
    """
    inner = text[start:end]
    edges = [0, *(found.end() for found in separator.finditer(inner)), len(inner)]
    for begin, stop in pairwise(edges):
        part = inner[begin:stop]
        if part.strip():
            yield start + begin + len(part) - len(part.lstrip()), start + begin + len(part.rstrip())


def _checksum(text: str, atom: _Atom) -> int:
    return zlib.crc32(text[max(atom.start, atom.end - 64) : atom.end].encode())
