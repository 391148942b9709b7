"""Judges whether a passage says what an answer cites it for.

First come rules by words alone. A quotation must be found in the passage, word for word or nearly so. Every number,
month and day of the week of a claim must be there, or follow from the passage's date. What the rules leave open is
measured: a logistic regression estimates how likely the passage supports the claim. Its signals are the cosine of the
claim with the best excerpt of the passage, and what a changed claim changes: names, negations, opposites and who
speaks. The share of words found added nothing to these when it was fitted with them.

The best excerpt is chosen by words, so each pair of claim and passage costs one text to embed. docs/research.md
measures what the verdicts are worth. All functions are pure, and take the embedder as an argument.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from research.grounding.claims import Sentence
from research.grounding.evidence import OPPOSITES, Evidence, Excerpt, TextFeatures, WordSpan, word_spans
from research.grounding.extractive import Embed
from vector_memory.research import Citation, Passage, Verdict

WEIGHTS = (6.727, -0.935, -1.494, -3.612, -1.523)
CONSTANT = -3.981
"""The weights of `ClaimSignals` in their order, and the constant: a logistic regression, fitted on the development half
of the data of docs/research.md."""

SUPPORTED_MIN = 0.6
WEAK_MIN = 0.3
"""The lowest probabilities of the two verdicts. Of all tenths, 0.6 has the best F1 on the development half without the
sentences that are there word for word."""

_QUOTED = re.compile('\u201c([^\u201c\u201d]{1,4000})\u201d|(?<!\\w)"([^"]{1,4000})"')
_ELLIPSIS = re.compile(r"\s*(?:\[?(?:\.\.\.|…)\]?)\s*")
_FIRST_PERSON = re.compile(r"\b(?:i|my|me|we|our|i'm|i've)\b", re.IGNORECASE)

# Two quoted words are emphasis more often than a quotation.
_QUOTED_WORDS_MIN = 3

# A quotation is nearly verbatim with this share of its words, looked for in this many words of the passage.
_NEAR_SHARE = 0.9
_NEAR_WORDS_MAX = 4_000

# A name matches its short form ("Tim" and "Timothy") from this length on.
_NAME_PREFIX_CHARS = 3

# A further sentence must add this many found words to be worth its place in an excerpt.
_SENTENCE_COST = 0.3

CITATIONS_MAX = 1_000
EMBEDDED_MAX = 100
"""Bounds that no honest answer reaches. Citations beyond the first bound get no verdict and are left out. Pairs beyond
the second one are judged by words alone, as if their cosine were 0."""


class ClaimSignals(NamedTuple):
    """What speaks for a passage and against it.

    Attributes:
        cosine: cosine of the claim with the best excerpt.
        names: number of names of the claim that the passage does not have, up to 2. Speakers of any passage do not
            count, since a text seldom names the person it speaks to.
        flipped: number of words that are negated on one side only, plus 1 if the claim alone is negated; up to 2.
        opposites: number of words of the claim whose opposite is in the excerpt instead, up to 2.
        other_speaker: 1 if the claim is about somebody other than the person who says "I".
    """

    cosine: float
    names: int
    flipped: int
    opposites: int
    other_speaker: int


@dataclass(frozen=True, slots=True)
class CitedClaim:
    """A claim and the passage that it is cited for.

    Attributes:
        figures_elsewhere: figures of other passages that are cited for the same claim.
        speaker_stems: stems of the names of the speakers of all passages.
    """

    text: str
    evidence: Evidence
    figures_elsewhere: frozenset[str] = frozenset()
    speaker_stems: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome for one claim and one passage.

    Attributes:
        probability: how likely the passage supports the claim, 0 to 1; exactly 0 or 1 by a rule.
        start, stop: characters [start, stop) of the passage's content that come nearest to the claim.
        signals: the signals that were measured; None by a rule.
    """

    probability: float
    start: int = 0
    stop: int = 0
    signals: ClaimSignals | None = None

    @property
    def verdict(self) -> Verdict:
        """The probability as a word."""
        if self.probability >= SUPPORTED_MIN:
            return "supported"
        return "weak" if self.probability >= WEAK_MIN else "unsupported"


