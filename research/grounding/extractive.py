"""Answers without a language model: verbatim sentences of the memories, each with the number of its passage.

A sentence is judged by its meaning (cosine of its embedding with the question's), by the question's words in it, and
by the passage and the sentences that it stands among.
Texts only; which passages there are, and whether this is wanted at all, is decided above.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_service.embedding.embedder import Vectors
from research.grounding.claims import Claim, Kind, Sentence
from research.grounding.sentences import spans
from vector_memory.research import Passage

MODEL = "extractive"
NOTICE = "No language model was called; these sentences are quoted from the memories:"

Embed = Callable[[Sequence[str]], Vectors]

_SENTENCES_MAX = 4
_SENTENCE_CHARS_MAX = 400

# Embedding takes some 5 ms a sentence on one core; the words alone choose which ones are worth it.
_CANDIDATES_MAX = 64

# Meaning finds the sentence, shared words settle between near ones; a question among the memories rarely answers.
_WORDS_WEIGHT = 0.5
_QUESTION_FACTOR = 0.7

# A sentence also counts for the company it keeps: "New date 11 January" answers nothing without the one before it.
_NEIGHBOUR_WEIGHT = 0.4
_PASSAGE_WEIGHT = 0.5

# Further sentences must come near the best one, and say something else than those before them. What differs in a
# number says something else, however alike the rest: a fact and its correction belong side by side.
_NEAR_BEST = 0.65
_SAME_MEANING_COSINE = 0.95
_SAME_WORDS_SHARE = 0.9

_WORD = re.compile(r"\w+")
_ENGLISH_STOP_WORDS = (
    "a about after all also am an and any are as at be because been before being but by can could did do does doing"
    " for from had has have he her his how i if in into is it its may me might my no not of on or our she should so"
    " than that the their them then there these they this those to was we were what when where which who whom whose"
    " why will with would you your"
)
_STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())
_SUFFIXES = ("ingly", "edly", "ings", "ing", "ies", "ed", "es", "ly", "s", "e", "y")
_STEM_CHARS_MIN = 3


@dataclass(frozen=True, slots=True)
class Extract:
    """Quotations as one text, and the numbers of their passages in order of appearance.

    Attributes:
        sentences: the quotations with their marks; a quoted text may itself look like one or like the end of one.
    """

    text: str
    cited: tuple[int, ...]
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class _Sentence:
    n: int
    position: int
    text: str
    stems: frozenset[str]
    overlap: float
    passage_score: float


def extract(question: str, passages: Sequence[Passage], embed: Embed) -> Extract:
    """Quote the sentences that answer the question best; one of the passages at least has a sentence."""
    candidates = _candidates(question, passages)
    vectors = embed([question, *(sentence.text for sentence in candidates)])
    scores = _scores(candidates, vectors[1:] @ vectors[0])
    quoted = _readable([candidates[i] for i in _choose(candidates, scores, vectors[1:])])
    text = NOTICE + "\n"
    sentences: list[Sentence] = []
    for one in quoted:
        said, mark = f"“{one.text}”", f" [{one.n}]"
        start = len(text) + 1
        text += f"\n{said}{mark}"
        sentences.append(Sentence(start, len(text), start, Kind.STATEMENT, said, (Claim(said, (one.n,)),)))
    return Extract(text, tuple(dict.fromkeys(one.n for one in quoted)), tuple(sentences))


def stems(text: str) -> frozenset[str]:
    """The words of a text that mean something, without case and without their commonest English endings."""
    return frozenset(_stem(word) for word in _WORD.findall(text.casefold()) if word not in _STOP_WORDS)


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _STEM_CHARS_MIN:
            return word[: -len(suffix)]
    return word


def _candidates(question: str, passages: Sequence[Passage]) -> list[_Sentence]:
    """The sentences with most of the question's words; among equals those of the better passage."""
    asked = stems(question)
    sentences = [sentence for passage in passages for sentence in _sentences(passage, asked)]
    return sorted(sentences, key=lambda sentence: -sentence.overlap)[:_CANDIDATES_MAX]


def _sentences(passage: Passage, asked: frozenset[str]) -> list[_Sentence]:
    texts = [passage.content[span.start : span.stop] for span in spans(passage.content, _SENTENCE_CHARS_MAX)]
    found = []
    for position, text in enumerate(texts):
        words = stems(text)
        overlap = len(words & asked) / max(1, len(asked))
        found.append(_Sentence(passage.n, position, text, words, overlap, passage.score))
    return found


def _scores(candidates: Sequence[_Sentence], cosines: Vectors) -> list[float]:
    own = {(s.n, s.position): _own_score(s, float(cosine)) for s, cosine in zip(candidates, cosines, strict=True)}
    return [
        own[s.n, s.position]
        + _NEIGHBOUR_WEIGHT * max(own.get((s.n, s.position - 1), 0.0), own.get((s.n, s.position + 1), 0.0))
        + _PASSAGE_WEIGHT * s.passage_score
        for s in candidates
    ]


def _own_score(sentence: _Sentence, cosine: float) -> float:
    score = cosine + _WORDS_WEIGHT * sentence.overlap
    return score * _QUESTION_FACTOR if sentence.text.endswith("?") else score


def _choose(candidates: Sequence[_Sentence], scores: Sequence[float], vectors: Vectors) -> list[int]:
    """Indices of the sentences to quote, best first."""
    chosen: list[int] = []
    ranked = sorted(range(len(candidates)), key=lambda i: -scores[i])
    for i in ranked:
        if len(chosen) == _SENTENCES_MAX or (chosen and scores[i] < _NEAR_BEST * scores[chosen[0]]):
            break
        if not any(_same(candidates[i], candidates[j], float(vectors[i] @ vectors[j])) for j in chosen):
            chosen.append(i)
    return chosen


def _same(one: _Sentence, other: _Sentence, cosine: float) -> bool:
    if _numbers(one.stems) != _numbers(other.stems):
        return False
    shared = len(one.stems & other.stems) / max(1, len(one.stems | other.stems))
    return cosine > _SAME_MEANING_COSINE or shared > _SAME_WORDS_SHARE


def _numbers(words: frozenset[str]) -> set[str]:
    return {word for word in words if any(char.isdigit() for char in word)}


def _readable(chosen: Sequence[_Sentence]) -> list[_Sentence]:
    """The passage with the best sentence first, and within a passage the order of its text."""
    order = list(dict.fromkeys(sentence.n for sentence in chosen))
    return sorted(chosen, key=lambda sentence: (order.index(sentence.n), sentence.position))
