"""Finds where sentences begin and end. Every sentence is a verbatim stretch of the text."""

import re
from dataclasses import dataclass

# A full stop ends a sentence only before white space; an ideographic one needs none; a line break always does. The
# look-behind lets a run of stops match from its first one only; without it a page of dots takes quadratic time.
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
    """Characters [start, stop) of a text."""

    start: int
    stop: int


def spans(text: str, chars_max: int) -> list[Span]:
    """Cut a text into its sentences, in order, without the white space between them.

    A sentence longer than `chars_max` is cut further, at a space if it has one.
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
    """Return where the sentences of a text end, in order. The end of the text is one only after a full stop."""
    return [mark.end() for mark in _BREAK.finditer(text) if not _goes_on(text, mark)]


def may_end(text: str, start: int) -> bool:
    """Check quickly whether a sentence can end anywhere after `start`."""
    return _STOP.search(text, start) is not None


def _goes_on(text: str, mark: re.Match[str]) -> bool:
    if mark.group() != ".":
        return False
    # The next word in lower case, or an abbreviation before the full stop, means that the sentence goes on.
    next_chars = text[mark.end() : mark.end() + 2].lstrip(" ")
    before = text[max(0, mark.end() - _ABBREVIATION_CHARS_MAX) : mark.end()]
    return next_chars[:1].islower() or _ABBREVIATION.search(before) is not None


def _append_stripped(found: list[Span], text: str, start: int, stop: int) -> None:
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    if start < stop:
        found.append(Span(start, stop))
