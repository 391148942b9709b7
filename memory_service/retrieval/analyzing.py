"""Analyzes a query: what to embed, which words to look for, and which speakers the query names.

The result depends on the namespace, because a name is known as a speaker's only if memories say who spoke.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from memory_service.namespaces.conversation import name_words
from memory_service.namespaces.index import NamespaceIndex
from memory_service.namespaces.words import asked, stems, words

_WHEN = re.compile(r"\W*(when|how long ago|what (date|day|month|year|time))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedQuery:
    """A query, analyzed for one namespace.

    Attributes:
        meaning: the text to embed.
        terms: stems to look for.
        speakers: speakers whom the query names; empty if it names all of them.
        is_about_when: whether the query asks for a time.
        called: names by which texts address somebody, used where no speaker is known.
    """

    meaning: str
    terms: tuple[str, ...]
    speakers: frozenset[str] = frozenset()
    is_about_when: bool = False
    called: frozenset[str] = frozenset()


def analyze_query(query: str, index: NamespaceIndex | None) -> AnalyzedQuery:
    """Analyze a query for the namespace of this index; None stands for a namespace without memories."""
    is_about_when = _WHEN.match(query) is not None
    if index is None:
        return AnalyzedQuery(meaning=query, terms=tuple(asked(query)), is_about_when=is_about_when)
    # The names in the query are left out of its meaning and its terms: they say who spoke, not what about.
    query_words = set(words(query))
    texts = index.texts
    speakers, _, turns_min = texts.talk.known()
    speaker_count = speakers.count(turns_min)
    named = speakers.of(query_words, turns_min)
    names = {word for name in named for word in name_words(name)}
    called = frozenset[str]()
    if not speaker_count:
        # No memory says who spoke. The next best evidence is whom the texts address ("Thanks, Ann!").
        called = frozenset(texts.talk.addressed(query, texts.lexical.frequency, lambda word: stems([word])[0]))
        names = set(called)
    # A query that names every speaker prefers none of them, unless there is only one.
    prefers = len(named) < speaker_count or speaker_count == 1
    return AnalyzedQuery(
        meaning=_without(query, names & query_words),
        terms=tuple(asked(query, frozenset(names))),
        speakers=frozenset(named) if prefers else frozenset(),
        is_about_when=is_about_when,
        called=called,
    )


def _without(query: str, names: Collection[str]) -> str:
    """Return the query without names and their possessive endings, or the whole query if no word would be left."""
    if not names:
        return query
    # Longer names come first, because an alternation takes the first branch that matches.
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    rest = " ".join(re.sub(rf"(?i)\b(?:{pattern})\b(?:['\u2019]s)?", " ", query).split())
    return rest if words(rest) else query
