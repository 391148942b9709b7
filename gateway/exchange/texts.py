"""Plain text and Markdown: a memory for each paragraph, or for each section with the headings above it.

A key is the file's name and a digest of headings and text, so the same paragraph is the same memory wherever it moves
within its file. The readers of documents find paragraphs, headings and code.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from gateway.exchange.items import ItemOrProblem, item_of
from memory_service.documents.chunking import sections as sections_of
from memory_service.documents.markdown import read_markdown
from memory_service.documents.model import Block, BlockKind
from memory_service.documents.plain import read_plain, with_plain_lines

SECTION_CHARS_MAX = 2_000
"""A longer section is cut between its paragraphs. About two windows of the model are found best and read whole."""


def paragraphs(name: str, text: str, namespace: str) -> Iterator[ItemOrProblem]:
    """Yield a memory for each stretch between blank lines."""
    document = read_plain(with_plain_lines(text))
    return _items(name, document.text, ((block.start, block.end, ()) for block in document.blocks), namespace)


def sections(name: str, text: str, namespace: str) -> Iterator[ItemOrProblem]:
    """Yield a memory for each stretch between headings, or several for a long one."""
    document = read_markdown(with_plain_lines(text))
    spans = (
        (start, end, tuple(title for title in titles if title))
        for titles, blocks in sections_of(document.blocks)
        for start, end in _cut([block for block in blocks if block.kind is not BlockKind.HEADING])
    )
    return _items(name, document.text, spans, namespace)


def _cut(blocks: Sequence[Block]) -> Iterator[tuple[int, int]]:
    """Cut a section between its blocks, where it would be longer than SECTION_CHARS_MAX."""
    if not blocks:
        return
    start = blocks[0].start
    for before, block in pairwise(blocks):
        if block.end - start > SECTION_CHARS_MAX:
            yield start, before.end
            start = block.start
    yield start, blocks[-1].end


def _items(
    name: str, text: str, spans: Iterable[tuple[int, int, tuple[str, ...]]], namespace: str
) -> Iterator[ItemOrProblem]:
    line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
    for start, end, headings in spans:
        line = bisect_right(line_starts, start)
        content = text[line_starts[line - 1] : end]  # with the indentation of its first line
        digest = hashlib.sha256("\n".join([*headings, content]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        metadata = {"source": name, **({"headings": list(headings)} if headings else {})}
        yield item_of(
            f"{name}:{line}", content=content, key=f"{name[-400:]}#{digest}", namespace=namespace, metadata=metadata
        )
