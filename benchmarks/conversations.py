"""Conversations with questions whose evidence is known: LoCoMo and REALTALK, read from files that a person got.

LoCoMo (snap-research/locomo, CC BY-NC 4.0) and REALTALK (danny911kr/REALTALK) are chats of two people over weeks. Both
name, for each question, the turns that answer it. Neither is part of this project. Files may be compressed with gzip.
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

LOCOMO, REALTALK = "LoCoMo", "REALTALK"

DEVELOPMENT = frozenset({"conv-26", "conv-43", "conv-49", "chat 2", "chat 6", "chat 10"})
HELD_OUT = frozenset({"conv-41", "conv-47", "chat 4", "chat 8"})
"""The weights were chosen on the former; the latter were looked at too, to see whether they hold. LoCoMo's go by their
`sample_id` (first, fifth and ninth, and third and seventh of its ten), REALTALK's by the number of their file."""

CATEGORIES = {
    LOCOMO: {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"},
    REALTALK: {1: "multi-hop", 2: "temporal", 3: "commonsense"},
}
NOT_ANSWERABLE = 5
"""LoCoMo's adversarial questions, whose answer is nowhere: their evidence misleads, so none is asked."""

_TURN = re.compile(r"D\s*:?\s*(\d+)\s*:\s*(\d+)")
_SESSION = re.compile(r"session_(\d+)")
_LOCOMO_TIME, _REALTALK_TIME = "%I:%M %p on %d %B, %Y", "%d.%m.%Y, %H:%M:%S"


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody said at once.

    Attributes:
        key: such as "D1:3", the third turn of the first session.
        text: with the caption of a picture, if one was shared.
        time: of the turn in REALTALK, of its session's begin in LoCoMo, as ISO 8601.

    """

    key: str
    text: str
    speaker: str
    session: str
    time: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the turns that answer it.

    Attributes:
        evidence: their keys, at least one.
        answer: what people wrote as the right one.

    """

    text: str
    category: str
    evidence: frozenset[str]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation and what is asked of it.

    Attributes:
        source: LOCOMO or REALTALK.
        name: within its source.
        passed_over: questions that are not asked: without an answer, or without a turn that could be stored.

    """

    source: str
    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]
    passed_over: int

    @property
    def part(self) -> str:
        """The half that it is in; conversations of neither have not been looked at."""
        if self.name in DEVELOPMENT:
            return "development"
        return "held out" if self.name in HELD_OUT else "not looked at"


def locomo(path: Path) -> list[Dialogue]:
    """The conversations of a LoCoMo file."""
    return [_locomo_dialogue(one) for one in read_json(path)]


def realtalk(folder: Path) -> list[Dialogue]:
    """The conversations of a folder of REALTALK files, which have a number in their name, by it."""
    numbered = {int(found.group()): path for path in folder.glob("*.json*") if (found := re.search(r"\d+", path.name))}
    return [_realtalk_dialogue(f"chat {number}", read_json(path)) for number, path in sorted(numbered.items())]


def read_json(path: Path) -> Any:
    """The contents of a JSON file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return json.load(file)


def turns_of(ids: Iterable[object]) -> set[str]:
    """The keys of turns that evidence names, also where it is written loosely ("D8:6; D9:17", "D:11:26")."""
    return {f"D{int(session)}:{int(turn)}" for id in ids for session, turn in _TURN.findall(str(id))}


def _locomo_dialogue(raw: Mapping[str, Any]) -> Dialogue:
    talk = raw["conversation"]
    turns = []
    for session in _sessions(talk):
        time = datetime.strptime(talk[f"{session}_date_time"], _LOCOMO_TIME).isoformat()
        turns += [_turn(said, said["text"], session, time) for said in talk[session]]
    return _dialogue(LOCOMO, raw["sample_id"], turns, raw["qa"])


def _realtalk_dialogue(name: str, raw: Mapping[str, Any]) -> Dialogue:
    turns = []
    for session in _sessions(raw):
        for said in raw[session]:
            time = datetime.strptime(said["date_time"], _REALTALK_TIME).isoformat()
            turns.append(_turn(said, said.get("clean_text") or "", session, time))
    return _dialogue(REALTALK, name, turns, raw["qa"])


def _sessions(talk: Mapping[str, Any]) -> list[str]:
    found = {int(match.group(1)): name for name in talk if (match := _SESSION.fullmatch(name))}
    return [name for _, name in sorted(found.items()) if isinstance(talk[name], list)]


def _turn(said: Mapping[str, Any], text: str, session: str, time: str) -> Turn:
    (key,) = turns_of([said["dia_id"]])
    caption = f" [shares: {said['blip_caption']}]" if said.get("blip_caption") else ""
    return Turn(key, (text.strip() + caption).strip(), said["speaker"], session, time)


def _dialogue(source: str, name: str, turns: Sequence[Turn], asked: Sequence[Mapping[str, Any]]) -> Dialogue:
    kept = tuple(turn for turn in turns if turn.text)
    known = {turn.key for turn in kept}
    questions = tuple(
        Question(one["question"], CATEGORIES[source][one["category"]], frozenset(evidence), str(one.get("answer", "")))
        for one in asked
        if one["category"] != NOT_ANSWERABLE and (evidence := turns_of(one.get("evidence", ())) & known)
    )
    return Dialogue(source, name, kept, questions, len(asked) - len(questions))
