"""Makes true, altered and wrongly cited claims from conversations, each with the turn that it cites. Seeds are fixed.

A true claim is one of three kinds: a sentence of the turn itself, one of LoCoMo's observations, which a language model
wrote about a turn that it names, or a question joined with its gold answer, if one turn is the evidence. An altered
claim is a true one in which a number, a date, a name, a negation or a word and its opposite is changed. A wrongly cited
claim is a true one with another turn.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversations import LOCOMO, Dialogue, Turn, read_json, turns_of
from memory_service.embedding.embedder import Vectors
from memory_service.namespaces.words import stems
from research.grounding.evidence import OPPOSITES
from research.grounding.sentences import spans

Embed = Callable[[Sequence[str]], Vectors]

TRUE = ("exact sentence", "observation", "question and answer")
EACH_MAX = 150
"""Most true claims of one kind from one conversation. If there are more, a random choice is taken."""

_SEED = 7
_WORDS_MIN = 5
_ASKED = re.compile(
    r"(?P<which>when|where|what|who|which|how long|how many|how)\s+"
    r"(?P<aux>did|does|do|is|was|are|were|has|have|will|would)\s+"
    r"(?P<rest>.+?)\s*\?*\Z",
    re.IGNORECASE,
)
_COPULA = ("is", "was", "are", "were")
_INFERRED = ("open-domain", "commonsense")

_MONTH_WORDS = "January February March April May June July August September October November December"
_MONTHS = _MONTH_WORDS.split()
_DAY_WORDS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_DAYS = _DAY_WORDS.split()
_COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(rf"\b(?:[0-9]+|{'|'.join(_COUNTS)})\b")
_DATE = re.compile(rf"\b(?:{'|'.join((*_MONTHS, *_DAYS))})\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_STRANGERS = ("Brunhilde", "Tobias", "Marguerite", "Oswald", "Ingrid", "Percival", "Yolanda", "Cornelius")
_AUXILIARY = re.compile(r"\b(is|was|are|were|has|have|had|will|can|could|would|should)\b(?! not)")
_NOT = re.compile(
    r"\b(is|was|are|were|has|have|had|will|can|could|would|should|did|does|do) not\b|\b(ca|wo|do|did|is|was)n't\b"
)
_ANTONYM_PAIRS = """
    loves/hates enjoys/dislikes enjoy/dislike enjoyed/disliked happy/sad excited/bored new/old
    good/bad great/terrible before/after always/never more/less started/stopped proud/ashamed
    helpful/useless important/unimportant positive/negative supports/opposes first/last
    together/alone early/late big/small long/short strong/weak difficult/easy mother/father
    brother/sister son/daughter summer/winter outdoors/indoors relaxing/stressful
    recently/decades-ago grateful/resentful passionate/indifferent inspired/bored peaceful/chaotic
    beautiful/ugly support/neglect thankful/bitter amazing/awful accepted/rejected bought/sold
    joined/left won/lost healthy/sick determined/hesitant appreciates/resents painting/sculpting
    dog/cat dogs/cats piano/drums brown/green children/parents creative/dull encourages/discourages"""
_ANTONYMS = dict(pair.split("/") for pair in _ANTONYM_PAIRS.split())


@dataclass(frozen=True, slots=True)
class Made:
    """A claim and the turn that it cites.

    Attributes:
        kind: how the claim was made.
        is_true: whether the turn supports the claim.
        source: the data set of its conversation.
        part: the part of the split that its conversation is in.
        text: the claim.
        turn: the turn that it cites.
    """

    kind: str
    is_true: bool
    source: str
    part: str
    text: str
    turn: Turn


def made(dialogues: Sequence[Dialogue], locomo: Path | None, embed: Embed) -> list[Made]:
    """Return all claims of the conversations. True ones come first in each conversation."""
    raw = {one["sample_id"]: one for one in read_json(locomo)} if locomo else {}
    return [claim for one in dialogues for claim in _of_dialogue(one, raw.get(one.name, {}), embed)]


def _of_dialogue(dialogue: Dialogue, raw: Mapping[str, Any], embed: Embed) -> Iterator[Made]:
    lot = random.Random(f"{_SEED} {dialogue.source} {dialogue.name}")
    observed = _observations(dialogue, raw) if dialogue.source == LOCOMO else ()
    true = [one for group in (_exact(dialogue), observed, _answered(dialogue)) for one in _some(list(group), lot)]
    yield from true
    speakers = sorted({turn.speaker for turn in dialogue.turns})
    for one in true:
        yield from _altered(one, speakers, lot)
    yield from _elsewhere(true, dialogue.turns, embed, lot)


def _some(claims: list[Made], lot: random.Random) -> list[Made]:
    return claims if len(claims) <= EACH_MAX else lot.sample(claims, EACH_MAX)


# -- true --------------------------------------------------------------------------------------------------------------


def _true(dialogue: Dialogue, kind: str, text: str, turn: Turn) -> Made:
    return Made(kind, is_true=True, source=dialogue.source, part=dialogue.part, text=text, turn=turn)


def _exact(dialogue: Dialogue) -> Iterator[Made]:
    for turn in dialogue.turns:
        for span in spans(turn.text, 400):
            text = turn.text[span.start : span.stop]
            if len(text.split()) >= _WORDS_MIN and not text.endswith("?") and "[" not in text:
                yield _true(dialogue, TRUE[0], text, turn)


def _observations(dialogue: Dialogue, raw: Mapping[str, Any]) -> Iterator[Made]:
    turns = {turn.key: turn for turn in dialogue.turns}
    for session in raw["observation"].values():
        for text, *ids in (one for by_speaker in session.values() for one in by_speaker):
            keys = turns_of(ids) & turns.keys()
            if len(keys) == 1:
                yield _true(dialogue, TRUE[1], text, turns[keys.pop()])


def _answered(dialogue: Dialogue) -> Iterator[Made]:
    turns = {turn.key: turn for turn in dialogue.turns}
    for question in dialogue.questions:
        text = _declared(question.text, question.answer)
        if text and len(question.evidence) == 1 and question.category not in _INFERRED:
            yield _true(dialogue, TRUE[2], text, turns[next(iter(question.evidence))])


def _declared(question: str, answer: str) -> str:
    asked = _ASKED.match(question.strip())
    if asked is None or not answer:
        return ""
    rest, aux = asked["rest"], asked["aux"].lower()
    told = f"{rest} {aux}" if aux in _COPULA and len(rest.split()) <= _WORDS_MIN else rest
    joint = {"when": "on", "where": "at"}.get(asked["which"].lower(), "")
    return " ".join(f"{told[:1].upper()}{told[1:]} {joint} {answer}".split()).rstrip(".") + "."


# -- altered -----------------------------------------------------------------------------------------------------------


def _altered(one: Made, speakers: Sequence[str], lot: random.Random) -> Iterator[Made]:
    for kind, text in (
        ("number", _changed(_NUMBER, one.text, lambda word: _other_number(word, lot))),
        ("date", _changed(_DATE, one.text, lambda word: _other(word, _MONTHS if word in _MONTHS else _DAYS, lot))),
        (
            "name",
            _changed(_NAME, one.text, lambda word: _other(word, _STRANGERS, lot) if word not in speakers else word),
        ),
        ("speaker", _other_speaker(one.text, speakers)),
        ("negation", _negated(one.text, speakers)),
        _opposite(one.text),
    ):
        if text and text != one.text:
            yield replace(one, kind=kind, is_true=False, text=text)


def _changed(pattern: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    return pattern.sub(lambda match: change(match.group()), text, count=1)


def _other(word: str, among: Sequence[str], lot: random.Random) -> str:
    return lot.choice([one for one in among if one != word])


def _other_number(word: str, lot: random.Random) -> str:
    if not word.isdigit():
        return _other(word, _COUNTS, lot)
    return str(int(word) + lot.choice([1, 2, 3, 7, 10]))


def _other_speaker(text: str, speakers: Sequence[str]) -> str:
    for i, name in enumerate(speakers):
        if text.startswith(name):
            return speakers[i - 1] + text[len(name) :]
    return ""


def _negated(text: str, speakers: Sequence[str]) -> str:
    without = _NOT.sub(lambda match: match[1] or match.group().removesuffix("n't"), text, count=1)
    if without != text:
        return without
    # There was no negation to remove, so one is added.
    if _AUXILIARY.search(text):
        return _AUXILIARY.sub(r"\1 not", text, count=1)
    first, _, rest = text.partition(" ")
    return f"{first} never {rest}" if first in speakers else ""


def _opposite(text: str) -> tuple[str, str]:
    for word, other in _ANTONYMS.items():
        changed = re.sub(rf"\b{word}\b", other, text, count=1)
        if changed != text:
            one, two = stems([word, other])
            return ("opposite, listed" if two in OPPOSITES.get(one, ()) else "opposite, not listed"), changed
    return "", ""


# -- wrongly cited -----------------------------------------------------------------------------------------------------


def _elsewhere(true: Sequence[Made], turns: Sequence[Turn], embed: Embed, lot: random.Random) -> Iterator[Made]:
    """Yield each true claim twice: with a random other turn, and with the turn that is nearest to it in meaning.

    The right turn and the two turns on each side of it are left out.
    """
    keys = [turn.key for turn in turns]
    # (claims, turns) the cosine of every claim to every turn.
    nearness = embed([one.text for one in true]) @ embed([turn.text for turn in turns]).T
    for one, row in zip(true, nearness, strict=True):
        at = keys.index(one.turn.key)
        # `row` is (turns,). Minus infinity keeps the right turn and those around it from being the nearest.
        row[max(0, at - 2) : at + 3] = -np.inf
        yield replace(one, kind="another turn", is_true=False, turn=turns[_other_place(at, len(turns), lot)])
        yield replace(one, kind="a near turn", is_true=False, turn=turns[int(row.argmax())])


def _other_place(at: int, count: int, lot: random.Random) -> int:
    # The other turn is at least three turns away in both directions. After the last turn comes the first.
    return (at + lot.randrange(3, count - 3)) % count
