"""Reads Markdown. The text stays as it is written; its headings, code and tables become blocks."""

import re
from itertools import accumulate

from memory_service.documents.model import Block, BlockKind, Extracted

NESTING_MAX = 20
"""Most levels of quotes and lists that are parsed. Everything deeper is text."""

_FRONT_MATTER = re.compile(r"\A---\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_MARKS = re.compile(r"[*`]+|!?\[([^\]]*)\]\([^)]*\)|<[^>]*>|[ \t]#+[ \t]*$|\{#[^}]*\}[ \t]*$")
_KINDS = {
    "fence": BlockKind.CODE,
    "code_block": BlockKind.CODE,
    "html_block": BlockKind.TEXT,
    "table_open": BlockKind.TABLE,
    "paragraph_open": BlockKind.TEXT,
    "heading_open": BlockKind.HEADING,
}


def read_markdown(text: str) -> Extracted:
    """Read CommonMark with tables. The front matter of site generators is one block, and its title is the document's.

    Args:
        text: a text with plain line ends (`plain.with_plain_lines`).
    """
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(text)
    skipped = front.end() if front else 0
    parser = MarkdownIt("commonmark", {"maxNesting": NESTING_MAX}).enable("table")
    # Only the blocks are wanted, so inline parsing is switched off.
    parser.core.ruler.enableOnly(["normalize", "block"])
    tokens = parser.parse(text[skipped:].replace("\0", "�"))
    # The offset at which every line of the text begins.
    lines = list(accumulate((len(line) + 1 for line in text[skipped:].split("\n")), initial=skipped))
    blocks = [Block(0, skipped, BlockKind.TEXT)] if front else []
    end = skipped
    for position, token in enumerate(tokens):
        kind = _KINDS.get(token.type)
        if kind is None or token.map is None:
            continue
        begin_line, end_line = token.map
        # A block that begins inside the last one is cut at its end, so that blocks never overlap.
        start = max(end, lines[begin_line])
        if start > end:  # lines that make no block (a rule, a link definition) are text
            blocks.append(Block(end, start, BlockKind.TEXT))
        # A heading inside a quote or a list makes no section.
        if kind is BlockKind.HEADING and token.level:
            kind = BlockKind.TEXT
        is_heading = kind is BlockKind.HEADING
        heading = _plain(tokens[position + 1].content) if is_heading else ""
        end = min(len(text), max(start, lines[end_line]))
        blocks.append(Block(start, end, kind, int(token.tag[1:]) if is_heading else 0, heading))
    blocks.append(Block(end, len(text), BlockKind.TEXT))
    front_title = _FRONT_TITLE.search(front[0]) if front else None
    first_title = next((block.title for block in blocks if block.level == 1 and block.title), None)
    title = front_title[1].strip("\"'") if front_title else first_title
    return Extracted(text, trim_blocks(text, blocks), title or None)


def trim_blocks(text: str, blocks: list[Block]) -> tuple[Block, ...]:
    """Return the blocks without blanks at their ends, and without blank blocks."""
    trimmed = []
    for block in blocks:
        inner = text[block.start : block.end]
        if inner.strip():
            blanks = "\n" if block.kind is BlockKind.CODE else None  # the indentation of code is part of it
            start = block.start + len(inner) - len(inner.lstrip(blanks))
            end = block.start + len(inner.rstrip())
            trimmed.append(Block(start, end, block.kind, block.level, block.title))
    return tuple(trimmed)


def _plain(inline: str) -> str:
    """Return the heading without the marks of emphasis, code, links and anchors."""
    return " ".join(_MARKS.sub(lambda match: match[1] or "", inline).split())
