"""What a passage says, prepared for checking claims: its sentences, words, figures and negations.

Figures are numbers, months and days of the week, written one way ("62,000" and "62000", "two" and "2", "Tue" and
"Tuesday"). A passage's date and speaker count as its words. Words that point to a time ("yesterday", "last Friday",
"three years ago") also count as the day, month or year that they mean, seen from the passage's date.
Texts only: no embedding, no verdict.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property

from memory_service.namespaces.words import STOP_WORDS, stems, words
from research.grounding.sentences import Span, spans
from vector_memory.research import Passage

_SENTENCE_CHARS_MAX = 400
_WINDOW_SENTENCES_MAX = 3
_SENTENCES_MAX = 200

_MONTH_WORDS = "january february march april may june july august september october november december"
_MONTHS = _MONTH_WORDS.split()
_DAY_WORDS = "monday tuesday wednesday thursday friday saturday sunday"
_DAYS = _DAY_WORDS.split()
_UNIT_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_UNITS = _UNIT_WORDS.split()
_NUMBER_WORDS = {word: str(i) for i, word in enumerate(_UNITS) if i != 1} | {
    word: str(10 * i) for i, word in enumerate(("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 3)
}
_NUMBER_WORDS |= {"twice": "2", "second": "2", "third": "3", "fourth": "4", "fifth": "5", "dozen": "12", "couple": "2"}

_NUMBER = re.compile(r"(?<![\w.])[0-9]+(?:[.,][0-9]+)*(?:st|nd|rd|th)?(k|m)?(?![0-9])", re.IGNORECASE)
_GROUPED = re.compile(r"[0-9]{1,3}(?:[.,][0-9]{3})+")
_ISO_DATE = re.compile(r"\b([0-9]{4})-([0-9]{2})-([0-9]{2})")
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_TIME_WORDS = re.compile(
    r"\b(?:(yesterday|last night)|(today|tonight|this morning)|(tomorrow)|(last|next|this) (week|month|year|weekend|"
    + "|".join(_DAYS)
    + r")|(\w+) (day|week|month|year)s? ago)\b",
    re.IGNORECASE,
)
_UNIT_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}

_NEGATOR_WORDS = (
    "not no never none nobody nothing neither nor without cannot cant dont doesnt didnt wont isnt arent wasnt werent "
    "havent hasnt hadnt shouldnt wouldnt couldnt refuse refuses refused fail fails failed unable"
)
_NEGATORS = frozenset(_NEGATOR_WORDS.split())
_NEGATED_WORDS = 4

_OPPOSITES = """
    increase/decrease more/less rise/fall raise/lower grow/shrink up/down high/low before/after early/late
    first/last accept/reject approve/reject agree/refuse allow/forbid love/hate like/dislike enjoy/hate
    always/never begin/end start/stop start/finish open/close buy/sell win/lose gain/lose arrive/leave
    come/go join/leave remember/forget hot/cold warm/cold good/bad great/terrible happy/sad big/small
    large/small long/short old/new old/young easy/hard easy/difficult strong/weak rich/poor
    cheap/expensive success/failure succeed/fail hope/despair support/oppose encourage/discourage
    together/alone inside/outside morning/evening summer/winter mother/father brother/sister son/daughter
    wife/husband indoors/outdoors improve/worsen married/single safe/dangerous public/private many/few
    positive/negative excited/bored proud/ashamed often/rarely pass/fail true/false full/empty
    import/export left/right north/south east/west inspired/discouraged relaxing/stressful
    important/unimportant helpful/useless confident/insecure"""


def _opposites() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for pair in _OPPOSITES.split():
        one, other = stems(pair.split("/"))
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return {stem: frozenset(others) for stem, others in found.items()}


OPPOSITES = _opposites()
"""Stems and those that say the contrary."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word with its place: characters start to stop of the text."""

    word: str
    start: int
    stop: int


class Said:
    """A stretch of text and what it is compared by."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def every(self) -> frozenset[str]:
        """Stems of all its words."""
        return frozenset(stems(words(self.text)))

    @cached_property
    def stems(self) -> frozenset[str]:
        """Stems of its telling words."""
        return frozenset(stems([word for word in words(self.text) if word not in STOP_WORDS and word not in _NEGATORS]))

    @cached_property
    def figures(self) -> frozenset[str]:
        """Its numbers, months and days."""
        return frozenset(_figures(self.text))

    @cached_property
    def is_negated(self) -> bool:
        """Whether it has a negator anywhere."""
        return not _NEGATORS.isdisjoint(words(self.text))

    @cached_property
    def negated(self) -> frozenset[str]:
        """Stems that stand close behind a negator."""
        found, left = [], 0
        for word in words(self.text):
            if word in _NEGATORS:
                left = _NEGATED_WORDS
            elif left:
                left -= 1
                if word not in STOP_WORDS:
                    found.append(word)
        return frozenset(stems(found))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring sentences of a passage: characters start to stop of its content."""

    start: int
    stop: int
    said: Said
    sentences: int = 1


