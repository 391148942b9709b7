"""Splits texts into words and stems, as lexical search counts them.

A word is a run of Unicode letters and digits in lower case. A possessive 's and apostrophes are dropped. Stems are
English (Snowball). A date written as 2023-05-08 also counts as the words "8 may 2023", since that is how people ask.
Texts in other languages work too, but stems, months and stop words help English texts only.
"""

import re
import unicodedata
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import Stemmer

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)

_STOP_WORDS = """
    a about after again all also am an and any are as at be because been before being between both but by can
    could did do does doing down during each few for from further get got had has have having he her here him
    his how i if in into is it its just me more most my no nor not of off on once only or other our out over own
    same she should so some such than that the their them then there these they this those through to too under
    until up very was we were what when where which while who whom whose why will with would you your"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that are left out of a question, unless it has no others. Texts keep them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_stemmer = Stemmer.Stemmer("english", 0)


def words(text: str) -> list[str]:
    """Return the words of a text, in their order."""
    # NFKC maps full-width letters and ligatures to plain ones; a typographic apostrophe becomes a plain one.
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    found = _WORD.findall(plain)
    # Most texts have no apostrophe, and then no word has to be changed.
    if "'" not in plain:
        return found
    return [word[:-2] if word.endswith("'s") else word.replace("'", "") for word in found]


def stems(found: list[str]) -> list[str]:
    """Return the stem of each word, in their order."""
    return [_stem(word) for word in found]


def frequencies(text: str, event_time_ms: int | None = None, found: list[str] | None = None) -> Counter[str]:
    """Count how often each stem occurs in a text. Dates, and the day of the event, count as words.

    Args:
        text: the text to count in.
        event_time_ms: time of the event in milliseconds since 1970, in the years 1 to 9999; None when it has none.
        found: the words of the text, if the caller has split it already; None splits it here.
    """
    dates: list[str] = []
    for year, month, day in _ISO_DATE.findall(text):
        if 1 <= int(month) <= len(_MONTHS):
            dates += [str(int(day)), _MONTHS[int(month) - 1], year]
    # The day of the event in UTC counts as if the text named it.
    if event_time_ms is not None:
        day = _EPOCH + timedelta(milliseconds=event_time_ms)
        dates += [str(day.day), _MONTHS[day.month - 1], str(day.year)]
    return Counter(stems((words(text) if found is None else found) + dates))


def asked(question: str, but: frozenset[str] = frozenset()) -> list[str]:
    """Return the stems that a question asks for, each once, in their order.

    Stop words are left out, and so are the words in `but`. Either step is skipped if it would leave no word.
    """
    found = words(question)
    telling = [word for word in found if word not in STOP_WORDS] or found
    left = [word for word in telling if word not in but] or telling
    return list(dict.fromkeys(stems(left)))


@lru_cache(1 << 16)
def _stem(word: str) -> str:
    stem: str = _stemmer.stemWord(word)
    return stem
