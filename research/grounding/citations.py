"""Reads the citation marks of an answer: pure text in, numbers and places out.

Marks are [1], [1, 2], [1][3], [1-3] and 【1】. Markdown links such as `[1](url)`, code between backticks, and an index
such as a[1] or row_count[1] are no marks. Models glue a mark to the word before it ("62,000 euro[1]"). That counts
unless the word looks like an identifier, because a lost citation is worse than an index that is taken for one. No mark
runs over a line break.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Three digits are enough for every number of a prompt, and a year in brackets is no citation.
_NUMBER = r"[0-9]{1,3}"
_SPACE = r"[^\S\n\r\u2028\u2029]?"
_ITEM = rf"{_NUMBER}(?:{_SPACE}[-\u2013\u2014]{_SPACE}{_NUMBER})?"
_LIST = rf"{_SPACE}({_ITEM}(?:{_SPACE}[,;]{_SPACE}{_ITEM})*){_SPACE}"
_MARK = re.compile(rf"\[{_LIST}\](?!\]?\()|【{_LIST}】")
_ITEM_ENDS = re.compile(rf"({_NUMBER})(?:\s?[-\u2013\u2014]\s?({_NUMBER}))?")

# A fence that the token limit cut off runs to the end of the text.
CODE = re.compile(r"(?s:```.*?(?:```|\Z))|`[^`\n]*`")

# The word before a glued mark. Its last 40 characters are enough to judge it.
_GLUED_WORD = re.compile(r"[A-Za-z0-9_.]*[A-Za-z0-9_]\Z")
_GLUED_WORD_CHARS_MAX = 40
_IDENTIFIER = re.compile(r"[A-Za-z]|\w*_\w*|[A-Za-z][\w.]*\.\w+")

_ATTRIBUTE = re.compile(r"\.[a-z_]")

# A wider range is no range of passages. Only its two ends are read.
_RANGE_NUMBERS_MAX = 50

# Texts before and after a mark that would form another mark if the one between them were taken out.
_GROWS_BEFORE, _GROWS_AFTER = re.compile(r"[\[【0-9,;\-\u2013\u2014]\s?\Z"), re.compile(r"\s?[\]】0-9,;\-\u2013\u2014]")
_BRACKETS_BEFORE_A_MARK = re.compile(r"\]+(?=[\[【])")

# No mark holds two spaces in a row.
_GAP = "  "

_ENDS_A_WORD = re.compile(r"[\s.,;:!?)\]}。\uff0c\uff01\uff1f]|\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark and its place: characters [start, stop) of the text.

    Attributes:
        numbers: the numbers that the mark cites, each once, in order.
    """

    start: int
    stop: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CitedNumbers:
    """The numbers that a text cites, each once, in order of first appearance.

    Attributes:
        known: the numbers from 1 to the number of passages.
        unknown: all other numbers.
    """

    known: tuple[int, ...]
    unknown: tuple[int, ...]


def find(text: str, passages: int) -> CitedNumbers:
    """Find the numbers that a text cites. The prompt had `passages` passages."""
    numbers = dict.fromkeys(n for mark in marks(text) for n in mark.numbers)
    return CitedNumbers(
        known=tuple(n for n in numbers if 1 <= n <= passages),
        unknown=tuple(n for n in numbers if not 1 <= n <= passages),
    )


def marks(text: str) -> list[Mark]:
    """Find the marks of a text with their places, in order. Doubled brackets around a mark belong to it."""
    # Blank out code, so that places stay the same and no index in it is found.
    plain = CODE.sub(lambda code: " " * len(code.group()), text)
    found: list[Mark] = []
    end = 0
    for match in _MARK.finditer(plain):
        if _is_index(plain, match, end):
            continue
        end = match.end()
        is_doubled = plain[match.start() - 1 : match.start()] == "[" and plain[end : end + 1] == "]"
        items = _ITEM_ENDS.finditer(match[1] or match[2])
        numbers = dict.fromkeys(n for item in items for n in _expand(int(item[1]), int(item[2] or item[1])))
        found.append(Mark(match.start() - is_doubled, end + is_doubled, tuple(numbers)))
    return found


