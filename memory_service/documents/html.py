"""Reads the main text of HTML with its headings, code and tables. Scripts, styles and navigation are left out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from memory_service.documents.markdown import trim_blocks
from memory_service.documents.model import Block, BlockKind, Extracted

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_WITHOUT_TEXT = "script style noscript template nav aside footer form svg math iframe object canvas audio video"
_LEFT_OUT = frozenset(f"{_WITHOUT_TEXT} select button head dialog".split())
_PARTS = "address article blockquote body center details div figcaption figure fieldset header hgroup html main section"
_LISTS = "dd dir dl dt li menu ol ul hr p pre summary caption table tr"
_KINDS = {"pre": (BlockKind.CODE, 0), "tr": (BlockKind.TABLE, 0)}
_KINDS |= {f"h{level}": (BlockKind.HEADING, level) for level in range(1, 7)}
_BLOCKS = frozenset(f"{_PARTS} {_LISTS}".split()) | _KINDS.keys()
_ROLES_LEFT_OUT = frozenset({"navigation", "banner", "contentinfo", "search", "complementary"})


class _BlockWriter:
    """Builds the text and its blocks, one block at a time."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._parts: list[str] = []
        self._length = 0
        self._open: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write(self, text: str) -> None:
        self._open.append(text)

    def close(self, kind: BlockKind, level: int = 0) -> None:
        """End the open block, unless it is empty."""
        inner = "".join(self._open)
        self._open = []
        inner = inner.strip("\n") if kind is BlockKind.CODE else _collapse_spaces(inner)
        if not inner.strip():
            return
        start = self._length
        self._put(inner)
        self.blocks.append(Block(start, self._length, kind, level, " ".join(inner.split()) if level else ""))
        self._put("\n" if kind is BlockKind.TABLE else "\n\n")

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def read_html(text: str) -> Extracted:
    """Read a page: its `main` element, its only `article`, or its body."""
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(text)
    titles = [node.text().strip() for node in page.css("title")]
    articles = page.css("article")
    # With several articles, none of them is the subject of the page.
    root = page.css_first("main, [role=main]") or (articles[0] if len(articles) == 1 else page.body)
    writer = _BlockWriter()
    # The kinds of the open elements, innermost last. Text belongs to the innermost.
    kinds: list[tuple[BlockKind, int]] = [(BlockKind.TEXT, 0)]
    for node, is_beginning in _walk(root):
        tag = node.tag or ""
        if not is_beginning:
            _finish(writer, tag, kinds)
        elif tag == "-text":
            writer.write(node.text_content or "")
        elif tag == "br":
            writer.write("\n" if kinds[-1][0] is BlockKind.CODE else _BREAK)
        else:
            _begin(writer, tag, kinds)
    writer.close(BlockKind.TEXT)
    content = writer.text
    blocks = trim_blocks(content, _join_table_rows(writer.blocks))
    title = next((title for title in titles if title), None)
    return Extracted(content, blocks, title or next((block.title for block in blocks if block.level == 1), None))


def _walk(root: "LexborNode | None") -> Iterator[tuple["LexborNode", bool]]:
    """Yield every node below the root at its start (True) and its end (False), without the elements to leave out."""
    # A loop instead of recursion, because the nesting of a page has no bound.
    open_: list[LexborNode] = []
    node = root.first_child if root else None
    while node is not None or open_:
        # The children of the innermost open node are done, so it ends.
        if node is None:
            ended = open_.pop()
            yield ended, False
            node = ended.next
        elif node.tag in _LEFT_OUT or (node.attributes or {}).get("role") in _ROLES_LEFT_OUT:
            node = node.next
        else:
            yield node, True
            open_.append(node)
            node = node.first_child


_BREAK = "\v"
"""Stands for a line break inside a paragraph, where all other white space becomes one space."""


def _begin(writer: _BlockWriter, tag: str, kinds: list[tuple[BlockKind, int]]) -> None:
    if tag in _BLOCKS:
        writer.close(*kinds[-1])
        kinds.append(_KINDS.get(tag, (BlockKind.TEXT, 0)))
        if tag == "li":
            # Items of a list are told apart by their dashes, as in Markdown.
            writer.write("- ")
    elif tag in ("td", "th"):
        writer.write(" | ")


def _finish(writer: _BlockWriter, tag: str, kinds: list[tuple[BlockKind, int]]) -> None:
    if tag in _BLOCKS:
        writer.close(*kinds[-1])
        kinds.pop()


def _collapse_spaces(text: str) -> str:
    """Return the text with one space for any white space, and a new line for each break."""
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    shown = "\n".join(lines).strip()
    return "" if shown == "-" else shown


def _join_table_rows(blocks: list[Block]) -> list[Block]:
    """Return the blocks, with the adjacent rows of a table as one block."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and last.kind is block.kind is BlockKind.TABLE and block.start - last.end == 1:
            joined[-1] = Block(last.start, block.end, BlockKind.TABLE)
        else:
            joined.append(block)
    return joined
