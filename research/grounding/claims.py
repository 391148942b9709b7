"""Cuts an answer into sentences, and says what each citation mark is for.

A mark belongs to the sentence that it stands in or directly behind, also behind its full stop ("... Tuesday. [1]"); to
that sentence alone, as in the evaluation of citations by Gao et al. 2023 (arXiv:2305.14627), not to a whole paragraph.
Where a line begins with a mark, marks between its sentences belong to the one after them. Marks alone on a line belong
to the line before. Several marks in one sentence each vouch for what stands between the mark before and their own, the
last one for the rest; marks with no telling word between them vouch for the same together.

Sentences end as `sentences.py` has it, a line break always ends one; neither bold text, quotations, inline code nor
rows of a table are cut. Knows no passages.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate

from memory_service.namespaces.words import STOP_WORDS, words
from research.grounding.citations import CODE, Mark, marks
from research.grounding.sentences import ends, may_end

_PREFIX = re.compile(r"[^\S\n]*(?:>[^\S\n]?)*(?:(?:[-*+•]|[0-9]{1,3}[.)])[^\S\n]+)?(?:\[[ xX]\][^\S\n]+)?")
_HEADING = re.compile(r"[^\S\n]{0,3}#{1,6}[^\S\n]+")
_ROW = re.compile(r"[^\S\n]*\|")
_PUNCTUATION = re.compile(r"[\W_]*")
_BOLD_LINE = re.compile(r"\*\*[^*]+\*\*:?")
_EMPHASIS = re.compile(r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")
_BEFORE_STOP = re.compile(r"\s+(?=[.,;:!?…])")

# A line of marks alone, or the beginning of one that may yet become such a line. Nothing is given back, or the
# spaces of "[ [ [ [" could be shared out in ways beyond number.
_MARKS_ALONE = re.compile(r"\s*+(?:[\[【][^\]】\[【\n]{0,40}+[\]】][^\S\n]*+)++[.]?[^\S\n]*+(?=\n|\Z)")
_MAY_BE_MARKS = re.compile(r"\s*+(?:[\[【][^\]】\[【\n]{0,40}+[\]】]?+[^\S\n]*+)*+[.]?[^\S\n]*+\Z")

# What a delta may still change: the end of a word, a stop, a bracket that may become a mark.
_OPEN_BRACKET = re.compile(r"(?<![\[【])[\[【]++[0-9\s,;\-\u2013\u2014]*+[\]】]*+\Z")
_UNSETTLED_CHARS = 4

_SILENT = re.compile(
    r"\b(?:memor(?:y|ies)|passages?|records?|context|information)\b.{0,40}"
    r"\b(?:do(?:es)?n[o']?t|do(?:es)? not|cannot|can't|no(?:thing)?|never)\b.{0,20}"
    r"\b(?:tell|say|mention|answer|contain|provide|state|include|specify|indicate|show|reveal|"
    r"know)|\bno (?:memor(?:y|ies)|information|mention|record)\b"
    r"|\b(?:not|n't) (?:mentioned|stated|specified|known|found)\b"
    r"|\bi (?:do not|don't|cannot|can't) (?:know|tell|say|answer|find)\b",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """What a sentence is to the answer."""

    STATEMENT = "statement"
    LEAD = "lead"
    """A heading, a line that ends in a colon, the first row of a table: it states nothing without what follows."""
    SILENT = "silent"
    """Says that the memories do not tell, and rests on none of them."""
    ASIDE = "aside"
    """A question, or no telling word at all."""
    CODE = "code"
    """A fenced block."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the marks of one group vouch for.

    Attributes:
        text: without marks and emphasis.
        numbers: each once, in order.
    """

    text: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters start to stop of an answer, with the marks that belong to them.

    Attributes:
        line: where its line starts; a fenced block is one line, and marks alone on a line belong to the line before.
        text: without marks and emphasis.
        claims: empty without marks.
    """

    start: int
    stop: int
    line: int
    kind: Kind
    text: str
    claims: tuple[Claim, ...]


def read(text: str) -> list[Sentence]:
    """The sentences of a whole answer, in order."""
    reader = SentenceReader()
    return [*reader.feed(text), *reader.finish()]


