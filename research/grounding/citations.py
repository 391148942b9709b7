"""Reads the citation marks of an answer: pure text in, numbers and places out.

Marks are [1], [1, 2], [1][3], [1-3] and 【1】. Not marks: Markdown links `[1](url)`, code between backticks, and an
index such as a[1] or row_count[1]. Models do glue a mark to the word it follows ("62,000 euro[1]"); that counts unless
the word looks like an identifier: a citation lost is worse than an index taken for one. No mark runs over a line break.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Three digits hold every number that a prompt can give out, and keep a year in brackets from being a citation.
_NUMBER = r"[0-9]{1,3}"
_SPACE = r"[^\S\n\r\u2028\u2029]?"
_ITEM = rf"{_NUMBER}(?:{_SPACE}[-\u2013\u2014]{_SPACE}{_NUMBER})?"
_LIST = rf"{_SPACE}({_ITEM}(?:{_SPACE}[,;]{_SPACE}{_ITEM})*){_SPACE}"
_MARK = re.compile(rf"\[{_LIST}\](?!\]?\()|【{_LIST}】")
_ITEM_ENDS = re.compile(rf"({_NUMBER})(?:\s?[-\u2013\u2014]\s?({_NUMBER}))?")

# A fence that the token limit cut off runs to the end of the text.
CODE = re.compile(r"(?s:```.*?(?:```|\Z))|`[^`\n]*`")

# What stands directly before a glued mark: up to 40 characters of an expression are enough to judge it.
_GLUED_WORD = re.compile(r"[A-Za-z0-9_.]*[A-Za-z0-9_]\Z")
_GLUED_WORD_CHARS_MAX = 40
_IDENTIFIER = re.compile(r"[A-Za-z]|\w*_\w*|[A-Za-z][\w.]*\.\w+")

_ATTRIBUTE = re.compile(r"\.[a-z_]")

# A wider range is no range of passages; then only its two ends are read.
_RANGE_NUMBERS_MAX = 50


# Without the mark between them these would grow together to another mark.
_GROWS_BEFORE, _GROWS_AFTER = re.compile(r"[\[【0-9,;\-\u2013\u2014]\s?\Z"), re.compile(r"\s?[\]】0-9,;\-\u2013\u2014]")
_BRACKETS_BEFORE_A_MARK = re.compile(r"\]+(?=[\[【])")
_GAP = "  "
"""No mark holds two spaces in a row."""

_ENDS_A_WORD = re.compile(r"[\s.,;:!?)\]}。\uff0c\uff01\uff1f]|\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters start to stop of a text that cite.

    Attributes:
        numbers: each once, in order.
    """

    start: int
    stop: int
    numbers: tuple[int, ...]


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
    numbers = dict.fromkeys(n for mark in marks(text) for n in mark.numbers)
    return Cited(
        known=tuple(n for n in numbers if 1 <= n <= passages),
        unknown=tuple(n for n in numbers if not 1 <= n <= passages),
    )


def marks(text: str) -> list[Mark]:
    """Find the marks of a text with their places, in order; brackets doubled around one belong to it."""
    plain = CODE.sub(lambda code: " " * len(code.group()), text)
    found: list[Mark] = []
    end = 0
    for match in _MARK.finditer(plain):
        if _is_index(plain, match, end):
            continue
        end = match.end()
        is_doubled = plain[match.start() - 1 : match.start()] == "[" and plain[end : end + 1] == "]"
        items = _ITEM_ENDS.finditer(match[1] or match[2])
        numbers = dict.fromkeys(n for item in items for n in _span(int(item[1]), int(item[2] or item[1])))
        found.append(Mark(match.start() - is_doubled, end + is_doubled, tuple(numbers)))
    return found


def without_unknown(text: str, passages: int) -> str:
    """Take numbers that no passage has out of the marks, and marks that are empty then out of the text.

    Nothing else changes but the white space around such a mark, and never which other numbers the text cites. A mark
    that stands within brackets of its own would make a new one of what is around it, and stays.
    """
    found = marks(text)
    for removed in (_closed, _apart):
        left, expected = _without_unknown(text, found, passages, removed)
        if left == text or [mark.numbers for mark in marks(left)] == expected:
            return left
    return text


_Removed = Callable[[str, str, int], tuple[str, int]]
"""What stays before a mark that is taken out, given what precedes it, the text and where the mark stops; and from where
on the text goes on."""


def _without_unknown(
    text: str, found: Iterable[Mark], passages: int, removed: _Removed
) -> tuple[str, list[tuple[int, ...]]]:
    """A text without the unknown numbers of its marks, and the numbers of each mark that it should still have."""
    kept, expected = "", []
    end = 0
    for mark in found:
        known = tuple(n for n in mark.numbers if 1 <= n <= passages)
        if known == mark.numbers or (not known and _stays(text, mark)):
            expected.append(mark.numbers)
            continue
        before = kept + text[end : mark.start]
        if known:
            whole = text[mark.start : mark.stop]
            kept, end = before + whole.replace(whole.strip("[]【】"), ", ".join(map(str, known))), mark.stop
            expected.append(known)
        else:
            kept, end = removed(before, text, mark.stop)
    return kept + text[end:], expected


def _stays(text: str, mark: Mark) -> bool:
    before = _GROWS_BEFORE.search(text[: mark.start][-2:])
    return before is not None and _GROWS_AFTER.match(text, mark.stop) is not None


def _closed(before: str, text: str, stop: int) -> tuple[str, int]:
    """Close the gap, as a writer would."""
    following = text[stop : stop + 1]
    if not before or before[-1] in "\n\r":
        return before, stop + (following in (" ", "\t"))
    if _ENDS_A_WORD.match(text, stop):
        return before.rstrip(" \t"), stop
    return before + " " * (before[-1].isalnum() and following.isalnum()), stop


def _apart(before: str, text: str, stop: int) -> tuple[str, int]:
    """Keep what is around the gap apart, and a mark behind closing brackets from being the index of what they close."""
    brackets = _BRACKETS_BEFORE_A_MARK.match(text, stop)
    if brackets is None:
        return before + _GAP, stop
    return before + _GAP + brackets.group() + _GAP, brackets.end()


def _is_index(text: str, mark: re.Match[str], previous_end: int) -> bool:
    """Tell code such as a[1], rows[i][1] or data.items[1] from a mark."""
    if text.endswith("]", 0, mark.start()):
        # [1][3] are two marks; after any other bracket this is the next index of the same expression.
        return text[max(previous_end, text.rfind("\n", 0, mark.start()) + 1) : mark.start()].strip("]") != ""
    glued = _GLUED_WORD.search(text[max(0, mark.start() - _GLUED_WORD_CHARS_MAX) : mark.start()])
    if glued is None or mark[1] is None or not re.search("[A-Za-z_]", glued.group()):
        return False
    return _IDENTIFIER.fullmatch(glued.group()) is not None or _ATTRIBUTE.match(text, mark.end()) is not None


def _span(first: int, last: int) -> Iterator[int]:
    if 0 <= last - first < _RANGE_NUMBERS_MAX:
        yield from range(first, last + 1)
    else:
        yield from (first, last)
