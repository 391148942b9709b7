"""Prepares a passage for checking claims: its sentences, words, figures and negations.

Figures are numbers, months and days of the week in one spelling: "62,000" and "62000", "two" and "2", "Tue" and
"Tuesday" are the same figure. A passage's date and speaker count as its words. Words that point to a time
("yesterday", "last Friday", "three years ago") also count as the day, month or year that they mean on the passage's
date. This module handles texts only: it embeds nothing and judges nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property

from memory_service.namespaces.words import STOP_WORDS, stems, words
from research.grounding.sentences import Span, spans
from vector_memory.research import Passage

# Bounds on the excerpts that a claim is compared with. The last one keeps a very long passage affordable.
_SENTENCE_CHARS_MAX = 400
_EXCERPT_SENTENCES_MAX = 3
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
# "one" is left out: it is a pronoun more often than a number.
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

# Words after a negator that it negates.
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
    opposites: dict[str, set[str]] = {}
    for pair in _OPPOSITES.split():
        one, other = stems(pair.split("/"))
        opposites.setdefault(one, set()).add(other)
        opposites.setdefault(other, set()).add(one)
    return {stem: frozenset(others) for stem, others in opposites.items()}


OPPOSITES = _opposites()
"""The stems of opposite words, by stem."""


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A word and its place: characters [start, stop) of the text."""

    word: str
    start: int
    stop: int


class TextFeatures:
    """The features of a text that two texts are compared by, each computed on first use."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def all_stems(self) -> frozenset[str]:
        """The stems of all words."""
        return frozenset(stems(words(self.text)))

    @cached_property
    def telling_stems(self) -> frozenset[str]:
        """The stems of the words that are neither stop words nor negators."""
        return frozenset(stems([word for word in words(self.text) if word not in STOP_WORDS and word not in _NEGATORS]))

    @cached_property
    def figures(self) -> frozenset[str]:
        """The numbers, months and days of the week."""
        return frozenset(_figures(self.text))

    @cached_property
    def name_stems(self) -> frozenset[str]:
        """The stems of the capitalised words, except for the first word of the text."""
        return frozenset(_name_stems(_WORD.findall(self.text)[1:]))

    @cached_property
    def first_name_stem(self) -> str:
        """The stem of the first word if it is capitalised and no stop word; else an empty text."""
        return next(iter(_name_stems(_WORD.findall(self.text)[:1])), "")

    @cached_property
    def is_negated(self) -> bool:
        """Whether the text has a negator anywhere."""
        return not _NEGATORS.isdisjoint(words(self.text))

    @cached_property
    def negated_stems(self) -> frozenset[str]:
        """The stems of the words that follow a negator closely."""
        negated, words_left = [], 0
        for word in words(self.text):
            if word in _NEGATORS:
                words_left = _NEGATED_WORDS
            elif words_left:
                words_left -= 1
                if word not in STOP_WORDS:
                    negated.append(word)
        return frozenset(stems(negated))


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Neighbouring sentences of a passage: characters [start, stop) of its content."""

    start: int
    stop: int
    features: TextFeatures
    sentences: int = 1


class Evidence:
    """A passage with its features, which all claims that cite it share."""

    def __init__(self, passage: Passage) -> None:
        self.content = passage.content
        self.speaker = passage.speaker or ""
        self.features = TextFeatures(passage.content)
        self._date = passage.date
        self._spans = spans(passage.content, _SENTENCE_CHARS_MAX)

    @cached_property
    def word_spans(self) -> list[WordSpan]:
        """The words of the content, in order."""
        return word_spans(self.content)

    @cached_property
    def attribution(self) -> TextFeatures:
        """The passage's date and speaker as a text."""
        return TextFeatures(f"{self.speaker} {' '.join(_date_words(self._date))}")

    @cached_property
    def figures(self) -> frozenset[str]:
        """The figures of the content, of the date, and of the times that the content points to."""
        relative = _figures(" ".join(_relative_times(self.content, self._date)))
        return self.features.figures | frozenset(relative) | self.attribution.figures

    @cached_property
    def excerpts(self) -> list[Excerpt]:
        """Every run of up to three neighbouring sentences; of a very long passage only the first sentences."""
        sentences = self._spans[:_SENTENCES_MAX]
        return [
            replace(self._excerpt(sentences[first], sentences[last]), sentences=last - first + 1)
            for first in range(len(sentences))
            for last in range(first, min(first + _EXCERPT_SENTENCES_MAX, len(sentences)))
        ]

    def excerpt_at(self, start: int, stop: int) -> Excerpt:
        """Return the sentences that characters [start, stop) touch."""
        touched = [span for span in self._spans if span.start < stop and span.stop > start] or [Span(start, stop)]
        return self._excerpt(touched[0], touched[-1])

    def _excerpt(self, first: Span, last: Span) -> Excerpt:
        return Excerpt(first.start, last.stop, TextFeatures(self.content[first.start : last.stop]))