@dataclass(frozen=True, slots=True)
class _OpenCase:
    """A claim that the rules leave open, and the best excerpt of its passage."""

    claim: CitedClaim
    features: TextFeatures
    best: Excerpt

    @property
    def excerpt_text(self) -> str:
        """The text to embed: the excerpt, after its speaker's name if the passage has one."""
        speaker = self.claim.evidence.speaker
        return f"{speaker}: {self.best.features.text}" if speaker else self.best.features.text


def verify(sentences: Sequence[Sentence], passages: Sequence[Passage], embed: Embed) -> list[tuple[Citation, ...]]:
    """Judge every citation of an answer.

    A claim that shares its sentence with others is also judged as the whole sentence, which may name its subject. The
    better verdict counts.

    Args:
        sentences: the sentences of the answer. Numbers without a passage are skipped.
        passages: the passages, numbered from 1 in their order.
        embed: the embedder; it is called at most once.

    Returns:
        The citations of each sentence, in order, each number once for each claim.
    """
    evidence = {passage.n: Evidence(passage) for passage in passages}
    speaker_stems = frozenset(stem for one in evidence.values() for stem in TextFeatures(one.speaker).telling_stems)
    cited = [
        (i, claim, n)
        for i, sentence in enumerate(sentences)
        for claim in sentence.claims
        for n in claim.numbers
        if n in evidence
    ][:CITATIONS_MAX]
    cases = []
    for i, claim, n in cited:
        others = (evidence[other].figures for other in claim.numbers if other != n and other in evidence)
        elsewhere = frozenset[str]().union(*others)
        # Two cases for each citation: the claim alone, and its whole sentence.
        texts = (claim.text, sentences[i].text)
        cases += [CitedClaim(text, evidence[n], elsewhere, speaker_stems) for text in texts]
    judgements = judge(cases, embed)
    citations: list[list[Citation]] = [[] for _ in sentences]
    for position, (i, _, n) in enumerate(cited):
        better = max(judgements[2 * position : 2 * position + 2], key=lambda judgement: judgement.probability)
        citations[i].append(_citation(sentences[i], passages[n - 1], better))
    return [tuple(of_sentence) for of_sentence in citations]


def judge(claims: Sequence[CitedClaim], embed: Embed) -> list[Judgement]:
    """Judge claims, in their order. `embed` is called at most once, with each text once."""
    # Rules first, once for each distinct claim.
    ruled = {claim: _rule(claim) for claim in dict.fromkeys(claims)}
    open_cases = {claim: case for claim, case in ruled.items() if isinstance(case, _OpenCase)}
    # Embed both sides of the open cases: vectors of shape (dim,) and length 1, so that a product is a cosine.
    embedded = list(open_cases.values())[:EMBEDDED_MAX]
    texts = list(dict.fromkeys(text for case in embedded for text in (case.features.text, case.excerpt_text)))
    vectors = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    cosines = {case.claim: float(vectors[case.features.text] @ vectors[case.excerpt_text]) for case in embedded}
    # Measure what the rules left open.
    measured = {claim: _measure(case, cosines.get(claim, 0.0)) for claim, case in open_cases.items()}
    return [case if isinstance(case := ruled[claim], Judgement) else measured[claim] for claim in claims]


def _citation(sentence: Sentence, passage: Passage, judgement: Judgement) -> Citation:
    is_found = judgement.verdict != "unsupported"
    of_passage = {name: getattr(passage, name) for name in ("n", "key", "namespace", "score", "date", "created_at")}
    return Citation(
        **of_passage,
        verdict=judgement.verdict,
        answer_span=(sentence.start, sentence.stop),
        memory_span=(judgement.start, judgement.stop) if is_found else None,
        quote=passage.content[judgement.start : judgement.stop] if is_found else None,
    )


# -- rules by words alone ----------------------------------------------------------------------------------------------