def uncited(sentences: Iterable[Sentence]) -> tuple[tuple[int, int], ...]:
    """Where sentences state something and cite nothing."""
    return tuple((one.start, one.stop) for one in sentences if one.kind is Kind.STATEMENT and not one.claims)


def is_telling(text: str) -> bool:
    """Whether a text has a word that is not a stop word."""
    return any(word not in STOP_WORDS for word in words(text))


class SentenceReader:
    """Gives the sentences of an answer as soon as no further text can change them.

    However a text is cut into pieces, its sentences are the same.
    """

    def __init__(self) -> None:
        self._text = ""
        self._offset = 0
        self._given = self._given_chars = 0
        self._is_after_row = False

    def feed(self, delta: str) -> list[Sentence]:
        """Read on, and get the sentences that this completed."""
        self._text += delta
        found = self._lines(is_end=False)
        if not may_end(self._text, self._given_chars):
            return found  # or every piece of a long line would have all of it read again
        settled = self._sentences(_settled(self._text))[:-1]
        if len(settled) > self._given:
            found += settled[self._given :]
            self._given, self._given_chars = len(settled), settled[-1].stop - self._offset
        return found

    def finish(self) -> list[Sentence]:
        """The sentences that are left when the answer has ended."""
        return self._lines(is_end=True)

    def _lines(self, *, is_end: bool) -> list[Sentence]:
        """Take whole lines off the text."""
        found: list[Sentence] = []
        text, plain, start = self._text, _masked(self._text), 0
        while (stop := _line_end(plain, start, is_end=is_end)) is not None:
            found += self._sentences(text[start:stop])[self._given :]
            self._is_after_row = _ROW.match(text, start, stop) is not None
            self._offset += stop - start
            self._given = self._given_chars = 0
            start = stop
        self._text = text[start:]
        return found

    def _sentences(self, line: str) -> list[Sentence]:
        found = _line_sentences(line, is_after_row=self._is_after_row)
        at = self._offset
        return [replace(one, start=one.start + at, stop=one.stop + at, line=at) for one in found]


def _masked(text: str) -> str:
    return CODE.sub(lambda code: "x" * len(code.group()), text) if "`" in text else text


def _line_end(plain: str, start: int, *, is_end: bool) -> int | None:
    """Where the line ends that begins at `start`, behind its break and behind marks alone on the lines after it.

    None where there is none, or where that is not known before there is more text.
    """
    stop = plain.find("\n", start) + 1
    if not stop:
        return len(plain) if is_end and start < len(plain) else None
    if not plain[start:stop].strip():
        return stop
    while (alone := _MARKS_ALONE.match(plain, stop)) and marks(alone.group()):
        if alone.end() == len(plain) and not is_end:
            return None
        stop = min(alone.end() + 1, len(plain))
    return None if not is_end and _MAY_BE_MARKS.match(plain, stop) else stop


def _settled(text: str) -> str:
    """The beginning of a line that further text does not change, but for marks behind its last sentence."""
    stop = _masked(text).find("\n")
    if stop >= 0:
        return text[:stop]
    settled = text[:-_UNSETTLED_CHARS].rstrip("`")
    open_code = _masked(settled).find("`")
    settled = settled if open_code < 0 else settled[:open_code]
    return _OPEN_BRACKET.sub("", settled)


def _line_sentences(line: str, *, is_after_row: bool) -> list[Sentence]:
    found = marks(line)
    if line.lstrip().startswith("```") and not found:
        return [Sentence(len(line) - len(line.lstrip()), len(line.rstrip()), 0, Kind.CODE, line.strip(), ())]
    heading, prefix = _HEADING.match(line), _PREFIX.match(line)
    is_row = _ROW.match(line) is not None
    body = _Body(line, (heading or prefix or _PREFIX.match("")).end(), found)  # type: ignore[union-attr]
    cuts = _cuts(body.plain, () if is_row else ends(body.plain))
    if not cuts:
        return [_sentence(line, body, (0, 0), found, Kind.ASIDE)] if found else []
    own: list[list[Mark]] = [[] for _ in cuts]
    for mark, owner in zip(found, _owners(cuts, [body.inside(mark) for mark in found]), strict=True):
        own[owner].append(mark)
    kind = Kind.LEAD if heading or (is_row and not is_after_row) else None
    return [_sentence(line, body, cut, marks_of, kind) for cut, marks_of in zip(cuts, own, strict=True)]


