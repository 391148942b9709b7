"""What a caller can ask of retrieve beside a query, over the real model."""

from datetime import UTC, datetime, timedelta

import pytest

from memory_service.retrieval import searching
from memory_service.retrieval.selection import POOL_MIN
from vector_memory.errors import InvalidInput, NotFound
from vector_memory.memories import NewMemory
from vector_memory.retrieval import RETRIEVALS, Mode, Retrieval

NOW = datetime.now(UTC)
CATS = ["A cat sleeps on the sofa.", "The cat is asleep on the couch.", "On the sofa a cat is sleeping."]


def days_ago(days):
    return (NOW - timedelta(days=days)).isoformat()


def keys(found):
    return [hit.memory.key for hit in found.hits]


def store(service, *memories):
    service.store_batch([NewMemory(content=content, key=key, metadata=metadata) for key, content, metadata in memories])


@pytest.fixture
def meetings(service):
    """The same words at different times, sessions and importances."""
    store(
        service,
        *(
            (
                f"m{at}",
                f"The team met about the budget, take {at}.",
                {"event_time": days_ago(at), "session_id": f"s{at % 3}", "importance": at / 10},
            )
            for at in range(10)
        ),
    )
    return service


@pytest.mark.parametrize("mode", Mode)
def test_a_score_falls_by_half_in_each_half_life(meetings, mode):
    plain = Retrieval(query="team budget", k=10, mode=mode, explain=True)
    before = {hit.memory.key: hit.score for hit in meetings.retrieve(plain).hits}
    found = meetings.retrieve(Retrieval(query="team budget", k=10, mode=mode, recency_half_life_days=2))
    for hit in found.hits:
        days = int(hit.memory.key[1:])
        assert hit.score == pytest.approx(before[hit.memory.key] * 0.5 ** (days / 2), rel=0.01)
    assert (
        keys(meetings.retrieve(Retrieval(query="team budget", k=3, mode=mode, recency_half_life_days=0.1)))[0] == "m0"
    )


@pytest.mark.parametrize("mode", Mode)
def test_importance_is_added_as_far_as_it_is_asked_for(meetings, mode):
    found = meetings.retrieve(Retrieval(query="team budget", k=4, mode=mode, importance_weight=1))
    assert keys(found)[0] == "m9"
    plain = {
        hit.memory.key: hit.score for hit in meetings.retrieve(Retrieval(query="team budget", k=10, mode=mode)).hits
    }
    assert found.hits[0].score == pytest.approx(plain["m9"] + 0.9, abs=1e-5)


@pytest.mark.parametrize("importance", [7, -3, "high", True, None, [1]])
def test_an_importance_that_is_none_is_passed_over_and_others_are_taken_as_0_to_1(service, importance):
    store(service, ("odd", CATS[0], {"importance": importance}), ("plain", CATS[1], {}))
    found = service.retrieve(Retrieval(query="cat", importance_weight=0.5, explain=True, k=2))
    by_key = dict(zip(keys(found), found.explanation.signals, strict=True))
    assert by_key["odd"]["importance"] == (0.5 if importance == 7 else 0)
    assert by_key["plain"]["importance"] == 0


def test_what_is_recent_is_found_though_two_hundred_others_match_better(service):
    store(service, *((f"old{at}", f"quagga {at}", {"event_time": days_ago(1000)}) for at in range(230)))
    store(service, ("new", "A zebra was seen.", {"event_time": days_ago(0)}))
    assert "new" not in keys(service.retrieve(Retrieval(query="quagga", k=200)))
    assert keys(service.retrieve(Retrieval(query="quagga", k=1, recency_half_life_days=10))) == ["new"]


def test_diversity_puts_what_was_said_already_behind_what_was_not(service):
    store(service, *((f"cat{at}", text, {}) for at, text in enumerate(CATS)), ("dog", "A dog sleeps in the hall.", {}))
    question = "a cat on the sofa"
    assert "dog" not in keys(service.retrieve(Retrieval(query=question, k=3)))
    varied = keys(service.retrieve(Retrieval(query=question, k=3, diversity=0.5)))
    assert varied[0] == keys(service.retrieve(Retrieval(query=question, k=1)))[0]
    assert "dog" in varied
    assert len(service.retrieve(Retrieval(query=question, k=10, diversity=1)).hits) == 4, "k is filled all the same"


def test_of_one_session_come_at_most_so_many_and_k_is_filled_from_the_others(meetings):
    found = meetings.retrieve(Retrieval(query="team budget", k=6, per_session=2))
    sessions = [hit.memory.metadata["session_id"] for hit in found.hits]
    assert sorted(sessions) == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert len(meetings.retrieve(Retrieval(query="team budget", k=10, per_session=1)).hits) == 3


def test_a_crowded_session_does_not_hide_the_others_behind_it(service):
    store(service, *((f"q{at}", f"quagga {at}", {"session_id": "big"}) for at in range(300)))
    store(service, *((f"z{at}", f"A zebra, {at}.", {"session_id": f"s{at}"}) for at in range(3)))
    found = keys(service.retrieve(Retrieval(query="quagga", k=4, per_session=1)))
    assert found[0].startswith("q")
    assert sorted(found[1:]) == ["z0", "z1", "z2"]


