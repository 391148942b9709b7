"""Reads LoCoMo and REALTALK: conversations with questions whose evidence is known.

A person has to get the files. LoCoMo (snap-research/locomo, CC BY-NC 4.0) and REALTALK (danny911kr/REALTALK) are chats
of two people over weeks. Both name the turns that answer each question. Neither is part of this project. Files may be
compressed with gzip.
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
"""The weights were chosen on `DEVELOPMENT`. `HELD_OUT` was looked at, too, to see whether they hold. A conversation of
LoCoMo is named by its `sample_id` (first, fifth and ninth, and third and seventh of its ten), and a conversation of
REALTALK by the number of its file."""

CATEGORIES = {
    LOCOMO: {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"},
    REALTALK: {1: "multi-hop", 2: "temporal", 3: "commonsense"},
}
NOT_ANSWERABLE = 5
"""Category of LoCoMo's adversarial questions. Nothing answers them and their evidence misleads, so none is asked."""

_TURN = re.compile(r"D\s*:?\s*(\d+)\s*:\s*(\d+)")
_SESSION = re.compile(r"session_(\d+)")
_LOCOMO_TIME, _REALTALK_TIME = "%I:%M %p on %d %B, %Y", "%d.%m.%Y, %H:%M:%S"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker said at once.

    Attributes:
        key: its key, such as "D1:3" for the third turn of the first session.
        text: what was said, with the caption of a picture if one was shared.
        time: ISO 8601 time of the turn in REALTALK, and of the beginning of its session in LoCoMo.

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
        evidence: keys of these turns, at least one.
        answer: the right answer, as people wrote it.

    """

    text: str
    category: str
    evidence: frozenset[str]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation and the questions about it.

    Attributes:
        source: LOCOMO or REALTALK.
        name: its name within its source.
        passed_over: number of questions that are not asked, because they have no answer or none of their turns has a
            text.

    """

    source: str
    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]
    passed_over: int

    @property
    def part(self) -> str:
        """Return the part of the split that it is in. Conversations of neither half have not been looked at."""
        if self.name in DEVELOPMENT:
            return "development"
        return "held out" if self.name in HELD_OUT else "not looked at"


def locomo(path: Path) -> list[Dialogue]:
    """Return the conversations of a LoCoMo file."""
    return [_locomo_dialogue(one) for one in read_json(path)]


def realtalk(folder: Path) -> list[Dialogue]:
    """Return the conversations of a folder of REALTALK files, in the order of the numbers in their names."""
    numbered = {int(found.group()): path for path in folder.glob("*.json*") if (found := re.search(r"\d+", path.name))}
    return [_realtalk_dialogue(f"chat {number}", read_json(path)) for number, path in sorted(numbered.items())]


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file, which may be compressed with gzip."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return json.load(file)


def turns_of(ids: Iterable[object]) -> set[str]:
    """Return the keys of the turns that evidence names, also from loose spellings ("D8:6; D9:17", "D:11:26")."""
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