def _rule(claim: CitedClaim) -> Judgement | _OpenCase:
    features, evidence = TextFeatures(claim.text), claim.evidence
    verbatim = _find_verbatim(claim.text, evidence)
    if verbatim is not None:
        return Judgement(1.0, verbatim.start, verbatim.stop)
    # A quotation that is not in the passage, or a figure that no cited passage has, refutes the claim.
    quotes = [quote for quote in _quotes(claim.text) if len(word_spans(quote)) >= _QUOTED_WORDS_MIN]
    places = [_find_quote(quote, evidence) for quote in quotes]
    if any(place is None for place in places) or not features.figures <= evidence.figures | claim.figures_elsewhere:
        return Judgement(0.0)
    # So does a claim that shares no telling word with the passage.
    if features.telling_stems.isdisjoint(evidence.features.telling_stems | evidence.attribution.telling_stems):
        return Judgement(0.0)
    known_places = [place for place in places if place is not None]
    if not known_places:
        return _OpenCase(claim, features, _best_excerpt(features, evidence))
    start, stop = min(place[0] for place in known_places), max(place[1] for place in known_places)
    # Around found quotations the claim may name date and speaker. Any other word has to be measured.
    if TextFeatures(_QUOTED.sub(" ", claim.text)).telling_stems <= evidence.attribution.telling_stems:
        return Judgement(1.0, start, stop)
    return _OpenCase(claim, features, evidence.excerpt_at(start, stop))


def _find_verbatim(claim: str, evidence: Evidence) -> Excerpt | None:
    """Find the claim's very words in a passage, unless the words around them deny or ask it."""
    # A claim that is one quotation is searched as characters: it may have no words, or few.
    if claim[:1] == "\u201c" and claim[-1:] == "\u201d" and claim[1:-1].strip():
        start = evidence.content.find(claim[1:-1])
        if start >= 0:
            return Excerpt(start, start + len(claim) - 2, TextFeatures(claim[1:-1]))
    claim_words = [span.word for span in word_spans(claim)]
    first = _find_run(claim_words, evidence.word_spans)
    if first is None or len(claim_words) < _QUOTED_WORDS_MIN:
        return None
    stop = evidence.word_spans[first + len(claim_words) - 1].stop
    around = evidence.excerpt_at(evidence.word_spans[first].start, stop)
    is_denied = TextFeatures(evidence.content[around.start : stop]).is_negated and not TextFeatures(claim).is_negated
    is_question = around.features.text.endswith("?") and not claim.endswith("?")
    return None if is_denied or is_question else around


def _quotes(text: str) -> list[str]:
    return [match[1] or match[2] for match in _QUOTED.finditer(text)]


def _find_quote(quote: str, evidence: Evidence) -> tuple[int, int] | None:
    """Find the characters [start, stop) of a quotation. Its pieces between ellipses must follow each other."""
    first, start, stop = 0, None, 0
    for piece in _ELLIPSIS.split(quote):
        piece_words = [span.word for span in word_spans(piece)]
        if not piece_words:
            continue
        # Each piece is searched after the end of the one before it.
        run = _find_near_run(piece_words, evidence.word_spans[first:])
        if run is None:
            return None
        begin, end = first + run[0], first + run[1]
        start = evidence.word_spans[begin].start if start is None else start
        stop, first = evidence.word_spans[end - 1].stop, end
    return None if start is None else (start, stop)


def _find_near_run(quoted: Sequence[str], spans: Sequence[WordSpan]) -> tuple[int, int] | None:
    """Find the positions [first, stop) of words that are the quoted ones, or nearly so."""
    first = _find_run(quoted, spans)
    if first is not None:
        return first, first + len(quoted)
    # Seed with the longest common run, and place a window around it that is two words longer than the quotation.
    content = [span.word for span in spans[:_NEAR_WORDS_MAX]]
    seed = SequenceMatcher(None, quoted, content, autojunk=False).find_longest_match()
    if not seed.size:
        return None
    low = max(0, seed.b - seed.a - 1)
    window = content[low : low + len(quoted) + 2]
    # Align quotation and window. The last block is an empty one that marks the end.
    blocks = SequenceMatcher(None, quoted, window, autojunk=False).get_matching_blocks()
    begin, end = low + blocks[0].b, low + max(block.b + block.size for block in blocks if block.size)
    kept = {position for block in blocks for position in range(block.a, block.a + block.size)}
    # Near is: few words changed, no negator or figure among them, and no negator added to a negated quotation.
    changed = TextFeatures(" ".join(word for i, word in enumerate(quoted) if i not in kept))
    is_near = len(kept) >= _NEAR_SHARE * len(quoted) and not changed.is_negated and not changed.figures
    added = " ".join(content[begin:end]) if TextFeatures(" ".join(quoted)).is_negated else ""
    return (begin, end) if is_near and (not added or TextFeatures(added).is_negated) else None