def test_memories_without_session_and_time_are_not_limited(service):
    store(service, *((f"cat{at}", text, {}) for at, text in enumerate(CATS)))
    assert len(service.retrieve(Retrieval(query="cat", k=3, per_session=1)).hits) == 3


def test_what_is_good_enough_is_looked_for_no_further_than_there_can_be_more_of_it(service, monkeypatch):
    service.store_batch(
        [NewMemory(content=f"note {at} of the cat", metadata={"session_id": str(at)}) for at in range(300)]
    )
    ranked, asked_for = searching.rank, []

    def counted(*given):
        asked_for.append(given[-1])
        return ranked(*given)

    monkeypatch.setattr(searching, "rank", counted)
    asked = Retrieval(query="cat", k=5, per_session=1, mode=Mode.DENSE, min_score=0.999)
    assert not service.retrieve(asked).hits
    assert asked_for == [POOL_MIN]


def test_a_span_of_time_goes_by_the_event_and_else_by_the_storing(meetings):
    store(meetings, ("now", "The team met about the budget just now.", {}))
    span = {"after": days_ago(4.5), "before": days_ago(1.5)}
    assert sorted(keys(meetings.retrieve(Retrieval(query="team budget", k=20, **span)))) == ["m2", "m3", "m4"]
    assert sorted(keys(meetings.retrieve(Retrieval(query="budget", k=20, after=days_ago(0.5))))) == ["m0", "now"]
    both = Retrieval(query="budget", k=20, **span, filter={"session_id": "s0"})
    assert keys(meetings.retrieve(both)) == ["m3"]
    assert meetings.retrieve(Retrieval(query="budget", before="2001-01-01")).hits == ()


def test_as_many_whole_memories_come_as_fit_and_the_rest_is_told(service):
    store(service, ("long", "A cat sat down. " * 50, {}), ("short", CATS[0], {}), ("other", CATS[1], {}))
    found = service.retrieve(Retrieval(query="cat", k=3, max_tokens=40))
    assert sorted(keys(found)) == ["other", "short"]
    assert found.truncated
    assert 0 < found.tokens <= 40
    whole = service.retrieve(Retrieval(query="cat", k=3, max_tokens=10_000))
    assert (len(whole.hits), whole.truncated) == (3, False)
    assert service.retrieve(Retrieval(query="cat", max_tokens=1)).hits == ()


def test_a_batch_gives_what_its_queries_give_one_by_one(meetings):
    asked = [
        Retrieval(query="team budget", k=3),
        Retrieval(query="nothing of the kind", namespace="elsewhere"),
        Retrieval(query="budget", k=2, mode=Mode.DENSE, filter={"session_id": "s1"}),
        Retrieval(like="m3", k=2),
    ]
    found, alone = meetings.retrieve_batch(asked), [meetings.retrieve(each) for each in asked]
    assert [keys(each) for each in found] == [keys(each) for each in alone]
    with pytest.raises(InvalidInput, match="100"):
        meetings.retrieve_batch([Retrieval(query="x")] * (RETRIEVALS.most + 1))
    with pytest.raises(InvalidInput, match="queries"):
        meetings.retrieve_batch([])


@pytest.mark.parametrize("mode", [None, *Mode])
def test_more_like_this_finds_the_others_and_not_the_memory_itself(service, mode):
    store(service, *((f"cat{at}", text, {}) for at, text in enumerate(CATS)), ("dog", "The budget was cut.", {}))
    found = keys(service.retrieve(Retrieval(like="cat0", k=10, mode=mode)))
    assert sorted(found) == ["cat1", "cat2", "dog"]
    assert found[2] == "dog"
    assert keys(service.retrieve(Retrieval(like="cat0", k=10, filter={"key": "dog"}))) == ["dog"]
    with pytest.raises(NotFound) as caught:
        service.retrieve(Retrieval(like="nobody"))
    assert caught.value.field == "like"


@pytest.mark.parametrize("mode", Mode)
def test_the_signals_of_an_explanation_add_up_to_the_score(meetings, mode):
    asked = Retrieval(query="when did the team meet?", k=10, mode=mode, explain=True, recency_half_life_days=3)
    found = meetings.retrieve(asked)
    assert len(found.explanation.signals) == len(found.hits) == 10
    for hit, signals in zip(found.hits, found.explanation.signals, strict=True):
        parts = [value for name, value in signals.items() if name != "key"]
        assert (signals["key"], sum(parts)) == (hit.key, pytest.approx(hit.score, abs=1e-5))


def test_an_explanation_counts_what_each_condition_of_the_filter_matches(meetings):
    wanted = {"session_id": "s0", "$or": [{"importance": {"$gte": 0.5}}, {"key": "m0"}]}
    found = meetings.retrieve(Retrieval(query="budget", filter=wanted, explain=True)).explanation
    assert (found.memories, found.candidates) == (10, 3)
    assert (found.filter.shown, found.filter.matches) == ("$and", 3)
    session, either = found.filter.parts
    assert (session.shown, session.matches) == ('{"session_id":{"$eq":"s0"}}', 4)
    assert (either.shown, either.matches, [part.matches for part in either.parts]) == ("$or", 6, [5, 1])


