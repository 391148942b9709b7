"""Finds where sentences begin and end. Every sentence is a verbatim stretch of the text."""

import re
from dataclasses import dataclass

# A full stop ends a sentence before white space; an ideographic one needs none; a line break always does. A run of
# stops is looked at once, from its first, or a page of dots would take quadratic time.
_BREAK = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'\u201d\u2019»)\]]*+(?=\s)"
    r"|[。\uff01\uff1f]+[」』\u201d\uff09]*"
    r"|[\n\r\u2028\u2029]\s*"
)
_STOP = re.compile(r"[.!?…。\uff01\uff1f\n\r\u2028\u2029]")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[a-z]|[a-z]\.[a-z]|mr|mrs|ms|dr|prof|st|vs|approx|inc|ltd|jr|sr|fig|cf))\.\Z", re.IGNORECASE
)
_ABBREVIATION_CHARS_MAX = 8


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start to stop of a text."""

    start: int
    stop: int


def spans(text: str, chars_max: int) -> list[Span]:
    """Cut a text into its sentences, in order, without the white space between them.

    A sentence longer than `chars_max` is cut further, at spaces where it has any.
    """
    found: list[Span] = []
    start = 0
    for stop in [*ends(text), len(text)]:
        while stop - start > chars_max:
            cut = text.rfind(" ", start + 1, start + chars_max + 1)
            cut = cut if cut > 0 else start + chars_max
            _append_stripped(found, text, start, cut)
            start = cut
        _append_stripped(found, text, start, stop)
        start = stop
    return found


def ends(text: str) -> list[int]:
    """Where the sentences of a text end, in order; the end of the text itself counts only after a full stop."""
    return [mark.end() for mark in _BREAK.finditer(text) if not _goes_on(text, mark)]


def may_end(text: str, start: int) -> bool:
    """Whether a sentence may end anywhere behind `start`; a quick look."""
    return _STOP.search(text, start) is not None


def _goes_on(text: str, mark: re.Match[str]) -> bool:
    """Whether a full stop belongs to an abbreviation, or the next word begins in lower case."""
    if mark.group() != ".":
        return False
    following = text[mark.end() : mark.end() + 2].lstrip(" ")
    before = text[max(0, mark.end() - _ABBREVIATION_CHARS_MAX) : mark.end()]
    return following[:1].islower() or _ABBREVIATION.search(before) is not None


def _append_stripped(found: list[Span], text: str, start: int, stop: int) -> None:
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    if start < stop:
        found.append(Span(start, stop))
