"""Computes the evidence for a memory from its words, its neighbours, its speaker and its session.

Neighbours count fully if memories name a session. Otherwise they count by how much more alike neighbouring memories are
than any two (`NamespaceIndex.coherence`), so documents in no order lend each other nothing. The weights were chosen on
the dialogues and documents of docs/retrieval.md, which also says what each one is worth.
"""

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_service.namespaces.conversation import ASKS, CALLED, NONE, TIMELY
from memory_service.retrieval.analyzing import AnalyzedQuery
from memory_service.retrieval.candidates import Candidates, Rows, Scores

K1 = 0.6
"""BM25's saturation. The smaller it is, the less a further occurrence of a word adds. Chosen in docs/retrieval.md."""

LONG_TEXT_WORDS = 100
"""Texts with more words than this saturate later, by the square root of their length."""

NEAR_WORDS = (0.5, 0.3)
"""Share of its words that a memory lends to its neighbours at distance 1 and 2."""

NEAR_MEANING = 0.2
"""Weight of the cosines of both adjacent memories."""

ANSWER = 0.2
"""Share of a question's words that the memory after it is credited with, since that is usually the answer."""

SPEAKER = 0.25
"""Score added to memories of a speaker whom the query names."""

SESSION = 0.3
"""Weight of the best score in a memory's session."""

LENGTH, LENGTH_WORDS = 0.1, 40
"""Score added to memories of 40 words and more. Shorter ones get less, because very short texts answer little."""

WHEN = 0.06
"""Score added to memories that name a time, if the query asks for one."""

CALLED_SPEAKS, CALLED_AROUND = 0.06, (1.0, -0.5, 0.25)
"""Score added to memories that a person named in the query probably spoke, if no speaker is known. Somebody who is
addressed in a text speaks next to it, and people take turns. So the signs at distances 1 to 3 alternate."""

SPREAD_ROWS_MAX = 20_000
"""A word that more memories have is not lent to neighbours. Such a word says little, and lending it takes longest."""


def word_shares(view: Candidates, terms: Collection[str]) -> Scores:
    """Return the share of the query's words that each row has (count,), weighted by rarity, 0 to about 1."""
    lexical = view.texts.lexical
    total, weights = np.zeros(view.count, np.float32), 0.0
    # (count,) the frequency at which a word reaches half of its weight. It depends on the length of the text.
    saturation = K1 * np.sqrt(np.maximum(1, lexical.lengths[: view.count] / np.float32(LONG_TEXT_WORDS)))
    amounts = np.zeros(view.count, np.float32)  # (count,) occurrences of one word; zeroed again after each term
    for term in terms:
        rows, frequencies = lexical.postings(term)  # (n,) each
        # BM25's inverse document frequency, a scalar.
        weight = math.log(1 + (len(lexical) - len(rows) + 0.5) / (len(rows) + 0.5))
        weights += weight
        # (n,) without the rows that were appended after the view was made.
        rows, frequencies = rows[rows < view.count], frequencies[rows < view.count]
        amounts[rows] = frequencies
        reached = np.concatenate([rows, *_lend(view, rows, frequencies, amounts)])  # (m,), with repetitions
        here = amounts[reached]  # (m,) own occurrences and lent ones
        # A row that is reached twice is set to the same value twice, because `+=` reads before it writes.
        total[reached] += weight * here / (here + saturation[reached])
        amounts[reached] = 0
    # (count,) from a sum of weights to a share of them.
    if weights:
        total /= weights
    return _with_answers(view, total)


def _lend(view: Candidates, rows: Rows, frequencies: Scores, amounts: Scores) -> Iterator[Rows]:
    """Add the occurrences that rows (n,) lend to their neighbours to `amounts` (count,); yield the neighbours (m,)."""
    if not view.has_neighbours or len(rows) > SPREAD_ROWS_MAX:
        return
    lent = frequencies * trust(view, rows)  # (n,); neighbours are of one session, so they are trusted alike
    for side in (view.texts.talk.before, view.texts.talk.after):
        near, here = rows, lent
        for share in NEAR_WORDS:
            near = side[near].astype(np.int64)  # one step further on this side
            # (m,) the neighbours that exist, and what each is lent. A row is the neighbour of one row only per side, so
            # `+=` adds every value.
            is_there = view.exist(near)
            near, here = near[is_there], here[is_there]
            amounts[near] += share * here
            yield near


def _with_answers(view: Candidates, shares: Scores) -> Scores:
    """Return the shares (count,) with a part of a question's share added to the row after it."""
    if not view.has_neighbours:
        return shares
    talk = view.texts.talk
    # (q,) the rows that ask and have some of the words, then those of them that are followed by a row.
    asking = np.flatnonzero((talk.flags[: view.count] & ASKS > 0) & (shares > 0))
    rows = talk.after[asking].astype(np.int64)
    is_there = view.exist(rows)
    rows, asking = rows[is_there], asking[is_there]
    has_words = shares[rows] > 0  # an answer repeats a word of its question; another text is no answer
    rows, asking = rows[has_words], asking[has_words]
    # (count,) a row follows one row only, so `+=` adds every value.
    answered = shares.copy()
    answered[rows] += ANSWER * trust(view, rows) * shares[asking]
    return answered