def without_unknown(text: str, passages: int) -> str:
    """Remove numbers without a passage from the marks, and marks without numbers from the text.

    Nothing else changes except the white space around a removed mark. The other numbers that the text cites stay the
    same. A mark stays if its removal would turn the brackets around it into a new mark.
    """
    found = marks(text)
    # Close the gaps first. If that changes what the text cites, keep them open.
    for join in (_close_gap, _keep_gap):
        left, expected = _without_unknown(text, found, passages, join)
        if left == text or [mark.numbers for mark in marks(left)] == expected:
            return left
    return text


_Join = Callable[[str, str, int], tuple[str, int]]
"""Joins the text before a removed mark to the rest.

Takes the text before the mark, the whole text and the end of the mark. Returns the new text before the gap, and where
the whole text goes on."""


def _without_unknown(text: str, found: Iterable[Mark], passages: int, join: _Join) -> tuple[str, list[tuple[int, ...]]]:
    """Return the text without unknown numbers, and the numbers of each mark that it should still have."""
    kept, expected = "", []
    end = 0
    for mark in found:
        known = tuple(n for n in mark.numbers if 1 <= n <= passages)
        if known == mark.numbers or (not known and _forms_mark_without(text, mark)):
            expected.append(mark.numbers)
            continue
        before = kept + text[end : mark.start]
        if known:
            whole = text[mark.start : mark.stop]
            kept, end = before + whole.replace(whole.strip("[]【】"), ", ".join(map(str, known))), mark.stop
            expected.append(known)
        else:
            kept, end = join(before, text, mark.stop)
    return kept + text[end:], expected


def _forms_mark_without(text: str, mark: Mark) -> bool:
    before = _GROWS_BEFORE.search(text[: mark.start][-2:])
    return before is not None and _GROWS_AFTER.match(text, mark.stop) is not None


def _close_gap(before: str, text: str, stop: int) -> tuple[str, int]:
    """Close the gap as a writer would: no space before a stop, one space between words."""
    following = text[stop : stop + 1]
    if not before or before[-1] in "\n\r":
        return before, stop + (following in (" ", "\t"))
    if _ENDS_A_WORD.match(text, stop):
        return before.rstrip(" \t"), stop
    return before + " " * (before[-1].isalnum() and following.isalnum()), stop


def _keep_gap(before: str, text: str, stop: int) -> tuple[str, int]:
    """Keep the texts around the gap apart, so that they form no mark.

    A mark after closing brackets is kept apart from them too, since it would read as an index of what they close.
    """
    brackets = _BRACKETS_BEFORE_A_MARK.match(text, stop)
    if brackets is None:
        return before + _GAP, stop
    return before + _GAP + brackets.group() + _GAP, brackets.end()


def _is_index(text: str, mark: re.Match[str], previous_end: int) -> bool:
    """Check whether a mark is code such as a[1], rows[i][1] or data.items[1]."""
    if text.endswith("]", 0, mark.start()):
        # [1][3] are two marks. After any other bracket this is the next index of the same expression.
        return text[max(previous_end, text.rfind("\n", 0, mark.start()) + 1) : mark.start()].strip("]") != ""
    glued = _GLUED_WORD.search(text[max(0, mark.start() - _GLUED_WORD_CHARS_MAX) : mark.start()])
    if glued is None or mark[1] is None or not re.search("[A-Za-z_]", glued.group()):
        return False
    return _IDENTIFIER.fullmatch(glued.group()) is not None or _ATTRIBUTE.match(text, mark.end()) is not None


def _expand(first: int, last: int) -> Iterator[int]:
    if 0 <= last - first < _RANGE_NUMBERS_MAX:
        yield from range(first, last + 1)
    else:
        yield from (first, last)