class _Body:
    """A line behind its bullet or number, without its marks; `plain` also without what code in it says."""

    def __init__(self, line: str, first: int, found: Sequence[Mark]) -> None:
        plain = _masked(line)
        bounds = [
            first,
            *(place for mark in found for place in (max(mark.start, first), max(mark.stop, first))),
            len(line),
        ]
        self._stretches = list(zip(bounds[::2], bounds[1::2], strict=True))
        self._begins = list(accumulate((stop - start for start, stop in self._stretches), initial=0))
        self._marks = {mark: i for i, mark in enumerate(found)}
        self.text = "".join(line[start:stop] for start, stop in self._stretches)
        self.plain = "".join(plain[start:stop] for start, stop in self._stretches)

    def inside(self, mark: Mark) -> int:
        """Where a mark stood in the body."""
        return self._begins[self._marks[mark] + 1]

    def outside(self, place: int) -> int:
        """Where a character of the body stands in the line."""
        at = bisect_right(self._begins, place) - 1
        return self._stretches[at][0] + place - self._begins[at]


def _cuts(plain: str, stops: Iterable[int]) -> list[tuple[int, int]]:
    """The sentences of a body: stretches with a word, none within quotation marks or bold text."""
    found: list[tuple[int, int]] = []
    start = done = open_quotes = straight = bold = 0
    for stop in [*stops, len(plain)]:
        piece = plain[done:stop]
        done = stop
        open_quotes = max(0, open_quotes + piece.count("\u201c") - piece.count("\u201d"))
        straight += piece.count('"')
        bold += piece.count("**")
        if stop < len(plain) and (open_quotes or straight % 2 or bold % 2):
            continue
        said = plain[start:stop]
        if _PUNCTUATION.sub("", said):
            found.append((start + len(said) - len(said.lstrip()), start + len(said.rstrip())))
        start, open_quotes, straight, bold = stop, 0, 0, 0
    return found


def _owners(cuts: Sequence[tuple[int, int]], places: Sequence[int]) -> list[int]:
    """The sentence of each mark."""
    starts = [start for start, _ in cuts]
    leads = bool(places) and places[0] <= starts[0]
    owners = []
    for place in places:
        at = max(0, bisect_left(starts, place) - 1)
        is_between = place >= cuts[at][1] and at + 1 < len(cuts)
        owners.append(at + 1 if leads and is_between else at)
    return owners


def _sentence(line: str, body: _Body, cut: tuple[int, int], own: Sequence[Mark], kind: Kind | None) -> Sentence:
    start, stop = cut
    bounds = [body.outside(start), body.outside(stop - 1) + 1] if start < stop else [own[0].start, own[0].stop]
    bounds += [place for mark in own for place in (mark.start, mark.stop)]
    text = _plain_text(body.text[start:stop])
    claims = tuple(_claims(body, cut, own))
    if kind is None or claims:
        kind = Kind.STATEMENT if claims else _kind(text, body.text.strip())
    return Sentence(min(bounds), max(bounds), 0, kind, text, claims)


def _kind(text: str, line: str) -> Kind:
    if text.endswith((":", "\uff1a")) or _BOLD_LINE.fullmatch(line):
        return Kind.LEAD
    if _SILENT.search(text):
        return Kind.SILENT
    if text.endswith(("?", "\uff1f")) or not is_telling(text):
        return Kind.ASIDE
    return Kind.STATEMENT


def _claims(body: _Body, cut: tuple[int, int], own: Sequence[Mark]) -> Iterator[Claim]:
    begin, stop = cut
    done = begin
    numbers: list[int] = []
    is_open = False
    for i, mark in enumerate(own):
        place = min(max(body.inside(mark), begin), stop)
        after = min(max(body.inside(own[i + 1]), place), stop) if i + 1 < len(own) else stop
        is_open = is_open or is_telling(body.text[done:place])
        numbers += mark.numbers
        done = place
        if i + 1 == len(own) or (is_open and is_telling(body.text[place:after])):
            yield Claim(
                _plain_text(body.text[begin : stop if i + 1 == len(own) else place]), tuple(dict.fromkeys(numbers))
            )
            begin, numbers, is_open = place, [], False


def _plain_text(text: str) -> str:
    return _BEFORE_STOP.sub("", " ".join(_EMPHASIS.sub("", text).split())).strip("| ")
