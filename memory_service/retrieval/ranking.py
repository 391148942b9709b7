"""Ranking: which memories answer a question best, by meaning, by words, and by what stands around them.

Two signals, both absolute, so that neither depends on the other candidates: the cosine of the best window, and the
share of the question's words that a memory has, weighted by their rarity (BM25's saturation and inverse document
frequency). Their mean is the score. Around it, as far as memories say who spoke, when, and in which session:

- a memory has some of its neighbours' words and meaning;
- names of speakers are taken out of the question, where they would drown the rest, and lift what these speakers said;
- an answer stands behind a question; very short texts answer little; "when" is answered by texts that name a time;
- the best memory of a session lifts the others.

What a caller wants to count besides, age and importance, comes on top (`Boosts`).

How much neighbours count is certain where a session was given; elsewhere it is measured, by how much more alike
neighbouring memories are than any two (`NamespaceIndex.coherence`): documents in no order are left alone.
The weights were chosen on dialogues and documents that docs/retrieval.md names; it also tells what each is worth.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.group_index import Groups, Vectors
from indexes.sketches import DEVIATIONS
from memory_service.namespaces.conversation import ASKS, CALLED, NONE, TIMELY, name_words
from memory_service.namespaces.index import NamespaceIndex
from memory_service.namespaces.words import asked, stems, words

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

CANDIDATES = 200
"""Of each signal; more change no result on the data of docs/retrieval.md."""

CANDIDATES_DEVIATIONS = 1.5
"""How far an index that does not compare all looks for the last of them: 99.2 % of the 200 nearest of 100,000 memories
are found, and in 300 queries all of the first ten, in 60 % of the time that it takes to miss none."""

FEW = 20
"""Where a smaller share of the memories than one in so many are candidates, comparing these alone is quicker."""

EQUALS_GROWTH = 4
"""Where the last of the nearest has equals beyond, so many times more are asked for."""

K1 = 0.6
LONG_TEXT_WORDS = 100
"""Saturation of a word's frequency; above this length it is stretched with the root of the length."""

NEAR_WORDS = (0.5, 0.3)
NEAR_MEANING = 0.2
ANSWER = 0.2
"""What neighbours at distance 1 and 2 lend of their words, at distance 1 of their cosine, and a question before."""

SPEAKER = 0.25
SESSION = 0.3
LENGTH, LENGTH_WORDS = 0.1, 40
WHEN = 0.06
CALLED_SPEAKS, CALLED_AROUND = 0.06, (1.0, -0.5, 0.25)
"""Where no speaker is known: next to a text that addresses somebody they speak, and people take turns."""

RELEVANCE_DENSE, RELEVANCE_LEXICAL, RELEVANCE_BEHIND, RELEVANCE_CONSTANT = 3.114, 3.772, -4.349, -4.595
"""Of a hit's cosine, its share of the words, how far its score is behind the first one's; fitted on the development
half of the data of docs/retrieval.md, where half of the questions had no answer."""

SPREAD_ROWS_MAX = 20_000
"""A word that more memories have tells little, and its neighbours' share of it less."""

_HALF = np.float32(0.5)