def word_spans(text: str) -> list[WordSpan]:
    """Return the words of a text with their places, in lower case and plain typography."""
    return [
        WordSpan(unicodedata.normalize("NFKC", match.group()).casefold().replace("\u2019", "'"), *match.span())
        for match in _WORD.finditer(text)
    ]


def _name_stems(names: Iterable[str]) -> list[str]:
    return stems([word for name in names if name[0].isupper() for word in words(name) if word not in STOP_WORDS])


def _figures(text: str) -> Iterator[str]:
    for year, month, day in _ISO_DATE.findall(text):
        yield from _day_figures(int(year), int(month), int(day))
    # Without the dates, whose parts would otherwise count as numbers once more.
    for match in _NUMBER.finditer(_ISO_DATE.sub(" ", text)):
        yield _plain_number(match.group())
    for match in _WORD.finditer(text):
        word = match.group().lower().removesuffix("'s").removesuffix("\u2019s")
        if word in _NUMBER_WORDS:
            yield _NUMBER_WORDS[word]
        elif len(word) >= len("mon") and match.group()[0].isupper():
            # A month or day in full, in the plural or cut to three letters or more. "march" in lower case is a verb.
            yield from (name for name in (*_MONTHS, *_DAYS) if name.startswith(word) or (word == name + "s"))


def _plain_number(written: str) -> str:
    bare = re.sub(r"(?:st|nd|rd|th)$", "", written.lower())
    factor = {"k": 1_000, "m": 1_000_000}.get(bare[-1:], 1)
    bare = bare.rstrip("km")
    # Groups of three digits are thousands, whichever sign separates them. Any other comma is a decimal one.
    bare = re.sub(r"[.,]", "", bare) if _GROUPED.fullmatch(bare) else bare.replace(",", ".")
    # A version or an IP address is no number, and a float would round a longer one.
    if bare.count(".") > 1 or len(bare) > len(str(2**60)):
        return bare
    return f"{float(bare) * factor:.10g}"


def _date_words(written: str) -> list[str]:
    return [written, *(word for parts in _ISO_DATE.findall(written) for word in _day_figures(*map(int, parts)))]


def _day_figures(year: int, month: int, day: int) -> list[str]:
    try:
        return _figures_of(date(year, month, day))
    except ValueError:
        return [str(year)]


def _figures_of(day: date) -> list[str]:
    return [str(day.day), _MONTHS[day.month - 1].title(), _DAYS[day.weekday()].title(), str(day.year)]


def _relative_times(text: str, written_date: str) -> Iterator[str]:
    """Yield the days, months and years that a text points to on its date."""
    iso_date = _ISO_DATE.search(written_date)
    if iso_date is None:
        return
    try:
        today = date(*(int(part) for part in iso_date.groups()))
        for match in _TIME_WORDS.finditer(text):
            yield from _relative_time(match, today)
    except (ValueError, OverflowError):
        return  # the date is not in the calendar, or the text points outside of the calendar


def _relative_time(match: re.Match[str], today: date) -> Sequence[str]:
    is_yesterday, is_today, is_tomorrow, direction, unit, count, ago_unit = match.groups()
    if is_yesterday or is_today or is_tomorrow:
        return _figures_of(today + timedelta(days=bool(is_tomorrow) - bool(is_yesterday)))
    if ago_unit:
        return _time_ago(count.lower(), ago_unit.lower(), today)
    step = {"last": -1, "next": 1}.get(direction.lower(), 0)
    match unit.lower():
        case "year":
            return [str(today.year + step)]
        case "month":
            month = today.month - 1 + step
            return [_MONTHS[month % 12].title(), str(today.year + month // 12)]
        case "week":
            return []
        case "weekend":
            return ["Saturday", "Sunday"]
        case day:
            # "last Friday" on a Friday is seven days back; "this" and "next Friday" are the one that follows.
            days_back = (today.weekday() - _DAYS.index(day)) % 7
            return _figures_of(today - timedelta(days=days_back or 7 if step < 0 else days_back - 7))


def _time_ago(count: str, unit: str, today: date) -> Sequence[str]:
    number = _NUMBER_WORDS.get(count, "1" if count in ("a", "one") else count)
    days = _UNIT_DAYS[unit] * int(number) if number.isdecimal() and len(number) <= len("999") else 0
    day = today - timedelta(days=days)
    # "three months ago" names no day.
    return _figures_of(day) if unit in ("day", "week") else [str(day.year), _MONTHS[day.month - 1].title()]
