"""Cuts an answer into sentences, and says what each citation mark is for.

A mark belongs to the sentence that it stands in or directly after, also after its full stop ("... Tuesday. [1]"). It
belongs to that sentence alone, not to a whole paragraph, as in the evaluation of citations by Gao et al. 2023
(arXiv:2305.14627). If a line begins with a mark, marks between its sentences belong to the sentence after them. Marks
alone on a line belong to the line before.

Each of several marks in one sentence cites the words between the mark before and itself. The last one also cites the
rest. Marks without a telling word between them cite the same words together.

`sentences.py` says where sentences end, and a line break always ends one. Bold text, quotations, inline code and rows
of a table are never cut. This module does not know the passages.
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

# A line of marks alone, and the beginning of one that may still become such a line. The quantifiers are possessive:
# with backtracking, the spaces of "[ [ [ [" could be divided in exponentially many ways.
_MARKS_ALONE = re.compile(r"\s*+(?:[\[【][^\]】\[【\n]{0,40}+[\]】][^\S\n]*+)++[.]?[^\S\n]*+(?=\n|\Z)")
_MAY_BE_MARKS = re.compile(r"\s*+(?:[\[【][^\]】\[【\n]{0,40}+[\]】]?+[^\S\n]*+)*+[.]?[^\S\n]*+\Z")

# The end of a text that its next piece may still change: a word, a stop, a bracket that may become a mark.
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
    """The role of a sentence in its answer."""

    STATEMENT = "statement"
    LEAD = "lead"
    """A heading, a line that ends in a colon, or the first row of a table. It states nothing by itself."""
    SILENT = "silent"
    """A sentence that says that the memories do not tell."""
    ASIDE = "aside"
    """A question, or a sentence without a telling word."""
    CODE = "code"
    """A fenced block of code."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The words that a group of marks cites passages for.

    Attributes:
        text: the words without marks and emphasis.
        numbers: the numbers of the passages, each once, in order.
    """

    text: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """Characters [start, stop) of an answer, with the marks that belong to them.

    Attributes:
        line: the start of its line. A fenced block is one line, and marks alone on a line belong to the line before.
        text: the sentence without marks and emphasis.
        claims: what it cites passages for; empty without marks.
    """

    start: int
    stop: int
    line: int
    kind: Kind
    text: str
    claims: tuple[Claim, ...]


def read(text: str) -> list[Sentence]:
    """Return the sentences of a whole answer, in order."""
    reader = SentenceReader()
    return [*reader.feed(text), *reader.finish()]


def uncited(sentences: Iterable[Sentence]) -> tuple[tuple[int, int], ...]:
    """Return characters [start, stop) of the sentences that state something and cite nothing."""
    return tuple((one.start, one.stop) for one in sentences if one.kind is Kind.STATEMENT and not one.claims)


def is_telling(text: str) -> bool:
    """Check whether a text has a word that is not a stop word."""
    return any(word not in STOP_WORDS for word in words(text))


class SentenceReader:
    """Reads an answer piece by piece, and returns each sentence once no further text can change it.

    The sentences do not depend on how the text is cut into pieces.
    """

    def __init__(self) -> None:
        # The text of the last line, and where it starts in the answer.
        self._text = ""
        self._offset = 0
        # The number of sentences of that line that were returned, and where the last of them ends in it.
        self._returned = self._returned_chars = 0
        self._is_after_row = False

    def feed(self, delta: str) -> list[Sentence]:
        """Read the next piece, and return the sentences that it completes."""
        self._text += delta
        completed = self._lines(is_end=False)
        if not may_end(self._text, self._returned_chars):
            return completed  # without this check, every piece of a long line would read the whole line again
        settled = self._sentences(_settled(self._text))[:-1]
        if len(settled) > self._returned:
            completed += settled[self._returned :]
            self._returned, self._returned_chars = len(settled), settled[-1].stop - self._offset
        return completed

    def finish(self) -> list[Sentence]:
        """Return the remaining sentences at the end of the answer."""
        return self._lines(is_end=True)

    def _lines(self, *, is_end: bool) -> list[Sentence]:
        """Take whole lines off the text, and return their new sentences."""
        sentences: list[Sentence] = []
        text, plain, start = self._text, _masked(self._text), 0
        while (stop := _line_end(plain, start, is_end=is_end)) is not None:
            sentences += self._sentences(text[start:stop])[self._returned :]
            self._is_after_row = _ROW.match(text, start, stop) is not None
            self._offset += stop - start
            self._returned = self._returned_chars = 0
            start = stop
        self._text = text[start:]
        return sentences

    def _sentences(self, line: str) -> list[Sentence]:
        sentences = _line_sentences(line, is_after_row=self._is_after_row)
        offset = self._offset
        return [replace(one, start=one.start + offset, stop=one.stop + offset, line=offset) for one in sentences]


def _masked(text: str) -> str:
    return CODE.sub(lambda code: "x" * len(code.group()), text) if "`" in text else text


def _line_end(plain: str, start: int, *, is_end: bool) -> int | None:
    """Return the end of the line that begins at `start`, including marks alone on the lines after it.

    None means that there is no further line, or that more text has to come first.
    """
    stop = plain.find("\n", start) + 1
    if not stop:
        return len(plain) if is_end and start < len(plain) else None
    if not plain[start:stop].strip():
        return stop
    # Marks alone on the following lines belong to this line.
    while (alone := _MARKS_ALONE.match(plain, stop)) and marks(alone.group()):
        if alone.end() == len(plain) and not is_end:
            return None
        stop = min(alone.end() + 1, len(plain))
    return None if not is_end and _MAY_BE_MARKS.match(plain, stop) else stop


def _settled(text: str) -> str:
    """Return the beginning of a line that further text does not change, except for marks after its last sentence."""
    stop = _masked(text).find("\n")
    if stop >= 0:
        return text[:stop]
    # Leave out the last characters, inline code that is still open, and a bracket that may become a mark.
    settled = text[:-_UNSETTLED_CHARS].rstrip("`")
    open_code = _masked(settled).find("`")
    settled = settled if open_code < 0 else settled[:open_code]
    return _OPEN_BRACKET.sub("", settled)


def _line_sentences(line: str, *, is_after_row: bool) -> list[Sentence]:
    line_marks = marks(line)
    if line.lstrip().startswith("```") and not line_marks:
        start, stop = len(line) - len(line.lstrip()), len(line.rstrip())
        return [Sentence(start=start, stop=stop, line=0, kind=Kind.CODE, text=line.strip(), claims=())]
    heading, prefix = _HEADING.match(line), _PREFIX.match(line)
    is_row = _ROW.match(line) is not None
    body = _LineBody(line, (heading or prefix or _PREFIX.match("")).end(), line_marks)  # type: ignore[union-attr]
    cuts = _cuts(body.plain, () if is_row else ends(body.plain))
    if not cuts:
        return [_sentence(line, body, (0, 0), line_marks, Kind.ASIDE)] if line_marks else []
    own: list[list[Mark]] = [[] for _ in cuts]
    for mark, owner in zip(line_marks, _owners(cuts, [body.inside(mark) for mark in line_marks]), strict=True):
        own[owner].append(mark)
    kind = Kind.LEAD if heading or (is_row and not is_after_row) else None
    return [_sentence(line, body, cut, marks_of, kind) for cut, marks_of in zip(cuts, own, strict=True)]


class _LineBody:
    """A line without its bullet or number, and without its marks.

    Attributes:
        text: the stretches between the marks, joined.
        plain: the same with inline code masked.
    """

    def __init__(self, line: str, first: int, line_marks: Sequence[Mark]) -> None:
        plain = _masked(line)
        places = (place for mark in line_marks for place in (mark.start, mark.stop))
        bounds = [first, *(max(place, first) for place in places), len(line)]
        self._stretches = list(zip(bounds[::2], bounds[1::2], strict=True))
        self._begins = list(accumulate((stop - start for start, stop in self._stretches), initial=0))
        self._marks = {mark: i for i, mark in enumerate(line_marks)}
        self.text = "".join(line[start:stop] for start, stop in self._stretches)
        self.plain = "".join(plain[start:stop] for start, stop in self._stretches)

    def inside(self, mark: Mark) -> int:
        """Return the place in the body where a mark stood."""
        return self._begins[self._marks[mark] + 1]

    def outside(self, place: int) -> int:
        """Return the place in the line of a character of the body."""
        at = bisect_right(self._begins, place) - 1
        return self._stretches[at][0] + place - self._begins[at]


def _cuts(plain: str, stops: Iterable[int]) -> list[tuple[int, int]]:
    """Return the sentences of a body: stretches with a word. Quotations and bold text are not cut."""
    cuts: list[tuple[int, int]] = []
    start = done = open_quotes = straight = bold = 0
    for stop in [*stops, len(plain)]:
        piece = plain[done:stop]
        done = stop
        open_quotes = max(0, open_quotes + piece.count("\u201c") - piece.count("\u201d"))
        straight += piece.count('"')
        bold += piece.count("**")
        if stop < len(plain) and (open_quotes or straight % 2 or bold % 2):
            continue  # inside of a quotation or bold text
        cut = plain[start:stop]
        if _PUNCTUATION.sub("", cut):
            cuts.append((start + len(cut) - len(cut.lstrip()), start + len(cut.rstrip())))
        # A quotation that never closes must not join all sentences after it: every cut starts counting from zero.
        start, open_quotes, straight, bold = stop, 0, 0, 0
    return cuts


def _owners(cuts: Sequence[tuple[int, int]], places: Sequence[int]) -> list[int]:
    """Return the position of the sentence that each mark belongs to."""
    starts = [start for start, _ in cuts]
    are_marks_first = bool(places) and places[0] <= starts[0]
    owners = []
    for place in places:
        owner = max(0, bisect_left(starts, place) - 1)
        is_between = place >= cuts[owner][1] and owner + 1 < len(cuts)
        owners.append(owner + 1 if are_marks_first and is_between else owner)
    return owners


def _sentence(line: str, body: _LineBody, cut: tuple[int, int], own: Sequence[Mark], kind: Kind | None) -> Sentence:
    start, stop = cut
    bounds = [body.outside(start), body.outside(stop - 1) + 1] if start < stop else [own[0].start, own[0].stop]
    bounds += [place for mark in own for place in (mark.start, mark.stop)]
    text = _plain_text(body.text[start:stop])
    claims = tuple(_claims(body, cut, own))
    if kind is None or claims:
        kind = Kind.STATEMENT if claims else _kind(text, body.text.strip())
    return Sentence(start=min(bounds), stop=max(bounds), line=0, kind=kind, text=text, claims=claims)


def _kind(text: str, line: str) -> Kind:
    if text.endswith((":", "\uff1a")) or _BOLD_LINE.fullmatch(line):
        return Kind.LEAD
    if _SILENT.search(text):
        return Kind.SILENT
    if text.endswith(("?", "\uff1f")) or not is_telling(text):
        return Kind.ASIDE
    return Kind.STATEMENT


def _claims(body: _LineBody, cut: tuple[int, int], own: Sequence[Mark]) -> Iterator[Claim]:
    begin, stop = cut
    done = begin
    numbers: list[int] = []
    is_open = False  # whether a telling word stands between `begin` and the present mark
    for i, mark in enumerate(own):
        place = min(max(body.inside(mark), begin), stop)
        after = min(max(body.inside(own[i + 1]), place), stop) if i + 1 < len(own) else stop
        is_last = i + 1 == len(own)
        is_open = is_open or is_telling(body.text[done:place])
        numbers += mark.numbers
        done = place
        # A claim ends at a mark with telling words on both sides. The last claim takes the rest.
        if is_last or (is_open and is_telling(body.text[place:after])):
            text = _plain_text(body.text[begin : stop if is_last else place])
            yield Claim(text, tuple(dict.fromkeys(numbers)))
            begin, numbers, is_open = place, [], False


def _plain_text(text: str) -> str:
    return _BEFORE_STOP.sub("", " ".join(_EMPHASIS.sub("", text).split())).strip("| ")
