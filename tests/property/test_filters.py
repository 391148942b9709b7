"""Filters against a naive oracle: whatever the filter and the metadata, SQL and plain Python agree."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service import metadata
from memory_service.clock import Stamp
from memory_service.filters import grammar as filters
from memory_service.filters.grammar import AllOf, AnyOf, Contains, Exists, Not, OneOf, Ordered, parse
from memory_service.filters.ids import ENTRY_IDS, RecentIds
from memory_service.journal.records import Put
from memory_service.projection.catalog import Catalog
from vector_memory.times import time_ms

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, -(2**63) + 1]),
    st.sampled_from([0.0, 1.0, 0.5, -0.0, 1e300]),
    st.sampled_from(["", "a", "b", "ab", "A", "1", "true", "é", "\x00", "a\x00b", "🔑"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
)
METADATA = st.dictionaries(st.sampled_from(["a", "b", "c", "a.x"]), VALUES, max_size=4)
TIMES = ["2026-09-14T08:00:00Z", "2026-09-14T08:00:00.001Z", "2026-09-14T10:00:00+02:00", "2026-09-15"]
MOMENTS = [time_ms(time, "") for time in TIMES]
TIME_FIELDS = ["created_at", "updated_at", "expires_at"]
TIME_OPERATORS = ["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists"]
OPERATORS = ["plain", "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$contains"]
FIELDS = st.sampled_from(["a", "b", "c", "a.x", "a.y", "metadata.a", "missing", "key"])


@st.composite
def conditions(draw):
    operator = draw(st.sampled_from(OPERATORS))
    field = draw(FIELDS)
    text = st.sampled_from(["k0", "k1", "k", "", "1"])
    value = draw(text if field == "key" else VALUES)
    ordered = draw(text if field == "key" else SCALARS.filter(lambda v: v is not None and not isinstance(v, bool)))
    match operator:
        case "plain":
            return {field: {"$eq": value} if isinstance(value, dict) else value}
        case "$in" | "$nin":
            return {field: {operator: draw(st.lists(text if field == "key" else VALUES, max_size=3))}}
        case "$gt" | "$gte" | "$lt" | "$lte":
            return {field: {operator: ordered}}
        case "$exists":
            return {field: {"$exists": draw(st.booleans())}}
    return {field: {operator: value}}


@st.composite
def time_conditions(draw):
    operator, time = draw(st.sampled_from(TIME_OPERATORS)), st.sampled_from(TIMES)
    operand = {"$in": st.lists(time, max_size=2), "$nin": st.lists(time, max_size=2), "$exists": st.booleans()}
    return {draw(st.sampled_from(TIME_FIELDS)): {operator: draw(operand.get(operator, time))}}


FILTERS = st.recursive(
    st.one_of(conditions(), conditions(), time_conditions()),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=6,
)


def kind(value):
    if value is None or isinstance(value, bool):
        return type(value)
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def equal(one, other):
    if kind(one) != kind(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


def values_at(data, path):
    """Every value that a flattened object has at a path."""
    for name, value in data.items():
        if name == path:
            yield value
        if isinstance(value, dict) and path.startswith(f"{name}."):
            yield from values_at(value, path[len(name) + 1 :])


def compares(operator, held, value):
    if kind(held) != kind(value):
        return False
    return {"$gt": held > value, "$gte": held >= value, "$lt": held < value, "$lte": held <= value}[operator]


def matches(wanted, own, data):
    """What the grammar's words mean, said as plainly as possible."""

    def held(field):
        if field.own:
            return [] if own[field.name] is None else [own[field.name]]
        return list(values_at(data, field.name))

    match wanted:
        case AllOf(parts):
            return all(matches(part, own, data) for part in parts)
        case AnyOf(parts):
            return any(matches(part, own, data) for part in parts)
        case Not(part):
            return not matches(part, own, data)
        case OneOf(field, values):
            return any(equal(value, wanted) for value in held(field) for wanted in values)
        case Ordered(field, operator, value):
            return any(compares(operator, found, value) for found in held(field))
        case Exists(field):
            return bool(held(field))
        case Contains(field, value):
            return any(
                (isinstance(found, list) and any(equal(element, value) for element in found))
                or (isinstance(found, str) and isinstance(value, str) and value in found)
                for found in held(field)
            )
    raise AssertionError(wanted)


@dataclass(frozen=True)
class Stored:
    key: str
    data: dict
    created: int
    stamp: int
    expires: int | None

    def put(self, namespace):
        text, none = metadata.canonical(self.data), np.empty((0, 4), np.float32)
        return Put(
            namespace=namespace,
            key=self.key,
            content="text",
            metadata=text,
            vectors=none,
            created_at_ms=self.created,
            expires_at_ms=self.expires,
        )

    def matches(self, wanted):
        own = {"key": self.key, "created_at": self.created, "updated_at": self.stamp, "expires_at": self.expires}
        return matches(wanted, own, json.loads(metadata.canonical(self.data)))


STORED = st.builds(
    Stored,
    st.sampled_from(["k0", "k1", "k2", "k3", "k4", "k5"]),
    METADATA,
    st.sampled_from(MOMENTS),
    st.sampled_from(MOMENTS),
    st.sampled_from([None, *MOMENTS]),
)


