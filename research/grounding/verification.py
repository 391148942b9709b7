"""Judges whether a passage says what an answer cites it for.

First come rules by words alone. A quotation must be found in the passage, word for word or nearly; every number, month
and day of the week of a claim must be there, or follow from the passage's date. Then a measure, where these leave it
open: how likely the passage supports the claim, by the cosine of the claim with the best sentence, or neighbouring
sentences, of the passage, and by what a changed claim changes: names, negations, opposites, and who speaks. The share
of words found told nothing beside these when it was fitted with them. Words choose the best sentences, so each pair of
claim and passage costs one text to embed. What the verdicts are worth is measured in docs/research.md.

Pure functions; the embedder comes in. Which passages there are is decided above.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from research.grounding.claims import Sentence
from research.grounding.evidence import OPPOSITES, Evidence, Said, Stretch, Token, first_name, names, tokens
from research.grounding.extractive import Embed
from vector_memory.research import Citation, Passage, Verdict

WEIGHTS = (6.727, -0.935, -1.494, -3.612, -1.523)
CONSTANT = -3.981
"""Of `Signals`, in their order; a logistic regression, fitted on the development half of the data of
docs/research.md."""

SUPPORTED_MIN = 0.6
WEAK_MIN = 0.3
"""Least probabilities of the verdicts. The former has, of all tenths, the best F1 on the development half when
sentences that are there word for word are left out."""

_QUOTED = re.compile('\u201c([^\u201c\u201d]{1,4000})\u201d|(?<!\\w)"([^"]{1,4000})"')
_ELLIPSIS = re.compile(r"\s*(?:\[?(?:\.\.\.|…)\]?)\s*")
_QUOTED_WORDS_MIN = 3
_NEAR_SHARE = 0.9
_NEAR_WORDS_MAX = 4_000
_FIRST_PERSON = re.compile(r"\b(?:i|my|me|we|our|i'm|i've)\b", re.IGNORECASE)
_NAME_PREFIX_CHARS = 3

_LENGTH_WORTH = 0.3

CITATIONS_MAX = 1_000
EMBEDDED_MAX = 100
"""No honest answer has more. Citations beyond the former get no verdict and are left out; pairs beyond the latter are
judged by words alone, as if their cosine were 0."""


class Signals(NamedTuple):
    """What speaks for a passage and against it.

    Attributes:
        cosine: of the claim with the best stretch.
        names: names of the claim that the passage does not have, up to 2.
            Those who speak in some passage do not count: a text seldom names whom it speaks to.
        flipped: words that are negated on one side only, up to 2, or a claim that alone is negated.
        opposites: words of the claim whose contrary the stretch has instead, up to 2.
        other_speaker: the claim is about somebody else than the one who speaks of himself.
    """

    cosine: float
    names: int
    flipped: int
    opposites: int
    other_speaker: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A claim and the passage that it is cited for.

    Attributes:
        elsewhere: figures of other passages that are cited for the same.
        speakers: stems of the names of those who speak in any passage.
    """

    claim: str
    evidence: Evidence
    elsewhere: frozenset[str] = frozenset()
    speakers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on one claim and one passage.

    Attributes:
        probability: 0 to 1, how likely the passage supports the claim; 0 or 1 by a rule.
        start, stop: characters of the passage's content that come nearest to the claim.
        signals: None by a rule.
    """

    probability: float
    start: int = 0
    stop: int = 0
    signals: Signals | None = None

    @property
    def verdict(self) -> Verdict:
        """In words."""
        if self.probability >= SUPPORTED_MIN:
            return "supported"
        return "weak" if self.probability >= WEAK_MIN else "unsupported"


@dataclass(frozen=True, slots=True)
class _Open:
    """What rules leave open, with the best stretch of the passage."""

    ask: Ask
    claim: Said
    best: Stretch

    @property
    def text(self) -> str:
        speaker = self.ask.evidence.speaker
        return f"{speaker}: {self.best.said.text}" if speaker else self.best.said.text


def verify(sentences: Sequence[Sentence], passages: Sequence[Passage], embed: Embed) -> list[tuple[Citation, ...]]:
    """Judge every citation of an answer.

    A claim that shares its sentence with others is also judged as the whole sentence, which may say what it is about;
    the better verdict counts.

    Args:
        sentences: of the answer; numbers that no passage has are passed over.
        passages: numbered from 1 in their order.
        embed: called at most once.

    Returns:
        For each sentence its citations, in order, each number once for each claim.
    """
    evidence = {passage.n: Evidence(passage) for passage in passages}
    speakers = frozenset(stem for one in evidence.values() for stem in Said(one.speaker).stems)
    cited = [
        (at, claim, n)
        for at, sentence in enumerate(sentences)
        for claim in sentence.claims
        for n in claim.numbers
        if n in evidence
    ][:CITATIONS_MAX]
    asks = []
    for at, claim, n in cited:
        others = (evidence[other].figures for other in claim.numbers if other != n and other in evidence)
        elsewhere = frozenset[str]().union(*others)
        asks += [Ask(text, evidence[n], elsewhere, speakers) for text in (claim.text, sentences[at].text)]
    findings = judge(asks, embed)
    found: list[list[Citation]] = [[] for _ in sentences]
    for i, (at, _, n) in enumerate(cited):
        best = max(findings[2 * i : 2 * i + 2], key=lambda finding: finding.probability)
        found[at].append(_citation(sentences[at], passages[n - 1], best))
    return [tuple(citations) for citations in found]


def judge(asks: Sequence[Ask], embed: Embed) -> list[Finding]:
    """Judge claims, in their order; `embed` is called at most once, with each text once."""
    once = list(dict.fromkeys(asks))
    ruled = dict(zip(once, (_ruled(ask) for ask in once), strict=True))
    open_cases = {ask: case for ask, case in ruled.items() if isinstance(case, _Open)}
    embedded = list(open_cases.values())[:EMBEDDED_MAX]
    texts = list(dict.fromkeys(text for case in embedded for text in (case.claim.text, case.text)))
    vectors = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    cosines = {case.ask: float(vectors[case.claim.text] @ vectors[case.text]) for case in embedded}
    measured = {ask: _measured(case, cosines.get(ask, 0.0)) for ask, case in open_cases.items()}
    return [case if isinstance(case := ruled[ask], Finding) else measured[ask] for ask in asks]


def _citation(sentence: Sentence, passage: Passage, finding: Finding) -> Citation:
    is_found = finding.verdict != "unsupported"
    return Citation(
        n=passage.n,
        key=passage.key,
        namespace=passage.namespace,
        score=passage.score,
        date=passage.date,
        created_at=passage.created_at,
        verdict=finding.verdict,
        answer_span=(sentence.start, sentence.stop),
        memory_span=(finding.start, finding.stop) if is_found else None,
        quote=passage.content[finding.start : finding.stop] if is_found else None,
    )


# -- rules by words alone ----------------------------------------------------------------------------------------------


def _ruled(ask: Ask) -> Finding | _Open:
    claim, evidence = Said(ask.claim), ask.evidence
    verbatim = _verbatim(ask.claim, evidence)
    if verbatim is not None:
        return Finding(1.0, verbatim.start, verbatim.stop)
    quotes = [quote for quote in _quotes(ask.claim) if len(tokens(quote)) >= _QUOTED_WORDS_MIN]
    places = [_place(quote, evidence) for quote in quotes]
    if any(place is None for place in places) or not claim.figures <= evidence.figures | ask.elsewhere:
        return Finding(0.0)
    known = evidence.all.stems | evidence.around.stems
    if claim.stems.isdisjoint(known):
        return Finding(0.0)
    found = [place for place in places if place is not None]
    if not found:
        return _Open(ask, claim, _best_stretch(claim, evidence))
    start, stop = min(place[0] for place in found), max(place[1] for place in found)
    if Said(_QUOTED.sub(" ", ask.claim)).stems <= evidence.around.stems:
        return Finding(1.0, start, stop)
    return _Open(ask, claim, evidence.around_place(start, stop))


def _verbatim(claim: str, evidence: Evidence) -> Stretch | None:
    """Where a passage says the claim with its very words, and does not deny or ask it around them."""
    if claim[:1] == "\u201c" and claim[-1:] == "\u201d" and claim[1:-1].strip():
        start = evidence.content.find(claim[1:-1])
        if start >= 0:
            return Stretch(start, start + len(claim) - 2, Said(claim[1:-1]))
    found = tokens(claim)
    at = _run([token.word for token in found], evidence.tokens)
    if at is None or len(found) < _QUOTED_WORDS_MIN:
        return None
    stop = evidence.tokens[at + len(found) - 1].stop
    around = evidence.around_place(evidence.tokens[at].start, stop)
    denies = Said(evidence.content[around.start : stop]).is_negated and not Said(claim).is_negated
    asks = around.said.text.endswith("?") and not claim.endswith("?")
    return None if denies or asks else around


def _quotes(text: str) -> list[str]:
    return [match[1] or match[2] for match in _QUOTED.finditer(text)]


def _place(quote: str, evidence: Evidence) -> tuple[int, int] | None:
    """Where a quotation stands in the content; its pieces between ellipses must follow each other."""
    first, start, stop = 0, None, 0
    for piece in _ELLIPSIS.split(quote):
        said = [token.word for token in tokens(piece)]
        if not said:
            continue
        run = _near_run(said, evidence.tokens[first:])
        if run is None:
            return None
        begin, end = first + run[0], first + run[1]
        start = evidence.tokens[begin].start if start is None else start
        stop, first = evidence.tokens[end - 1].stop, end
    return None if start is None else (start, stop)


def _near_run(said: Sequence[str], among: Sequence[Token]) -> tuple[int, int] | None:
    """First and behind the last of the words that are nearly those said."""
    at = _run(said, among)
    if at is not None:
        return at, at + len(said)
    content = [token.word for token in among[:_NEAR_WORDS_MAX]]
    seed = SequenceMatcher(None, said, content, autojunk=False).find_longest_match()
    if not seed.size:
        return None
    low = max(0, seed.b - seed.a - 1)
    window = content[low : low + len(said) + 2]
    same = SequenceMatcher(None, said, window, autojunk=False).get_matching_blocks()
    begin, end = low + same[0].b, low + max(block.b + block.size for block in same if block.size)
    kept = {place for block in same for place in range(block.a, block.a + block.size)}
    changed = " ".join(word for i, word in enumerate(said) if i not in kept)
    added = " ".join(content[begin:end]) if Said(" ".join(said)).is_negated else ""
    is_near = len(kept) >= _NEAR_SHARE * len(said) and not Said(changed).is_negated and not Said(changed).figures
    return (begin, end) if is_near and (not added or Said(added).is_negated) else None


def _run(said: Sequence[str], among: Sequence[Token]) -> int | None:
    """Where words stand one after the other."""
    if not said:
        return None
    whole = "".join(f" {token.word}" for token in among) + " "
    at = whole.find(f" {' '.join(said)} ")
    return None if at < 0 else whole.count(" ", 0, at)


# -- the measure -------------------------------------------------------------------------------------------------------


def _best_stretch(claim: Said, evidence: Evidence) -> Stretch:
    """The sentences with most of the claim's words; of equals the fewest, then the first."""

    def worth(stretch: Stretch) -> tuple[float, int]:
        length = stretch.stop - stretch.start
        found = len(claim.stems & stretch.said.stems) + len(claim.figures & stretch.said.figures)
        return found - _LENGTH_WORTH * stretch.sentences, -length

    return max(evidence.stretches, key=worth, default=Stretch(0, 0, Said("")))


