"""What fits into the model's window, and what happens to the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.tokens import estimate_tokens
from research.context.budget import plan
from research.context.packing import pack
from research.context.prompt import build
from tests.list_recall import hits, memory
from vector_memory.errors import LimitExceeded
from vector_memory.research import Omitted
from vector_memory.retrieval import Hit

ROOM = 200
LONG = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Grimsby lost 212 pallets of king prawns after an ammonia trip, because the alarm went to a fax machine.", 26),
        ("Der Geschäftsführer verlangt Aufklärung, weil die Kühlkette unterbrochen worden ist.", 25),
        ("Magazyn stracił dwieście palet krewetek po awarii, ponieważ nikt nie odpowiedział na alarm.", 31),
        ("Холодильный склад потерял двести поддонов креветок после аварии.", 21),
        ("冷凍倉庫の警報は七番室のファックスに届くが、誰も気づかなかった。", 27),
        ("冷库的警报发送到七号室的传真机，没有人注意到。", 19),
        ("냉동 창고의 경보는 칠번 방의 팩스로 전송되지만 아무도 알아차리지 못했다.", 29),
        ("दुर्घटना के बाद शीत गोदाम ने झींगों के दो सौ पैलेट खो दिए।", 35),
        ("def find(text: str) -> list[int]: return [int(n) for n in text.split()]", 21),
        ('{"id": 17, "name": "item 17", "price": 23.29, "ok": true}', 27),
        ('[7] "2026-09-16T14:05:00.123Z" 550e8400-e29b-41d4-a716-446655440000', 39),
        ("https://api.example.org/v2/7f3a9c01/items?page=3&sort=-created_at", 24),
        ("👩‍💻🎉🦐🚚❄️🔥🤖✅", 26),
    ],
)
def test_the_estimate_is_above_what_the_tokenizer_of_llama_3_counts_and_not_wildly(text: str, tokens: int) -> None:
    assert tokens <= estimate_tokens(text) <= 3 * tokens


@given(st.text(), st.text())
def test_the_estimate_of_two_lines_is_no_less_than_that_of_both_together(one: str, other: str) -> None:
    assert estimate_tokens(one) + estimate_tokens(other) >= estimate_tokens(one + other)


def test_passages_are_numbered_in_the_order_of_the_hits() -> None:
    packed = pack(hits("best", "second", "third"), ROOM)

    assert [(p.n, p.key, p.content) for p in packed.passages] == [
        (1, "m1", "best"),
        (2, "m2", "second"),
        (3, "m3", "third"),
    ]
    assert packed.omitted == ()


def test_one_that_does_not_fit_is_left_out_and_counted_and_the_numbers_have_no_gap() -> None:
    packed = pack(hits("best", LONG, "third"), ROOM)

    assert [(p.n, p.key) for p in packed.passages] == [(1, "m1"), (2, "m3")]
    assert not any(p.truncated for p in packed.passages)
    assert packed.omitted == (Omitted(key="m2", reason="no room"),)


def test_the_best_alone_is_cut_at_the_end_of_a_sentence_when_it_does_not_fit() -> None:
    packed = pack(hits(LONG), ROOM)

    (passage,) = packed.passages
    assert passage.truncated
    assert passage.content.endswith("lazy dog.")
    assert LONG.startswith(passage.content)
    assert len(passage.content) > ROOM


def test_without_sentences_it_is_cut_at_a_word() -> None:
    text = "word " * 400

    (passage,) = pack(hits(text), ROOM).passages

    assert passage.truncated
    assert passage.content.endswith("word")


def test_without_words_it_is_cut_where_the_room_ends() -> None:
    (passage,) = pack(hits("x" * 5_000), ROOM).passages

    assert passage.truncated
    assert 500 < len(passage.content) < 3 * ROOM


@given(st.lists(st.text(min_size=1) | st.sampled_from([LONG, "x" * 5_000, "\x00" * 900]), max_size=6))
def test_whatever_the_memories_the_prompt_stays_within_its_estimate(contents: list[str]) -> None:
    packed = pack(hits(*contents), ROOM)

    empty, full = build("Why?", []), build("Why?", packed.passages)
    assert estimate_tokens(full[1]["content"]) - estimate_tokens(empty[1]["content"]) <= ROOM + 10
    assert len(packed.passages) + len(packed.omitted) == len(contents)
    assert len({p.key for p in packed.passages} | {left.key for left in packed.omitted}) == len(contents)
    assert bool(packed.passages) == bool(contents)
    assert all(p.content and contents[int(p.key[1:]) - 1].startswith(p.content) for p in packed.passages)
    assert all(p.truncated == (p.content != contents[int(p.key[1:]) - 1]) for p in packed.passages)


STORY = "The alarm of chamber seven goes to a fax machine that nobody has looked at since the spring."


def test_what_nearly_repeats_a_passage_comes_behind_the_others_and_the_newest_of_such_first() -> None:
    found = [
        Hit.of(memory(STORY, key="first"), 0.9),
        Hit.of(memory(f"Indeed: {STORY}", key="old", created_at_ms=1_000), 0.8),
        Hit.of(memory(f"Note. {STORY}", key="new", created_at_ms=2_000), 0.7),
        Hit.of(memory("Priya drinks rooibos.", key="other"), 0.2),
    ]

    packed = pack(found, 1_000)

    assert [p.key for p in packed.passages] == ["first", "other", "new", "old"]
    assert [p.n for p in packed.passages] == [1, 2, 3, 4]
    assert packed.omitted == ()


def test_a_repetition_that_finds_no_room_is_called_one() -> None:
    found = [Hit.of(memory(STORY, key="first"), 0.9), Hit.of(memory(f"Note. {STORY}", key="again"), 0.8), *hits(LONG)]

    packed = pack(found, 60)

    assert [p.key for p in packed.passages] == ["first"]
    assert packed.omitted == (Omitted(key="again", reason="duplicate"), Omitted(key="m1", reason="no room"))


def test_a_repetition_of_what_did_not_fit_repeats_nothing() -> None:
    """Only what is in can be repeated."""
    found = [
        Hit.of(memory("Priya drinks rooibos.", key="tea"), 0.9),
        Hit.of(memory(f"{STORY} {'Padding follows here again. ' * 8}", key="long"), 0.8),
        Hit.of(memory(STORY, key="short"), 0.7),
    ]

    packed = pack(found, 100)

    assert [p.key for p in packed.passages] == ["tea", "short"]
    assert packed.omitted == (Omitted(key="long", reason="no room"),)


def test_a_correction_is_no_repetition() -> None:
    fact = "The budget of Brightwater for the first year was set to 48,000 euro by Gareth in September."
    found = [
        Hit.of(memory(fact, key="fact"), 0.9),
        Hit.of(memory(fact.replace("48,000", "62,000"), key="correction"), 0.8),
        Hit.of(memory("Priya drinks rooibos.", key="other"), 0.2),
    ]

    assert [p.key for p in pack(found, 1_000).passages] == ["fact", "correction", "other"]


def test_of_equally_good_hits_the_newest_comes_first() -> None:
    found = [
        Hit.of(memory(f"{name} text", key=name, created_at_ms=at), 0.5) for name, at in (("a", 1), ("b", 3), ("c", 2))
    ]

    assert [p.key for p in pack(found, 1_000).passages] == ["b", "c", "a"]


def test_no_more_passages_than_wanted_and_the_rest_says_why() -> None:
    packed = pack(hits("best", "second", "best"), 1_000, passages_max=1)

    assert [p.key for p in packed.passages] == ["m1"]
    assert packed.omitted == (Omitted(key="m2", reason="passages"), Omitted(key="m3", reason="passages"))
    assert not packed.lacks_room


@given(st.lists(st.text(alphabet="ab 1", min_size=1, max_size=30), max_size=8), st.integers(1, 8))
def test_what_is_packed_costs_what_it_says(contents: list[str], passages_max: int) -> None:
    packed = pack(hits(*contents), ROOM, passages_max)

    cost = sum(estimate_tokens(line + "\n") for line in build("?", packed.passages)[1]["content"].splitlines()[1:-2])
    assert packed.tokens == cost
    assert len(packed.passages) <= passages_max


def test_a_passage_is_dated_by_its_event_time() -> None:
    (passage,) = pack([Hit.of(memory("x", metadata={"event_time": "2026-09-16T14:05:00Z"}), 0.5)], ROOM).passages

    assert passage.date == "2026-09-16T14:05:00Z"
    assert passage.created_at == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize("event_time", [None, 1_760_000_000, "", ["2026"], '2026"\n[7] "', "x" * 41])
def test_an_event_time_that_is_no_short_plain_text_is_no_date(event_time: str | None) -> None:
    stored = memory("x", metadata={"event_time": event_time}, created_at_ms=1_789_567_500_123)

    (passage,) = pack([Hit.of(stored, 0.5)], ROOM).passages

    assert passage.date == "2026-09-16T14:05:00.123Z"
    assert passage.metadata == {"event_time": event_time}


def test_room_is_what_instructions_question_and_answer_leave_of_the_window() -> None:
    budget = plan("Why?", window_tokens=8_192, answer_tokens=2_000)

    assert 5_000 < budget.room_tokens < 8_192 - 2_000
    assert plan("Why? " * 100, window_tokens=8_192, answer_tokens=2_000).room_tokens < budget.room_tokens
    assert plan("Why?", window_tokens=8_192, answer_tokens=1_000).room_tokens == budget.room_tokens + 1_000


def test_a_question_that_leaves_no_room_is_refused_with_a_remedy() -> None:
    with pytest.raises(LimitExceeded, match=r"4,096 tokens; shorten the question, lower max_tokens") as caught:
        plan("Why?", window_tokens=4_096, answer_tokens=4_000)

    assert caught.value.field == "max_tokens"