@given(everybody=st.lists(STORED, min_size=1, max_size=6, unique_by=lambda stored: stored.key), wanted=FILTERS)
def test_sql_matches_exactly_what_the_words_mean(everybody, wanted):
    catalog = Catalog()
    try:
        with catalog.transaction():
            for at, stored in enumerate(everybody):
                for namespace in ("ours", "theirs"):
                    stamp = Stamp(stored.stamp, at, "w")
                    catalog.put(at * 2 + (namespace == "theirs"), stored.put(namespace), stamp)
            catalog.commit()
        parsed = parse(wanted)
        expected = [at * 2 for at, stored in enumerate(everybody) if stored.matches(parsed)]
        assert catalog.matching_ids("ours", parsed).tolist() == expected
        assert catalog.matching_keys("ours", parsed) == sorted(everybody[at // 2].key for at in expected)
        assert {memory.key for memory in catalog.page("ours", parsed, 9, None)} == {
            everybody[at // 2].key for at in expected
        }
        then = MOMENTS[0]
        seen = [
            at
            for at in expected
            if everybody[at // 2].stamp <= then and (everybody[at // 2].expires or then + 1) > then
        ]
        assert catalog.matching_ids("ours", parsed, then).tolist() == seen
    finally:
        catalog.close()


@given(
    steps=st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "supersede", "undone"]), STORED), max_size=12),
    wanted=st.lists(FILTERS, min_size=1, max_size=4),
)
def test_what_is_kept_of_a_filter_is_what_a_fresh_look_finds_after_any_history(steps, wanted):
    """Every filter is asked after every change, so that each answer but the first could be an old one."""
    catalog, held, following = Catalog(), {}, 0
    filters_asked = [parse(one) for one in wanted]
    try:
        for what, stored in steps:
            following += 1
            with catalog.transaction():
                if (known := held.get(stored.key)) is not None:
                    if what == "supersede":
                        catalog.supersede(known[0], stored.stamp, np.empty((0, 4), np.float32))
                    else:
                        catalog.remove(known[0])
                if what in ("put", "supersede", "undone"):
                    catalog.put(following, stored.put("ours"), Stamp(stored.stamp, 0, "w"))
                if what != "undone":
                    catalog.commit()
                    held.pop(stored.key, None)
                    if what != "remove":
                        held[stored.key] = following, stored
            for parsed in filters_asked:
                expected = sorted(id for id, one in held.values() if one.matches(parsed))
                assert catalog.matching_ids("ours", parsed).tolist() == expected
                assert catalog.matching_ids("theirs", parsed).tolist() == []
    finally:
        catalog.close()


def test_ids_found_before_a_write_are_not_kept_after_it():
    recent, ids = RecentIds(), np.arange(3)
    _, epoch = recent.find("ours", "filter")
    recent.forget({"ours"})
    recent.keep("ours", "filter", ids, epoch)
    assert recent.find("ours", "filter")[0] is None


def test_a_write_to_one_namespace_leaves_what_is_kept_of_others():
    recent, ids = RecentIds(), np.arange(3)
    for namespace in ("ours", "theirs"):
        recent.keep(namespace, "filter", ids, recent.find(namespace, "filter")[1])
    recent.forget({"ours"})
    assert recent.find("ours", "filter")[0] is None
    assert recent.find("theirs", "filter")[0] is ids


def test_what_was_not_asked_for_longest_makes_room():
    recent = RecentIds(ids_max=2 * (ENTRY_IDS + 4))
    for name in ("one", "two"):
        recent.keep("ours", name, np.arange(4), 0)
    recent.find("ours", "one")
    recent.keep("ours", "three", np.arange(4), 0)
    recent.keep("ours", "too many", np.arange(2 * (ENTRY_IDS + 4)), 0)
    assert [recent.find("ours", name)[0] is not None for name in ("one", "two", "three", "too many")] == [
        True,
        False,
        True,
        False,
    ]


def test_filters_that_match_nothing_take_room_too():
    recent = RecentIds(ids_max=2 * ENTRY_IDS)
    for name in ("one", "two", "three"):
        recent.keep("ours", name, np.arange(0), 0)
    assert [recent.find("ours", name)[0] is not None for name in ("one", "two", "three")] == [False, True, True]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"$nor": []}, "filter.$nor"),
        ({"a": {"$regex": "x"}}, "filter.a.$regex"),
        ({"a": {"$gt": 1, "b": 2}}, "filter.a.b"),
        ({"$and": {"a": 1}}, "filter.$and"),
        ({"$or": []}, "filter.$or"),
        ({"$or": [{"a": 1}, {"b": {"$in": 5}}]}, "filter.$or[1].b.$in"),
        ({"a": {"$exists": "yes"}}, "filter.a.$exists"),
        ({"a": {"$gt": True}}, "filter.a.$gt"),
        ({"a": {"$gt": None}}, "filter.a.$gt"),
        ({"a": {"$eq": float("nan")}}, "filter.a.$eq"),
        ({"a": 2**64}, "filter.a"),
        ({"created_at": 5}, "filter.created_at"),
        ({"created_at": {"$gte": "yesterday"}}, "filter.created_at.$gte"),
        ({"created_at": {"$gte": "2026-09-14T08:00:00"}}, "filter.created_at.$gte"),
        ({"key": 5}, "filter.key"),
        ({"created_at": {"$contains": "2026"}}, "filter.created_at.$contains"),
        ({"a": {"$not": 5}}, "filter.a.$not"),
        ({"metadata.": 5}, "filter.metadata."),
        ([], "filter"),
    ],
)
def test_what_is_wrong_with_a_filter_is_named_by_its_path(wanted, field):
    with pytest.raises(filters.InvalidInput) as caught:
        parse(wanted)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wanted",
    [
        {"$or": [{"a": 1}] * 1_000},
        {"a": {"$in": list(range(10_000))}},
        json.loads('{"$not":' * 100 + "{}" + "}" * 100),
    ],
)
def test_filters_are_bounded(wanted):
    with pytest.raises(filters.InvalidInput, match=r"at most|deeper"):
        parse(wanted)
