"""What the comparison with peers works out of what it measured."""

import dataclasses

import pytest

from benchmarks.conversations import Turn
from benchmarks.figures import Latencies, rendered
from benchmarks.peers import evidence, report, work
from benchmarks.peers.work import Done, Kill

QUICK = Latencies(10.0, 20.0, 50)
STEADY = Latencies(10.0, 10.0, 50)


def done(**changed):
    plain = Done(
        bare_p50_ms=2.0,
        bulk_per_s=100.0,
        single=QUICK,
        started_s=1.0,
        retrieve=QUICK,
        crowd=QUICK,
        crowd_per_s=100.0,
        filtered=(),
        resident_bytes=200_000_000,
        kills=(Kill(20, 0),),
    )
    return dataclasses.replace(plain, **changed)


def losses(**theirs):
    return report.losses({report.OURS: done(), "theirs": done(**theirs)})


def test_no_loss_is_named_where_both_are_alike():
    assert losses() == ["No peer is better in any row."]


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ({"bulk_per_s": 200.0}, "We lose to theirs (0.50x): store in bulk, texts/s."),
        ({"resident_bytes": 100_000_000}, "We lose to theirs (2.00x): resident memory, MB."),
        ({"retrieve": STEADY}, "We lose to theirs (2.00x): retrieve, p99 ms."),
    ],
)
def test_a_loss_is_named_where_a_rate_is_higher_or_a_time_shorter(theirs, sentence):
    assert losses(**theirs) == [sentence]


def test_a_gain_is_no_loss():
    assert losses(bulk_per_s=50.0, started_s=3.0) == ["No peer is better in any row."]


def judged(found, matching, k=3):
    return work.judged(found, set(matching), k, QUICK)


def test_an_answer_with_all_that_is_due_is_not_short():
    one = judged([["a", "b", "c"], ["c", "d", "a"]], "abcd")
    assert (one.due, one.returned, one.wrong, one.short) == (6, 6, 0, 0)


def test_fewer_matches_than_asked_for_are_all_due():
    one = judged([["a"], []], "a")
    assert (one.due, one.returned, one.wrong, one.short) == (2, 1, 0, 1)


def test_what_does_not_match_is_counted_as_wrong_and_not_as_returned():
    one = judged([["a", "x", "b"]], "abc")
    assert (one.due, one.returned, one.wrong, one.short) == (3, 2, 1, 1)


def test_what_comes_back_twice_counts_once():
    one = judged([["a", "a", "a"]], "abc")
    assert (one.returned, one.wrong, one.short) == (1, 2, 1)


def test_the_work_is_shared_out_without_a_line_in_two_places():
    plan = work.QUICK
    lines = [f"line {number} says something that nobody else says" for number in range(plan.texts)]
    shares = work.split(lines, plan)
    stored = [*shares.filled, *shares.bulk, *shares.singles, *(one for some in shares.killed for one in some)]
    assert (len(shares.filled) + len(shares.bulk), len(shares.singles)) == (plan.memories, plan.singles)
    assert [len(some) for some in shares.killed] == [plan.killed] * plan.kills
    assert len({one["id"] for one in stored}) == len({one["text"] for one in stored}) == len(stored)
    assert not set(shares.queries) & {one["text"] for one in stored}


def test_the_rarest_filter_matches_a_thousandth_of_the_memories():
    lines = [f"line {number}" for number in range(work.FULL.texts)]
    shares = work.split(lines, work.FULL)
    held = [*shares.filled, *shares.bulk]
    counts = [sum(equal.items() <= one["metadata"].items() for one in held) for equal in work.FILTERS]
    assert counts == [1_000, 100, 10]


def test_a_peer_that_did_not_open_again_is_said_to_have_lost_its_store():
    table = list(report.tables([], {report.OURS: done(), "theirs": done(kills=(Kill(20, 0), Kill(20, None)))}))[-1]
    assert table.rows == ((report.OURS, "1", "20", "0"), ("theirs", "2", "40", "did not open again"))
    assert "did not open again" in rendered(table)


def test_a_turn_says_its_day_and_speaker_where_metadata_does_not_rank():
    turn = Turn("D1:3", "I moved to Bern.", "Dana", "session_1", "2023-05-08T13:56:00")
    assert evidence.DATED.memory(turn)["text"] == "8 May 2023, Dana: I moved to Bern."
    assert evidence.WITH_METADATA.memory(turn)["metadata"]["event_time"] == "2023-05-08T13:56:00"