_WHEN = re.compile(r"\W*(when|how long ago|what (date|day|month|year|time))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedQuery:
    """A query, prepared for a namespace.

    Attributes:
        meaning: the text to embed.
        terms: stems to look for.
        speakers: those whom it names, unless it names all.
        is_about_when: it asks for a time.
        called: names in it by which texts address somebody, where no speaker is known.
    """

    meaning: str
    terms: tuple[str, ...]
    speakers: frozenset[str]
    is_about_when: bool
    called: frozenset[str] = frozenset()


class HitSignals(NamedTuple):
    """What speaks for a memory: as the attributes of `Ranking`."""

    score: float
    dense: float | None = None
    lexical: float | None = None
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Boosts:
    """What a caller wants to count besides.

    Attributes:
        now_ms: from when age is counted, milliseconds since the Unix epoch.
        half_life_ms: in which a score falls by half; None leaves age out.
        importance_weight: so much of the importance is added.
    """

    now_ms: int = 0
    half_life_ms: float | None = None
    importance_weight: float = 0.0

    def __bool__(self) -> bool:
        return self.half_life_ms is not None or self.importance_weight > 0


NO_BOOSTS = Boosts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Memories, best first.

    Attributes:
        ids: (n,) int64.
        scores: (n,) what they are ranked by.
        dense: (n,) cosines, if they were asked for.
        lexical: (n,) shares of the question's words, 0 to about 1, if they were asked for.
        relevance: (n,) 0 to 1, how likely each answers the question, if both were asked for.
        parts: by name what each score is the sum of, (n,) each.
    """

    ids: Groups
    scores: Scores
    dense: Scores | None = None
    lexical: Scores | None = None
    relevance: Scores | None = None
    parts: Mapping[str, Scores] = field(default_factory=dict)

    def signals(self) -> list[HitSignals]:
        """What speaks for each."""
        absent = [None] * len(self.ids)
        known = (absent if found is None else found.tolist() for found in (self.dense, self.lexical, self.relevance))
        return [HitSignals(*each) for each in zip(self.scores.tolist(), *known, strict=True)]


def prepared(query: str, index: NamespaceIndex | None) -> AnalyzedQuery:
    """A query for a namespace; None for one that never had a memory."""
    is_about_when = _WHEN.match(query) is not None
    if index is None:
        return AnalyzedQuery(
            meaning=query, terms=tuple(asked(query)), speakers=frozenset(), is_about_when=is_about_when
        )
    found = set(words(query))
    texts = index.texts
    known, _, least = texts.talk.known()
    count = known.count(least)
    named = known.of(found, least)
    names = {word for name in named for word in name_words(name)}
    called = frozenset[str]()
    if not count:
        called = frozenset(texts.talk.addressed(query, texts.lexical.frequency, lambda word: stems([word])[0]))
        names = set(called)
    speakers = frozenset(named) if len(named) < count or count == 1 else frozenset[str]()
    terms = tuple(asked(query, frozenset(names)))
    return AnalyzedQuery(
        meaning=_without(query, names & found),
        terms=terms,
        speakers=speakers,
        is_about_when=is_about_when,
        called=called,
    )


def _without(query: str, names: Collection[str]) -> str:
    """A query without names, unless nothing is left."""
    if not names:
        return query
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    left = " ".join(re.sub(rf"(?i)\b(?:{pattern})\b(?:['\u2019]s)?", " ", query).split())
    return left if words(left) else query


def by_meaning(
    vector: Vectors, index: NamespaceIndex, k: int, among: Groups | None, *, boosts: Boosts = NO_BOOSTS
) -> Ranking:
    """The k memories whose best window is nearest to a vector (dim,)."""
    view = Candidates(index)
    view.compare(vector, among)
    rows = view.nearest(max(CANDIDATES, k) if boosts else k, among)
    if boosts:
        rows = np.union1d(rows, view.boosted(boosts, among))
    dense = view.dense(rows)
    rows, dense = rows[~np.isnan(dense)], np.clip(dense[~np.isnan(dense)], -1, 1)
    parts = view.with_boosts({"meaning": dense}, rows, boosts)
    return view.best(rows, parts, k, dense=dense)


def by_words(
    question: AnalyzedQuery, index: NamespaceIndex, k: int, among: Groups | None, *, boosts: Boosts = NO_BOOSTS
) -> Ranking:
    """The k memories that have most of the question's words; those without any come last."""
    view = Candidates(index)
    lexical = view.lexical(question.terms)
    rows = view.largest(lexical, np.flatnonzero(view.allowed(among)), max(CANDIDATES, k) if boosts else k)
    rows = np.union1d(rows, view.boosted(boosts, among)) if boosts else rows
    parts = view.with_boosts({"words": lexical[rows]}, rows, boosts)
    return view.best(rows, parts, k, lexical=lexical[rows])


def by_all(
    question: AnalyzedQuery,
    vector: Vectors | Callable[[], Vectors],
    index: NamespaceIndex,
    k: int,
    among: Groups | None,
    *,
    boosts: Boosts = NO_BOOSTS,
) -> Ranking:
    """The k best memories by all that is known of them.

    Args:
        question: prepared for this namespace.
        vector: (dim,) of its meaning, or what waits for it: the words are counted meanwhile.
        index: of the namespace.
        k: at least 1.
        among: ids of the candidates; None admits all.
        boosts: what counts besides.
    """
    view = Candidates(index)
    lexical = view.lexical(question.terms)
    count = max(CANDIDATES, k)
    with_words = view.largest(lexical, np.flatnonzero((lexical > 0) & view.allowed(among)), count)
    view.compare(vector() if callable(vector) else vector, among)
    rows = np.union1d(view.nearest(count, among, CANDIDATES_DEVIATIONS), with_words)
    if boosts:
        rows = np.union1d(rows, view.boosted(boosts, among))
    dense = view.dense(rows)
    rows, dense = rows[~np.isnan(dense)], dense[~np.isnan(dense)]
    parts: dict[str, Scores] = {
        "meaning": _HALF * dense,
        "neighbours_meaning": _HALF * view.near_meaning(rows, dense),
        "words": _HALF * lexical[rows],
        **view.priors(rows, question),
    }
    parts["session"] = SESSION * view.best_of_session(rows, _total(parts))
    parts = view.with_boosts(parts, rows, boosts)
    return view.best(rows, parts, k, dense=np.clip(dense, -1, 1), lexical=lexical[rows])


def _total(parts: Mapping[str, Scores]) -> Scores:
    """(n,) the sums."""
    total: Scores = np.sum(list(parts.values()), axis=0, dtype=np.float32)
    return total


def _relevance(scores: Scores, dense: Scores, lexical: Scores) -> Scores:
    """(n,) the share of such hits that answered their question, by a logistic curve over the data."""
    if not len(scores):
        return scores
    odds = (
        RELEVANCE_DENSE * dense
        + RELEVANCE_LEXICAL * lexical
        + RELEVANCE_BEHIND * (scores[0] - scores)
        + RELEVANCE_CONSTANT
    )
    relevance: Scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return relevance


class Candidates:
    """A namespace as it is for one question."""

    def __init__(self, index: NamespaceIndex) -> None:
        self.index = index
        self.texts = index.texts
        self.count = self.texts.lexical.count
        self.coherence = index.coherence()
        self.vector: Vectors | None = None
        self.cosines: Scores | None = None
        self.has_neighbours = self.texts.talk.are_given or self.coherence > 0

    def compare(self, vector: Vectors, among: Groups | None) -> None:
        """Set the vector (dim,) of the question's meaning. Where memories are few, all are compared with it at once."""
        self.vector = vector
        if among is None or len(among) * FEW > self.count:
            self.cosines = self.index.dense.compared(self.texts.lexical.groups[: self.count], vector)

    def allowed(self, among: Groups | None) -> NDArray[np.bool_]:
        """(count,) which rows may be found."""
        alive = self.texts.lexical.alive[: self.count]
        if among is None:
            return alive
        chosen = np.zeros(self.count, np.bool_)
        chosen[self.rows(among)] = True
        return chosen

    def rows(self, ids: Groups) -> Rows:
        """The rows of memories, as far as this view has them."""
        rows = self.texts.lexical.rows(ids)
        return rows[rows < self.count]

    def order(self, rows: Rows, values: Scores | Rows) -> NDArray[np.int64]:
        """Places of these rows by their values (n,), largest first, of equals the one that was written first."""
        talk = self.texts.talk
        return np.lexsort((talk.lot[rows], talk.turn[rows], -values))

    def largest(self, values: Scores | Rows, rows: Rows, count: int) -> Rows:
        """Those of these rows with the largest values (count,), of equals those written first; in no order."""
        if len(rows) <= count:
            return rows
        found = values[rows]
        least = np.partition(found, len(rows) - count)[len(rows) - count]
        above, equal = rows[found > least], rows[found == least]
        wanted, turns = count - len(above), self.texts.talk.turn[equal]
        if wanted < len(equal):
            equal = equal[turns <= np.partition(turns, wanted - 1)[wanted - 1]]
            equal = equal[self.order(equal, values[equal])[:wanted]]
        return np.concatenate([above, equal])

    def nearest(self, count: int, among: Groups | None, deviations: float = DEVIATIONS) -> Rows:
        """So many rows whose best window is nearest, and all that are as near as the last of them; in no order.

        The index would tell equals apart by their ids, which are another worker's in another order.
        """
        if self.cosines is not None:
            rows: Rows = np.flatnonzero(self.allowed(among) & ~np.isnan(self.cosines))
            found = self.cosines[rows]
            if len(rows) > count:
                rows = rows[found >= np.partition(found, len(rows) - count)[len(rows) - count]]
            return rows
        assert self.vector is not None, "compare comes first"
        wanted = count + 1
        while True:
            ids, cosines = self.index.dense.search(self.vector, wanted, among, deviations=deviations)
            if len(ids) < wanted or cosines[-1] < cosines[count - 1]:
                return self.rows(ids[cosines >= cosines[count - 1]] if len(ids) > count else ids)
            wanted *= EQUALS_GROWTH

    def boosted(self, boosts: Boosts, among: Groups | None) -> Rows:
        """Rows that may rise by what counts besides, whatever the question: the latest and the most important."""
        talk, allowed = self.texts.talk, np.flatnonzero(self.allowed(among))
        rows = np.empty(0, np.int64)
        if boosts.half_life_ms is not None:
            rows = self.largest(talk.time_ms, allowed, CANDIDATES)
        if boosts.importance_weight:
            rows = np.union1d(rows, self.largest(talk.importance, allowed, CANDIDATES))
        return rows

    def with_boosts(self, parts: dict[str, Scores], rows: Rows, boosts: Boosts) -> dict[str, Scores]:
        """The parts of these rows' scores, and what is added and taken away besides."""
        if boosts.importance_weight:
            parts = {**parts, "importance": boosts.importance_weight * self.texts.talk.importance[rows]}
        if boosts.half_life_ms is not None:
            age = np.maximum(0, boosts.now_ms - self.texts.talk.time_ms[rows])
            kept = 0.5 ** (age / boosts.half_life_ms)
            parts = {**parts, "age": ((kept - 1) * np.maximum(0, _total(parts))).astype(np.float32)}
        return parts

    def best(
        self,
        rows: Rows,
        parts: Mapping[str, Scores],
        k: int,
        *,
        dense: Scores | None = None,
        lexical: Scores | None = None,
    ) -> Ranking:
        """The k of these rows whose parts make the largest sums."""
        scores = _total(parts)
        at = self.order(rows, scores)[:k]
        ids, scores = self.texts.lexical.groups[rows[at]], scores[at]
        dense, lexical = (None if each is None else each[at] for each in (dense, lexical))
        relevance = None if dense is None or lexical is None else _relevance(scores, dense, lexical)
        return Ranking(
            ids=ids,
            scores=scores,
            dense=dense,
            lexical=lexical,
            relevance=relevance,
            parts={name: part[at] for name, part in parts.items()},
        )

    def trust(self, rows: Rows) -> Scores:
        """(n,) 0 to 1: how much the neighbours of these rows count."""
        return np.where(self.texts.talk.given(rows), 1.0, self.coherence).astype(np.float32)

    def level(self, rows: Rows) -> float:
        """The most that the neighbours of any of these rows count."""
        return float(self.trust(rows).max()) if len(rows) else 0.0

    def mixed(self, rows: Rows, lent: Scores, own: Scores) -> Scores:
        """(n,) what others lend a row, as far as they are trusted; where they are less so than others, its own counts.

        Otherwise a memory without a session would stand back behind all those that have one.
        """
        trust = self.trust(rows)
        return trust * lent + (self.level(rows) - trust) * own

    def lexical(self, terms: Collection[str]) -> Scores:
        """(count,) the share of the question's words that each row has."""
        found = self.texts.lexical
        total, weights = np.zeros(self.count, np.float32), 0.0
        saturation = K1 * np.sqrt(np.maximum(1, found.lengths[: self.count] / np.float32(LONG_TEXT_WORDS)))
        amounts = np.zeros(self.count, np.float32)
        for term in terms:
            rows, frequencies = found.postings(term)
            weight = math.log(1 + (len(found) - len(rows) + 0.5) / (len(rows) + 0.5))
            weights += weight
            rows, frequencies = rows[rows < self.count], frequencies[rows < self.count]
            amounts[rows] = frequencies
            reached = np.concatenate([rows, *self._lend(rows, frequencies, amounts)])
            here = amounts[reached]
            total[reached] += weight * here / (here + saturation[reached])  # a row reached twice is set to the same
            amounts[reached] = 0
        if weights:
            total /= weights
        return self._with_questions(total)

    def _lend(self, rows: Rows, frequencies: Scores, amounts: Scores) -> Iterator[Rows]:
        """Add to the amounts of a word that rows have what their neighbours lend them; these rows."""
        if not self.has_neighbours or len(rows) > SPREAD_ROWS_MAX:
            return
        lent = frequencies * self.trust(rows)  # neighbours are of one session, so trusted alike
        for side in (self.texts.talk.before, self.texts.talk.after):
            near, here = rows, lent
            for share in NEAR_WORDS:
                near = side[near].astype(np.int64)
                is_known = (near != NONE) & (near < self.count)
                near, here = near[is_known], here[is_known]
                amounts[near] += share * here
                yield near

    def _with_questions(self, lexical: Scores) -> Scores:
        """What stands behind a question that has the words answers it."""
        if not self.has_neighbours:
            return lexical
        talk = self.texts.talk
        asking = np.flatnonzero((talk.flags[: self.count] & ASKS > 0) & (lexical > 0))
        rows = talk.after[asking]
        is_known = (rows != NONE) & (rows < self.count)
        rows, asking = rows[is_known].astype(np.int64), asking[is_known]
        has_words = lexical[rows] > 0
        rows, asking = rows[has_words], asking[has_words]
        answered = lexical.copy()
        answered[rows] += ANSWER * self.trust(rows) * lexical[asking]
        return answered

    def dense(self, rows: Rows) -> Scores:
        """(n,) cosines; NaN for rows whose vectors are gone. Those beside them are compared along with them."""
        if self.cosines is None:
            assert self.vector is not None, "compare comes first"
            wanted = rows
            if self.has_neighbours:
                near, is_there = self.beside(rows)
                wanted = np.union1d(rows, near[is_there])
            self.cosines = np.full(self.count, np.nan, np.float32)
            self.cosines[wanted] = self.index.dense.scores(self.texts.lexical.groups[wanted], self.vector)
        return self.cosines[rows]

    def beside(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """(2n,) the rows before these, then those behind them, and which of them are there."""
        near = np.concatenate([self.texts.talk.before[rows], self.texts.talk.after[rows]]).astype(np.int64)
        return near, (near != NONE) & (near < self.count)

    def near_meaning(self, rows: Rows, dense: Scores) -> Scores:
        """(n,) what the neighbours lend of their cosine; a missing one counts as the row itself."""
        if not self.has_neighbours:
            return np.zeros(len(rows), np.float32)
        near, is_there = self.beside(rows)
        lent = np.tile(dense, 2)
        assert self.cosines is not None, "dense comes first"
        values = self.cosines[near[is_there]]
        lent[is_there] = np.where(np.isnan(values), lent[is_there], values)
        return NEAR_MEANING * self.mixed(rows, lent[: len(rows)] + lent[len(rows) :], 2 * dense)

    def priors(self, rows: Rows, question: AnalyzedQuery) -> dict[str, Scores]:
        """By name what speaks for a row whatever the words, (n,) each."""
        talk = self.texts.talk
        lengths = self.texts.lexical.lengths[rows]
        said = np.minimum(1, np.log1p(lengths) / math.log(LENGTH_WORDS))
        prior: dict[str, NDArray[Any]] = {"length": LENGTH * self.level(rows) * said}
        if question.is_about_when:
            prior["when"] = WHEN * (talk.flags[rows] & TIMELY > 0)
        if question.speakers:
            known, speaker, _ = talk.known()
            prior["speaker"] = SPEAKER * np.isin(speaker[rows], known.numbers(question.speakers))
        if question.called:
            prior["speaker"] = CALLED_SPEAKS * self.by_those_called(rows, question.called)
        return {name: part.astype(np.float32) for name, part in prior.items()}

    def by_those_called(self, rows: Rows, names: Collection[str]) -> Scores:
        """(n,) 0 to 1: how likely a row is by somebody of these names, since those around it address them."""
        calls = np.zeros(self.count + 1, np.float32)  # the last one is for no row
        for name in names:
            found, _ = self.texts.lexical.postings(CALLED + name)
            calls[found[found < self.count]] = 1
        likely = -calls[rows]
        for side in (self.texts.talk.before, self.texts.talk.after):
            near = rows
            for share in CALLED_AROUND:
                near = np.where((near != NONE) & (near < self.count), side[np.minimum(near, self.count - 1)], NONE)
                likely = likely + share * self.trust(rows) * calls[np.where(near < self.count, near, NONE)]
        likely_by_them: Scores = np.clip(likely, 0, 1).astype(np.float32)
        return likely_by_them

    def best_of_session(self, rows: Rows, scores: Scores) -> Scores:
        """(n,) the best score in the session of each row, if there is more than one session."""
        if self.texts.talk.sessions < 2 or not len(rows):
            return np.zeros(len(rows), np.float32)
        sessions, place = np.unique(self.texts.talk.session[rows], return_inverse=True)
        best = np.full(len(sessions), -np.inf, np.float32)
        np.maximum.at(best, place, scores)
        return self.mixed(rows, best[place], scores)
