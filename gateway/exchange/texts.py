"""Plain text and Markdown: a memory for each paragraph, or for each section with the headings above it.

A key is the file's name and a digest of headings and text, so the same paragraph is the same memory wherever it moves
within its file.
"""

import hashlib
import re
from collections.abc import Iterator

from gateway.exchange.items import Item, Read
from vector_memory.memories import NewMemory

SECTION_CHARS_MAX = 2_000
"""A longer section is cut between its paragraphs: a passage of about two windows of the model is found best and read
whole."""

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def _lines(text: str) -> list[str]:
    """As editors count them: what else Python takes for the end of a line is a part of it."""
    return text.replace("\r\n", "\n").split("\n")


def paragraphs(name: str, text: str, namespace: str) -> Iterator[Read]:
    """What stands between blank lines."""
    for line, block in _blocks(_lines(text), 1):
        yield _item(name, line, block, (), namespace)


def sections(name: str, text: str, namespace: str) -> Iterator[Read]:
    """What stands between headings; code in fences is no heading and is not cut."""
    headings: list[tuple[int, str]] = []
    body: list[str] = []
    begin = 1
    fence: str | None = None
    for number, line in enumerate(_lines(text), 1):
        fence, was_code = _fence(line, fence), fence is not None
        heading = None if was_code or fence else _HEADING.fullmatch(line)
        if heading is None:
            body.append(line)
            continue
        yield from _section(name, begin, body, headings, namespace)
        depth = len(heading[1])
        headings = [*(each for each in headings if each[0] < depth), (depth, heading[2] or "")]
        body, begin = [], number + 1
    yield from _section(name, begin, body, headings, namespace)


def _fence(line: str, open_fence: str | None) -> str | None:
    """The fence that is open after a line."""
    mark = _FENCE.match(line)
    if mark is None:
        return open_fence
    if open_fence is None:
        return mark[1]
    closes = mark[1].startswith(open_fence) and not line.strip().strip(mark[1][0])
    return None if closes else open_fence


def _section(name: str, begin: int, body: list[str], headings: list[tuple[int, str]], namespace: str) -> Iterator[Read]:
    titles = tuple(title for _, title in headings if title)
    gathered: list[str] = []
    first = begin
    for line, block in _blocks(body, begin):
        if gathered and sum(map(len, gathered)) + len(block) > SECTION_CHARS_MAX:
            yield _item(name, first, "\n\n".join(gathered), titles, namespace)
            gathered = []
        if not gathered:
            first = line
        gathered.append(block)
    if gathered:
        yield _item(name, first, "\n\n".join(gathered), titles, namespace)


def _blocks(lines: list[str], begin: int) -> Iterator[tuple[int, str]]:
    """Paragraphs with the number of their first line; a blank line inside of a fence does not end one."""
    block: list[str] = []
    first = begin
    fence: str | None = None
    for number, line in enumerate(lines, begin):
        if not line.strip() and fence is None:
            if block:
                yield first, "\n".join(block)
            block = []
            continue
        fence = _fence(line, fence)
        if not block:
            first = number
        block.append(line.rstrip())
    if block:
        yield first, "\n".join(block)


def _item(name: str, line: int, text: str, headings: tuple[str, ...], namespace: str) -> Item:
    digest = hashlib.sha256("\n".join([*headings, text]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    metadata = {"source": name, **({"headings": list(headings)} if headings else {})}
    return Item(
        f"{name}:{line}", NewMemory(content=text, key=f"{name[-400:]}#{digest}", namespace=namespace, metadata=metadata)
    )