def _find_run(searched: Sequence[str], spans: Sequence[WordSpan]) -> int | None:
    """Find the position where the searched words follow one another."""
    if not searched:
        return None
    # One search in a joined text is much faster than comparing lists. No word holds a space.
    joined = "".join(f" {span.word}" for span in spans) + " "
    start = joined.find(f" {' '.join(searched)} ")
    return None if start < 0 else joined.count(" ", 0, start)


# -- the measure -------------------------------------------------------------------------------------------------------


def _best_excerpt(features: TextFeatures, evidence: Evidence) -> Excerpt:
    """Return the excerpt with most of the claim's words and figures; of equals the shortest, then the first."""

    def worth(excerpt: Excerpt) -> tuple[float, int]:
        shared_stems = features.telling_stems & excerpt.features.telling_stems
        shared_figures = features.figures & excerpt.features.figures
        shared = len(shared_stems) + len(shared_figures)
        return shared - _SENTENCE_COST * excerpt.sentences, excerpt.start - excerpt.stop

    return max(evidence.excerpts, key=worth, default=Excerpt(0, 0, TextFeatures("")))


def _measure(case: _OpenCase, cosine: float) -> Judgement:
    signals = _signals(case, cosine)
    logit = CONSTANT + sum(weight * signal for weight, signal in zip(WEIGHTS, signals, strict=True))
    probability = 1 / (1 + math.exp(-logit))
    # Some claims are at most weak: those with an unknown name or an opposite, and those with figures that only another
    # cited passage has.
    if signals.names or signals.opposites or not case.features.figures <= case.claim.evidence.figures:
        probability = min(probability, math.nextafter(SUPPORTED_MIN, 0))
    return Judgement(probability, case.best.start, case.best.stop, signals)


def _signals(case: _OpenCase, cosine: float) -> ClaimSignals:
    claim, excerpt, evidence = case.features, case.best.features, case.claim.evidence
    attributed = evidence.attribution.telling_stems
    # Names of the claim that the passage does not know. A first word is a name only if a speaker has it.
    subject = claim.first_name_stem if claim.first_name_stem in case.claim.speaker_stems else ""
    named = claim.name_stems | ({subject} if subject else set())
    known = evidence.features.telling_stems | attributed
    unknown = {name for name in named if not any(_is_same_name(name, stem) for stem in known)}
    # Words that both have, and only one of them negates.
    shared = claim.telling_stems & excerpt.telling_stems
    flipped = len((claim.negated_stems ^ excerpt.negated_stems) & shared)
    flipped += claim.is_negated and not excerpt.is_negated
    # Words that only the claim has, and whose opposite only the excerpt has.
    only_claim = claim.all_stems - excerpt.all_stems - attributed
    only_excerpt = excerpt.all_stems - claim.all_stems
    opposites = sum(not OPPOSITES.get(stem, frozenset()).isdisjoint(only_excerpt) for stem in only_claim)
    is_first_person = bool(evidence.speaker) and _FIRST_PERSON.search(excerpt.text) is not None
    return ClaimSignals(
        cosine=cosine,
        names=min(2, len(unknown - case.claim.speaker_stems)),
        flipped=min(2, flipped),
        opposites=min(2, opposites),
        other_speaker=int(is_first_person and bool(subject) and subject not in attributed),
    )


def _is_same_name(name: str, stem: str) -> bool:
    return name == stem or (len(stem) >= _NAME_PREFIX_CHARS and name.startswith(stem))
