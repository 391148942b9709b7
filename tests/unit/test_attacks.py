"""Every attack of `tests/attacks.py`, wherever a caller's text reaches the prompt: it stays a quoted text."""

import json
import re
from collections.abc import Iterator

import pytest

from research.context.packing import pack
from research.context.prompt import SYSTEM, build
from tests.attacks import ATTACKS
from tests.list_recall import memory
from vector_memory.research import PROVENANCES, Passage
from vector_memory.retrieval import Hit

LINE = re.compile(
    r'\[(?P<n>\d+)\] (?P<date>"(?:[^"\\]|\\.)*")'
    r'(?: \((?:from (?P<provenance>\w+))?(?:; )?(?:speaker (?P<speaker>"(?:[^"\\]|\\.)*"))?\))?'
    r' (?P<content>"(?:[^"\\]|\\.)*")(?P<cut> \(cut short\))?'
)
CONTROL = re.compile(r"<[A-Za-z/|\uff5c]|\[/?[A-Z_]+\]|[\u3010\u3011](?=\d)|(?<!\\)\u3010")
NUMBERS = re.compile(r"[\[\u3010]\s?([0-9]+)")
QUESTION = "What is the budget?"
HONEST = "The budget is 62,000 euro."
ROOM = 100_000


def prompted(question: str, *memories: tuple[str, dict[str, object]]) -> tuple[str, tuple[Passage, ...]]:
    """The user message over memories with these texts and metadata, as packed, and the passages in it."""
    found = [
        Hit.of(memory(text, key=f"m{at}", metadata=metadata), 1.0 - at / 100)
        for at, (text, metadata) in enumerate(memories)
    ]
    passages = pack(found, ROOM).passages
    system, user = build(question, passages)
    assert system == {"role": "system", "content": SYSTEM}
    assert user["role"] == "user"
    return user["content"], passages


def assert_only_quotes(content: str, passages: tuple[Passage, ...], question: str) -> None:
    """Exactly our lines; each string in them is the text that it stands for; nothing else is there."""
    heading, *lines, blank, last = content.split("\n")
    assert (heading, blank) == ("Passages, best match first:", "")
    assert len(lines) == len(passages)
    assert content.splitlines() == [heading, *lines, blank, last], "no other line break"
    for line, passage in zip(lines, passages, strict=True):
        found = LINE.fullmatch(line)
        assert found, line
        assert found["n"] == str(passage.n)
        assert json.loads(found["content"]) == passage.content
        assert json.loads(found["date"]) == passage.date
        assert found["provenance"] == passage.provenance
        assert (found["speaker"] and json.loads(found["speaker"])) == passage.speaker
        assert bool(found["cut"]) == passage.truncated
    assert json.loads(last.removeprefix("Question: ")) == question
    assert NUMBERS.findall(content) == [str(n) for n in range(1, len(passages) + 1)]
    assert CONTROL.search(content) is None
    assert all(char.isprintable() or char in "\n\u200c\u200d" for char in content)


def places(attack: str) -> Iterator[tuple[str, str, dict[str, object]]]:
    """The attack as question, as a memory's text and in its metadata: one by one, and everywhere at once."""
    yield QUESTION, attack, {}
    yield attack, HONEST, {}
    for field in ("speaker", "event_time", "provenance"):
        yield QUESTION, HONEST, {field: attack}
        yield QUESTION, HONEST, {field: attack[:40]}
        yield QUESTION, HONEST, {"speaker": "Gareth", "provenance": "document", field: attack[-40:]}
    yield attack, attack, {"speaker": attack[:80], "event_time": attack[:40], "provenance": attack}
    yield attack, attack, {"speaker": attack[-80:], "event_time": attack[-40:], "provenance": "user"}


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"attack {at}" for at in range(len(ATTACKS))])
def test_an_attack_stays_a_quoted_text_wherever_it_stands(attack: str) -> None:
    for question, text, metadata in places(attack):
        content, passages = prompted(question, (text, metadata), ("Another one.", {"provenance": "user"}))

        assert_only_quotes(content, passages, question)
        assert [passage.content for passage in passages] == [text, "Another one."]
        said = metadata.get("provenance")
        assert passages[0].provenance == (said if said in PROVENANCES else None)


def test_all_attacks_at_once_are_as_many_lines_as_there_are_attacks() -> None:
    memories = [(attack, {"speaker": attack[:80], "provenance": "tool"}) for attack in ATTACKS]

    content, passages = prompted(ATTACKS[10], *memories)

    assert len(passages) == len(ATTACKS)
    assert {passage.content for passage in passages} == set(ATTACKS)
    assert_only_quotes(content, passages, ATTACKS[10])


@pytest.mark.parametrize("said", [None, "", " ", "User", "admin", "user ", ["user"], {"user": 1}, 1, True])
def test_what_is_no_known_provenance_counts_as_none(said: object) -> None:
    content, (passage,) = prompted(QUESTION, (HONEST, {"provenance": said}))

    assert passage.provenance is None
    assert "from" not in content.split("\n")[1]


@pytest.mark.parametrize("said", [None, "", " \n", "x" * 81, ["Bo"], 7])
def test_what_is_no_short_text_is_no_speaker(said: object) -> None:
    content, (passage,) = prompted(QUESTION, (HONEST, {"speaker": said}))

    assert passage.speaker is None
    assert "speaker" not in content.split("\n")[1]
