"""Reads the citation marks of an answer: pure text in, numbers out.

Marks are [1], [1, 2], [1][3], [1-3] and 【1】. Not marks: Markdown links `[1](url)`, code between backticks, and an
index such as a[1] or row_count[1]. Models do glue a mark to the word it follows ("62,000 euro[1]"); that counts unless
the word looks like an identifier: a citation lost is worse than an index taken for one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Three digits hold every number that a prompt can give out, and keep a year in brackets from being a citation.
_NUMBER = r"[0-9]{1,3}"
_ITEM = rf"{_NUMBER}(?:\s?[-\u2013\u2014]\s?{_NUMBER})?"
_LIST = rf"\s?({_ITEM}(?:\s?[,;]\s?{_ITEM})*)\s?"
_MARK = re.compile(rf"\[{_LIST}\](?!\]?\()|【{_LIST}】")
_ITEM_ENDS = re.compile(rf"({_NUMBER})(?:\s?[-\u2013\u2014]\s?({_NUMBER}))?")

# A fence that the token limit cut off runs to the end of the text.
_CODE = re.compile(r"(?s:```.*?(?:```|\Z))|`[^`\n]*`")

# What stands directly before a glued mark: up to 40 characters of an expression are enough to judge it.
_GLUED_WORD = re.compile(r"[A-Za-z0-9_.]*[A-Za-z0-9_]\Z")
_GLUED_WORD_CHARS_MAX = 40
_IDENTIFIER = re.compile(r"[A-Za-z]|\w*_\w*|[A-Za-z][\w.]*\.\w+")

_ATTRIBUTE = re.compile(r"\.[a-z_]")

# A wider range is no range of passages; then only its two ends are read.
_RANGE_NUMBERS_MAX = 50


@dataclass(frozen=True, slots=True)
class Cited:
    """Numbers cited by a text, each once, in order of first appearance.

    Attributes:
        known: those from 1 to the number of passages.
        unknown: all others.
    """

    known: tuple[int, ...]
    unknown: tuple[int, ...]


def find(text: str, passages: int) -> Cited:
    """Find the numbers that a text cites when `passages` of them were given out."""
    numbers = dict.fromkeys(_numbers(_without_code(text)))
    return Cited(
        known=tuple(n for n in numbers if 1 <= n <= passages),
        unknown=tuple(n for n in numbers if not 1 <= n <= passages),
    )


def _without_code(text: str) -> str:
    return _CODE.sub(lambda code: " " * len(code.group()), text)


def _numbers(text: str) -> Iterator[int]:
    end = 0
    for mark in _MARK.finditer(text):
        if _is_index(text, mark, end):
            continue
        end = mark.end()
        for item in _ITEM_ENDS.finditer(mark[1] or mark[2]):
            yield from _span(int(item[1]), int(item[2] or item[1]))


def _is_index(text: str, mark: re.Match[str], previous_end: int) -> bool:
    """Tell code such as a[1], rows[i][1] or data.items[1] from a mark."""
    if text.endswith("]", 0, mark.start()):
        # [1][3] are two marks; after any other bracket this is the next index of the same expression.
        return text[previous_end : mark.start()].strip("]") != ""
    glued = _GLUED_WORD.search(text[max(0, mark.start() - _GLUED_WORD_CHARS_MAX) : mark.start()])
    if glued is None or mark[1] is None or not re.search("[A-Za-z_]", glued.group()):
        return False
    return _IDENTIFIER.fullmatch(glued.group()) is not None or _ATTRIBUTE.match(text, mark.end()) is not None


def _span(first: int, last: int) -> Iterator[int]:
    if 0 <= last - first < _RANGE_NUMBERS_MAX:
        yield from range(first, last + 1)
    else:
        yield from (first, last)