class Evidence:
    """A passage, cut and counted once for all claims that cite it."""

    def __init__(self, passage: Passage) -> None:
        self.content = passage.content
        self.speaker = passage.speaker or ""
        self.all = Said(passage.content)
        self._date = passage.date
        self._cut = spans(passage.content, _SENTENCE_CHARS_MAX)

    @cached_property
    def tokens(self) -> list[Token]:
        """The words of the content, in order."""
        return tokens(self.content)

    @cached_property
    def around(self) -> Said:
        """Date and speaker as text."""
        return Said(f"{self.speaker} {' '.join(_date_words(self._date))}")

    @cached_property
    def figures(self) -> frozenset[str]:
        """Figures of the content, of the date, and of the times that the content points to."""
        return self.all.figures | frozenset(_figures(" ".join(_meant(self.content, self._date)))) | self.around.figures

    @cached_property
    def stretches(self) -> list[Stretch]:
        """Each sentence, and up to three neighbouring ones together; the first ones of a very long passage."""
        cut = self._cut[:_SENTENCES_MAX]
        return [
            replace(self._stretch(cut[first], cut[last]), sentences=last - first + 1)
            for first in range(len(cut))
            for last in range(first, min(first + _WINDOW_SENTENCES_MAX, len(cut)))
        ]

    def around_place(self, start: int, stop: int) -> Stretch:
        """The sentences that characters start to stop are in."""
        touched = [span for span in self._cut if span.start < stop and span.stop > start]
        return (
            self._stretch(touched[0], touched[-1]) if touched else Stretch(start, stop, Said(self.content[start:stop]))
        )

    def _stretch(self, first: Span, last: Span) -> Stretch:
        return Stretch(first.start, last.stop, Said(self.content[first.start : last.stop]))


def tokens(text: str) -> list[Token]:
    """The words of a text with their places, without case and typography."""
    return [
        Token(unicodedata.normalize("NFKC", found.group()).casefold().replace("\u2019", "'"), *found.span())
        for found in _WORD.finditer(text)
    ]


def names(text: str) -> frozenset[str]:
    """Stems of words that are capitalised, save the first one."""
    found = [match.group() for match in _WORD.finditer(text)][1:]
    return frozenset(
        stems([word for name in found if name[0].isupper() for word in words(name) if word not in STOP_WORDS])
    )


def first_name(text: str) -> str:
    """The stem of a text's first word, if it is capitalised and telling; else nothing."""
    first = _WORD.search(text)
    if first is None or not first.group()[0].isupper():
        return ""
    (word, *_) = words(first.group()) or [""]
    return "" if word in STOP_WORDS or not word else stems([word])[0]


def _figures(text: str) -> Iterator[str]:
    for year, month, day in _ISO_DATE.findall(text):
        yield from _day_figures(int(year), int(month), int(day))
    for found in _NUMBER.finditer(_ISO_DATE.sub(" ", text)):
        yield _plain_number(found.group())
    for found in _WORD.finditer(text):
        word = found.group().lower().removesuffix("'s").removesuffix("\u2019s")
        if word in _NUMBER_WORDS:
            yield _NUMBER_WORDS[word]
        elif len(word) >= len("mon") and found.group()[0].isupper():
            yield from (name for name in (*_MONTHS, *_DAYS) if name.startswith(word) or (word == name + "s"))


def _plain_number(written: str) -> str:
    bare = re.sub(r"(?:st|nd|rd|th)$", "", written.lower())
    factor = {"k": 1_000, "m": 1_000_000}.get(bare[-1:], 1)
    bare = bare.rstrip("km")
    bare = re.sub(r"[.,]", "", bare) if _GROUPED.fullmatch(bare) else bare.replace(",", ".")
    if bare.count(".") > 1 or len(bare) > len(str(2**60)):
        return bare
    return f"{float(bare) * factor:.10g}"


def _date_words(written: str) -> list[str]:
    found = [written]
    for year, month, day in _ISO_DATE.findall(written):
        found += _day_figures(int(year), int(month), int(day))
    return found


def _day_figures(year: int, month: int, day: int) -> list[str]:
    try:
        on = date(year, month, day)
    except ValueError:
        return [str(year)]
    return [str(on.day), _MONTHS[on.month - 1].title(), _DAYS[on.weekday()].title(), str(on.year)]


def _meant(text: str, written: str) -> Iterator[str]:
    """The days, months and years that a text points to from its date."""
    found = _ISO_DATE.search(written)
    if found is None:
        return
    try:
        on = date(*(int(part) for part in found.groups()))
        for match in _TIME_WORDS.finditer(text):
            yield from _pointed_to(match, on)
    except (ValueError, OverflowError):
        return


def _pointed_to(match: re.Match[str], on: date) -> Sequence[str]:
    yesterday, today, tomorrow, which, unit, count, ago = match.groups()
    if yesterday or today or tomorrow:
        return _of(on + timedelta(days=bool(tomorrow) - bool(yesterday)))
    if ago:
        written = _NUMBER_WORDS.get(count.lower(), "1" if count.lower() in ("a", "one") else count)
        days = _UNIT_DAYS[ago.lower()] * int(written) if written.isdecimal() and len(written) <= len("999") else 0
        then = on - timedelta(days=days)
        return _of(then) if ago.lower() in ("day", "week") else [str(then.year), _MONTHS[then.month - 1].title()]
    step = {"last": -1, "next": 1}.get(which.lower(), 0)
    match unit.lower():
        case "year":
            return [str(on.year + step)]
        case "month":
            return [_MONTHS[(on.month - 1 + step) % 12].title(), str(on.year + (on.month - 1 + step) // 12)]
        case "week" | "weekend":
            return ["Saturday", "Sunday"] if unit.lower() == "weekend" else []
        case day:
            back = (on.weekday() - _DAYS.index(day)) % 7
            return _of(on - timedelta(days=back or 7) if step < 0 else on + timedelta(days=7 - back))


def _of(day: date) -> list[str]:
    return _day_figures(day.year, day.month, day.day)