def neighbour_meaning(view: Candidates, rows: Rows, cosines: Scores) -> Scores:
    """Return the part of the score that adjacent memories' cosines add (n,). A missing one counts as the row itself."""
    if not view.has_neighbours:
        return np.zeros(len(rows), np.float32)
    near, is_there = view.adjacent(rows)
    lent = np.tile(cosines, 2)  # (2n,) the row's own cosine on both sides
    assert view.cosines is not None, "cosines_of comes first"
    # (m,) the neighbours' cosines. An unknown one is replaced by the row's own.
    values = view.cosines[near[is_there]]
    lent[is_there] = np.where(np.isnan(values), lent[is_there], values)
    # (n,) the sum of both sides; as far as they are not trusted, the row's own cosine counts twice.
    return NEAR_MEANING * _mix(view, rows, lent[: len(rows)] + lent[len(rows) :], 2 * cosines)


def priors(view: Candidates, rows: Rows, query: AnalyzedQuery) -> dict[str, Scores]:
    """Return the parts of the score that depend neither on a row's words nor on its cosine, by name, (n,) each."""
    talk = view.texts.talk
    lengths = view.texts.lexical.lengths[rows]
    fullness = np.minimum(1, np.log1p(lengths) / math.log(LENGTH_WORDS))  # (n,) 0 to 1
    parts: dict[str, NDArray[Any]] = {"length": LENGTH * _level(view, rows) * fullness}
    if query.is_about_when:
        # (n,) the whole weight, or 0.
        parts["when"] = WHEN * (talk.flags[rows] & TIMELY > 0)
    if query.speakers:
        # `speaker` is (capacity,), the number of each row's speaker.
        speakers, speaker, _ = talk.known()
        parts["speaker"] = SPEAKER * np.isin(speaker[rows], speakers.numbers(query.speakers))
    if query.called:
        parts["speaker"] = CALLED_SPEAKS * likely_spoken_by(view, rows, query.called)
    return {name: part.astype(np.float32) for name, part in parts.items()}


def likely_spoken_by(view: Candidates, rows: Rows, names: Collection[str]) -> Scores:
    """Return how likely a person with one of these names speaks in each row (n,), 0 to 1.

    The evidence is whom the texts around the row address.
    """
    # (count + 1,) 1 for a row that addresses one of them. The last place stands for no row and stays 0.
    calls = np.zeros(view.count + 1, np.float32)
    for name in names:
        addressing, _ = view.texts.lexical.postings(CALLED + name)
        calls[addressing[addressing < view.count]] = 1
    likely = -calls[rows]  # (n,) nobody addresses himself
    for side in (view.texts.talk.before, view.texts.talk.after):
        near = rows
        for share in CALLED_AROUND:
            # One step further; a missing row stays missing.
            near = np.where(view.exist(near), side[np.minimum(near, view.count - 1)], NONE)
            # (n,) `NONE` is -1, which is the last place of `calls`.
            likely = likely + share * trust(view, rows) * calls[np.where(near < view.count, near, NONE)]
    clipped: Scores = np.clip(likely, 0, 1).astype(np.float32)
    return clipped


def session_bests(view: Candidates, rows: Rows, scores: Scores) -> Scores:
    """Return the best score (n,) in the session of each row; zeros unless there are at least two sessions."""
    if view.texts.talk.sessions < 2 or not len(rows):
        return np.zeros(len(rows), np.float32)
    # (sessions,) the sessions of these rows, and (n,) the position of each row's session among them.
    sessions, position = np.unique(view.texts.talk.session[rows], return_inverse=True)
    # (sessions,) the best score in each; `maximum.at` also counts sessions that occur several times.
    best = np.full(len(sessions), -np.inf, np.float32)
    np.maximum.at(best, position, scores)
    return _mix(view, rows, best[position], scores)


def trust(view: Candidates, rows: Rows) -> Scores:
    """Return how much the neighbours of rows count (n,): 1 where a session is given, the coherence elsewhere."""
    return np.where(view.texts.talk.given(rows), 1.0, view.coherence).astype(np.float32)


def _level(view: Candidates, rows: Rows) -> float:
    """Return the highest trust of these rows; 0 for no rows."""
    return float(trust(view, rows).max()) if len(rows) else 0.0


def _mix(view: Candidates, rows: Rows, lent: Scores, own: Scores) -> Scores:
    """Return the lent values (n,), weighted by trust. The weight up to the highest trust is filled with the row's own.

    Without the row's own part, a memory without a session would rank behind all memories that have one.
    """
    trusted = trust(view, rows)  # (n,)
    return trusted * lent + (_level(view, rows) - trusted) * own