@pytest.mark.parametrize(
    ("asked", "key", "reason"),
    [
        ({}, "nobody", "missing"),
        ({"filter": {"session_id": "s0"}}, "m1", "filter"),
        ({"after": days_ago(1.5)}, "m5", "time"),
        ({"k": 1}, "least", "rank"),
        ({"min_score": 0.99}, "least", "min_score"),
        ({"min_relevance": 1.0}, "least", "min_relevance"),
        ({"k": 20, "max_tokens": 1}, "m1", "max_tokens"),
        ({"k": 20}, "m1", "came_back"),
    ],
)
def test_why_a_memory_did_not_come_back_is_told(meetings, asked, key, reason):
    store(meetings, ("least", "Rain is expected.", {}))
    found = meetings.retrieve(Retrieval(query="team budget", why_not=key, **asked)).explanation.why_not
    assert (found.key, found.reason) == (key, reason)
    assert found.message.endswith(".")
    assert (found.rank is None) == (reason in ("missing", "filter", "time"))


def test_why_not_tells_of_places_that_others_took(service):
    store(service, *((f"q{at}", f"quagga {at}", {"session_id": "one"}) for at in range(5)))
    store(service, ("z", "A zebra.", {"session_id": "two"}))
    came = keys(service.retrieve(Retrieval(query="quagga", k=2, per_session=1)))
    [left] = {f"q{at}" for at in range(2)} - set(came) if "q0" in came or "q1" in came else ["q0"]
    told = service.retrieve(Retrieval(query="quagga", k=2, per_session=1, why_not=left)).explanation.why_not
    assert told.reason == "per_session"
    itself = service.retrieve(Retrieval(like="q1", why_not="q1")).explanation.why_not
    assert itself.reason == "is_itself"


def test_near_duplicates_are_reported_once_and_nothing_is_merged(service):
    store(service, ("a", CATS[0], {}))
    store(service, ("b", CATS[0] + " ", {}), ("c", "The budget was cut.", {}))
    store(service, ("long1", CATS[0] * 80 + "The end.", {}), ("long2", CATS[0] * 80 + "The end.", {}))
    found = service.near_duplicates(threshold=0.9)
    pairs = {frozenset((each.key, other.key)) for each in found.duplicates for other in each.alike}
    assert {frozenset("ab"), frozenset(("long1", "long2"))} <= pairs
    assert not any("c" in pair for pair in pairs)
    assert sum(len(each.alike) for each in found.duplicates) == len(pairs)
    assert service.counts() == {"default": 5}
    assert service.near_duplicates(namespace="nobody").duplicates == ()
    assert all(other.score >= 0.9 for each in found.duplicates for other in each.alike)


def test_pages_of_near_duplicates_give_what_one_page_gives(service):
    store(service, *((f"k{at}", f"Cat number {at} sleeps on the sofa.", {}) for at in range(30)))
    whole = service.near_duplicates(threshold=0.9, limit=1_000)
    found, cursor = [], None
    while True:
        page = service.near_duplicates(threshold=0.9, limit=7, cursor=cursor)
        found += page.duplicates
        cursor = page.cursor
        if cursor is None:
            break
    assert found == list(whole.duplicates)
    assert found


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"query": None}, "query"),
        ({"like": "k"}, "query"),
        ({"k": 0}, "k"),
        ({"recency_half_life_days": 0}, "recency_half_life_days"),
        ({"recency_half_life_days": float("nan")}, "recency_half_life_days"),
        ({"importance_weight": -1}, "importance_weight"),
        ({"diversity": 1.01}, "diversity"),
        ({"diversity": True}, "diversity"),
        ({"per_session": 0}, "per_session"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"after": "yesterday"}, "after"),
        ({"before": 5}, "before"),
        ({"after": "2026-01-02", "before": "2026-01-02"}, "before"),
        ({"filter": {"a": {"$near": 1}}}, "filter.a.$near"),
        ({"why_not": ""}, "why_not"),
        ({"min_relevance": 0.5, "mode": Mode.DENSE}, "min_relevance"),
        ({"as_of": "2026-01-01", "diversity": 0.5}, "diversity"),
        ({"as_of": "2026-01-01", "after": "2026-01-01"}, "after"),
        ({"as_of": "2026-01-01", "explain": True}, "explain"),
    ],
)
def test_what_is_wrong_with_a_control_is_named(meetings, arguments, field):
    with pytest.raises(InvalidInput) as caught:
        meetings.retrieve(Retrieval(**{"query": "x", **arguments}))
    assert caught.value.field == field


def test_a_threshold_out_of_bounds_is_named(service):
    with pytest.raises(InvalidInput) as caught:
        service.near_duplicates(threshold=0.2)
    assert caught.value.field == "threshold"