def _measured(case: _Open, cosine: float) -> Finding:
    signals = _signals(case, cosine)
    worth = CONSTANT + sum(weight * signal for weight, signal in zip(WEIGHTS, signals, strict=True))
    probability = 1 / (1 + math.exp(-worth))
    if signals.names or signals.opposites or not case.claim.figures <= case.ask.evidence.figures:
        # Who is named must be known; figures that are missing here are in another passage that is cited for the same.
        probability = min(probability, math.nextafter(SUPPORTED_MIN, 0))
    return Finding(probability, case.best.start, case.best.stop, signals)


def _signals(case: _Open, cosine: float) -> Signals:
    claim, evidence, near = case.claim, case.ask.evidence, case.best.said
    around = evidence.around.stems
    wanted = claim.stems
    known = evidence.all.stems | around
    first = first_name(claim.text)
    is_about = first if first in case.ask.speakers else ""
    named = names(claim.text) | ({is_about} if is_about else set())
    absent = {name for name in named if not any(_same_name(name, word) for word in known)}
    shared = wanted & near.stems
    flipped = len((claim.negated ^ near.negated) & shared) + (claim.is_negated and not near.is_negated)
    opposite = sum(
        not OPPOSITES.get(stem, frozenset()).isdisjoint(near.every - claim.every)
        for stem in claim.every - near.every - around
    )
    speaks = evidence.speaker and _FIRST_PERSON.search(near.text)
    return Signals(
        cosine=cosine,
        names=min(2, len(absent - case.ask.speakers)),
        flipped=min(2, flipped),
        opposites=min(2, opposite),
        other_speaker=int(bool(speaks and is_about and is_about not in around)),
    )


def _same_name(name: str, word: str) -> bool:
    return name == word or (len(word) >= _NAME_PREFIX_CHARS and name.startswith(word))
