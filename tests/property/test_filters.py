"""Filters against a naive oracle: whatever the filter and the metadata, SQL and plain Python agree."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service import filters, metadata
from memory_service.catalog import Catalog
from memory_service.clock import Stamp
from memory_service.filters import AllOf, AnyOf, Contains, Exists, Not, OneOf, Ordered, parse
from memory_service.records import Put

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


FILTERS = st.recursive(
    conditions(),
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


def matches(wanted, key, data):
    """What the grammar's words mean, said as plainly as possible."""

    def held(field):
        return [key] if field.own else list(values_at(data, field.name))

    match wanted:
        case AllOf(parts):
            return all(matches(part, key, data) for part in parts)
        case AnyOf(parts):
            return any(matches(part, key, data) for part in parts)
        case Not(part):
            return not matches(part, key, data)
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


@settings(max_examples=300, deadline=None)
@given(everybody=st.lists(METADATA, min_size=1, max_size=6), wanted=FILTERS)
def test_sql_matches_exactly_what_the_words_mean(everybody, wanted):
    catalog = Catalog()
    try:
        with catalog.transaction():
            for at, data in enumerate(everybody):
                for namespace in ("ours", "theirs"):
                    text = metadata.canonical(data)
                    put = Put(namespace, f"k{at}", "text", text, np.empty((0, 4), np.float32), 1_000, None)
                    catalog.put(at * 2 + (namespace == "theirs"), put, Stamp(1_000, at, "w"))
            catalog.commit()
        parsed = parse(wanted)
        found = sorted(catalog.matching_ids("ours", parsed).tolist())
        kept = [json.loads(metadata.canonical(data)) for data in everybody]
        assert found == [at * 2 for at, data in enumerate(kept) if matches(parsed, f"k{at}", data)]
        assert catalog.matching_keys("ours", parsed) == sorted(f"k{at // 2}" for at in found)
    finally:
        catalog.close()


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
