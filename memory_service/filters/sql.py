"""A filter as an SQL condition over the catalog's tables `memory m` and `attribute`; `?1` is the namespace.

`condition` is the whole filter, for queries that read memories. If only ids are wanted, `leaf_queries` gives the
queries of one condition, along the attributes' primary key, and `ids.py` combines their results.

The table `attribute` holds flattened metadata: one row for each value at each path with its JSON type, and one row with
element = 1 for each element of an array. Every comparison names the type, so SQLite never converts a value.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from memory_service.filters.grammar import AllOf, AnyOf, Contains, Exists, Filter, Not, OneOf, Ordered
from memory_service.metadata import canonical_json
from vector_memory.fields import JSON

Condition: TypeAlias = tuple[str, list[Any]]
Leaf: TypeAlias = OneOf | Ordered | Contains | Exists

OWN_COLUMNS = {
    "key": "m.key",
    "created_at": "m.created_at_ms",
    "updated_at": "m.stamp_ms",
    "expires_at": "m.expires_at_ms",
}
NULLABLE = {"expires_at"}
SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def typed(value: JSON) -> tuple[str, Any]:
    """Return a JSON value as (type, comparable value): number n, string s, boolean b, null z, array or object j."""
    match value:
        # bool comes before int, because True is an int in Python.
        case bool():
            return "b", int(value)
        case int() | float():
            return "n", value
        case str():
            return "s", value
        case None:
            return "z", 0
        case _:
            return "j", canonical_json(_with_unified_numbers(value))


def _with_unified_numbers(value: JSON) -> JSON:
    """Return the value with whole floats as integers, so that [1] and [1.0] are equal, as 1 and 1.0 are."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list() | tuple():
            return [_with_unified_numbers(element) for element in value]
        case Mapping():
            return {key: _with_unified_numbers(element) for key, element in value.items()}
    return value


def attributes(metadata: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, int, str, Any]]:
    """Yield the rows (path, element, type, value) of a metadata object."""
    for name, value in metadata.items():
        path = prefix + name
        yield (path, 0, *typed(value))
        match value:
            case list() | tuple():
                for element in value:
                    yield (path, 1, *typed(element))
            case Mapping():
                yield from attributes(value, f"{path}.")


def condition(filter: Filter) -> Condition:
    """Return an SQL condition that is true or false, never NULL, and its parameters."""
    match filter:
        case AllOf(parts):
            return _joined([condition(part) for part in parts], " AND ", "1")
        case AnyOf(parts):
            return _joined([condition(part) for part in parts], " OR ", "0")
        case Not(part):
            sql, parameters = condition(part)
            return f"NOT ({sql})", parameters
    if filter.field.own:
        return _own(filter)
    # The sets do not depend on the row, so SQLite computes each of them once.
    sets = [(f"m.id IN (SELECT id FROM attribute WHERE {sql})", values) for sql, values in _attributes_of(filter)]
    return _joined(sets, " OR ", "0")


def leaf_queries(leaf: Leaf) -> list[Condition]:
    """Return queries that together give the ids of the memories for which a condition holds.

    Each query has one value: ids joined by commas, in no order and possibly repeated; NULL for no ids.
    """
    if leaf.field.own:
        sql, parameters = _own(leaf)
        return [(f"SELECT group_concat(id) FROM memory m WHERE namespace = ?1 AND {sql}", parameters)]
    return [(f"SELECT group_concat(id) FROM attribute WHERE {sql}", values) for sql, values in _attributes_of(leaf)]


ALL_IDS = "SELECT group_concat(id) FROM memory WHERE namespace = ?1"
"""Query for all ids of a namespace, in the form of `leaf_queries`."""


def _joined(conditions: Sequence[Condition], joint: str, when_empty: str) -> Condition:
    sql = joint.join(f"({sql})" for sql, _ in conditions) or when_empty
    return sql, [parameter for _, parameters in conditions for parameter in parameters]


def _own(leaf: Leaf) -> Condition:
    """Return a condition on one of the memory's own fields."""
    column = OWN_COLUMNS[leaf.field.name]
    match leaf:
        case OneOf(_, values):
            sql, parameters = f"{column} IN ({_marks(values)})", list(values)
        case Ordered(_, operator, value):
            sql, parameters = f"{column} {SIGNS[operator]} ?", [value]
        case Contains(_, value):
            sql, parameters = f"instr({column}, ?) > 0", [value]
        case Exists():
            return f"{column} IS NOT NULL", []
    # NULL would make both a condition and its negation false.
    return (f"COALESCE({sql}, 0)" if leaf.field.name in NULLABLE else sql), parameters


def _attributes_of(leaf: Leaf) -> list[Condition]:
    """Conditions on rows of `attribute`. The leaf holds for a memory that has a row which meets one of them."""
    match leaf:
        case OneOf(_, values):
            # One query for each type among the values, since a row has exactly one type.
            by_type: dict[str, list[Any]] = {}
            for value in values:
                type_, comparable = typed(value)
                by_type.setdefault(type_, []).append(comparable)
            return [_attribute(leaf, 0, f"type = '{t}' AND value IN ({_marks(v)})", v) for t, v in by_type.items()]
        case Ordered(_, operator, value):
            return [_attribute(leaf, 0, f"type = '{typed(value)[0]}' AND value {SIGNS[operator]} ?", [value])]
        case Contains(_, value):
            type_, comparable = typed(value)
            conditions = [_attribute(leaf, 1, f"type = '{type_}' AND value = ?", [comparable])]
            if isinstance(value, str):
                # A string may be an element of an array, or a part of a text.
                conditions.append(_attribute(leaf, 0, "type = 's' AND instr(value, ?) > 0", [value]))
            return conditions
        case Exists():
            return [_attribute(leaf, 0, "1", [])]


def _attribute(leaf: Leaf, element: int, test: str, parameters: list[Any]) -> Condition:
    """Return a condition on rows of `attribute` at the leaf's path. Every query binds the namespace first."""
    return f"namespace = ?1 AND path = ? AND element = {element} AND {test}", [leaf.field.name, *parameters]


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
