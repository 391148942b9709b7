"""Answers without a language model: verbatim sentences of the memories, each with the number of its passage.

A sentence is judged by its meaning (the cosine of its embedding with the question's), by the question's words in it,
and by its passage and neighbouring sentences. This module handles texts only: the caller decides which passages there
are, and whether quotations are wanted at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_service.embedding.embedder import Vectors
from memory_service.namespaces.words import STOP_WORDS, stems, words
from research.grounding.claims import Claim, Kind, Sentence
from research.grounding.sentences import spans
from vector_memory.research import Passage

MODEL = "extractive"
NOTICE = "No language model was called; these sentences are quoted from the memories:"

Embed = Callable[[Sequence[str]], Vectors]

_SENTENCES_MAX = 4
_SENTENCE_CHARS_MAX = 400

# Embedding takes about 5 ms per sentence on one core. Words alone choose the sentences that are embedded.
_CANDIDATES_MAX = 64

# Meaning finds the sentence, and shared words decide between near ones. A question among the memories rarely answers.
_WORDS_WEIGHT = 0.5
_QUESTION_FACTOR = 0.7

# Neighbours count too: "New date 11 January" answers nothing without the sentence before it.
_NEIGHBOUR_WEIGHT = 0.4
_PASSAGE_WEIGHT = 0.5

# A further sentence must score near the best one, and say something new. A sentence with other numbers says something
# new, even if all else is alike: a fact and its correction are both quoted.
_NEAR_BEST = 0.65
_SAME_MEANING_COSINE = 0.95
_SAME_WORDS_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Extract:
    """Quotations as one text.

    Attributes:
        sentences: the quotations with their marks. Reading them from the text would be wrong where a quotation itself
            looks like a mark, or like the end of a quotation.
    """

    text: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _QuotableSentence:
    """A sentence of a passage.

    Attributes:
        n: the number of its passage.
        position: its place among the sentences of the passage, from 0.
        stems: the stems of its telling words.
        overlap: the share of the question's stems that it has, 0 to 1.
    """

    n: int
    position: int
    text: str
    stems: frozenset[str]
    overlap: float
    passage_score: float


def extract(question: str, passages: Sequence[Passage], embed: Embed) -> Extract:
    """Quote the sentences that answer the question best. At least one of the passages must have a sentence."""
    candidates = _candidates(question, passages)
    # One call for the question and n candidates: (n + 1, dim). Rows have length 1, so products are cosines.
    vectors = embed([question, *(sentence.text for sentence in candidates)])
    scores = _scores(candidates, vectors[1:] @ vectors[0])
    quoted = _readable([candidates[i] for i in _choose(candidates, scores, vectors[1:])])
    text = NOTICE + "\n"
    sentences: list[Sentence] = []
    for sentence in quoted:
        quotation, mark = f"“{sentence.text}”", f" [{sentence.n}]"
        start = len(text) + 1
        text += f"\n{quotation}{mark}"
        claims, place = (Claim(quotation, (sentence.n,)),), {"start": start, "stop": len(text), "line": start}
        sentences.append(Sentence(kind=Kind.STATEMENT, text=quotation, claims=claims, **place))
    return Extract(text, tuple(sentences))


def _telling_stems(text: str) -> frozenset[str]:
    return frozenset(stems([word for word in words(text) if word not in STOP_WORDS]))


def _candidates(question: str, passages: Sequence[Passage]) -> list[_QuotableSentence]:
    """Return the sentences with most of the question's words. Of equals, those of the better passage are first."""
    question_stems = _telling_stems(question)
    sentences = [sentence for passage in passages for sentence in _sentences(passage, question_stems)]
    return sorted(sentences, key=lambda sentence: -sentence.overlap)[:_CANDIDATES_MAX]


def _sentences(passage: Passage, question_stems: frozenset[str]) -> list[_QuotableSentence]:
    texts = [passage.content[span.start : span.stop] for span in spans(passage.content, _SENTENCE_CHARS_MAX)]
    stems_by_text = [_telling_stems(text) for text in texts]
    return [
        _QuotableSentence(
            n=passage.n,
            position=position,
            text=text,
            stems=own_stems,
            overlap=len(own_stems & question_stems) / max(1, len(question_stems)),
            passage_score=passage.score,
        )
        for position, (text, own_stems) in enumerate(zip(texts, stems_by_text, strict=True))
    ]


def _scores(candidates: Sequence[_QuotableSentence], cosines: Vectors) -> list[float]:
    """Score the candidates by themselves, their better neighbour and their passage."""
    own = {(s.n, s.position): _own_score(s, float(cosine)) for s, cosine in zip(candidates, cosines, strict=True)}
    return [
        own[s.n, s.position]
        + _NEIGHBOUR_WEIGHT * max(own.get((s.n, s.position - 1), 0.0), own.get((s.n, s.position + 1), 0.0))
        + _PASSAGE_WEIGHT * s.passage_score
        for s in candidates
    ]


def _own_score(sentence: _QuotableSentence, cosine: float) -> float:
    score = cosine + _WORDS_WEIGHT * sentence.overlap
    return score * _QUESTION_FACTOR if sentence.text.endswith("?") else score


def _choose(candidates: Sequence[_QuotableSentence], scores: Sequence[float], vectors: Vectors) -> list[int]:
    """Return the positions of the sentences to quote, best first."""
    chosen: list[int] = []
    for i in sorted(range(len(candidates)), key=lambda i: -scores[i]):
        if len(chosen) == _SENTENCES_MAX or (chosen and scores[i] < _NEAR_BEST * scores[chosen[0]]):
            break
        if not any(_are_same(candidates[i], candidates[j], float(vectors[i] @ vectors[j])) for j in chosen):
            chosen.append(i)
    return chosen


def _are_same(one: _QuotableSentence, other: _QuotableSentence, cosine: float) -> bool:
    if _numbers(one.stems) != _numbers(other.stems):
        return False
    shared = len(one.stems & other.stems) / max(1, len(one.stems | other.stems))
    return cosine > _SAME_MEANING_COSINE or shared > _SAME_WORDS_SHARE


def _numbers(stems_of_sentence: frozenset[str]) -> set[str]:
    return {stem for stem in stems_of_sentence if any(char.isdigit() for char in stem)}


def _readable(chosen: Sequence[_QuotableSentence]) -> list[_QuotableSentence]:
    """Put the passage with the best sentence first, and the sentences of a passage in the order of its text."""
    order = list(dict.fromkeys(sentence.n for sentence in chosen))
    return sorted(chosen, key=lambda sentence: (order.index(sentence.n), sentence.position))
