"""A filter as an SQL condition over the catalog's tables `memory m` and `attribute`; `?1` is the namespace.

Metadata are kept flattened in `attribute`: one row for each value at each path, with its JSON type beside it, and one
row with element = 1 for each element of an array. Every comparison names the type, so none of SQLite's conversions can
take part.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from memory_service.filters import AllOf, AnyOf, Contains, Exists, Field, Filter, Not, OneOf, Ordered
from memory_service.metadata import canonical_json
from memory_service.model import JSON

Condition: TypeAlias = tuple[str, list[Any]]

OWN_COLUMNS = {
    "key": "m.key",
    "created_at": "m.created_at_ms",
    "updated_at": "m.stamp_ms",
    "expires_at": "m.expires_at_ms",
}
SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def typed(value: JSON) -> tuple[str, Any]:
    """A JSON value as (type, comparable value): number n, string s, boolean b, null z, array or object j."""
    match value:
        case bool():
            return "b", int(value)
        case int() | float():
            return "n", value
        case str():
            return "s", value
        case None:
            return "z", 0
        case _:
            return "j", canonical_json(_numbers_unified(value))


def _numbers_unified(value: JSON) -> JSON:
    """Whole floats as integers, so that [1] and [1.0] are equal, as 1 and 1.0 are."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list() | tuple():
            return [_numbers_unified(element) for element in value]
        case Mapping():
            return {key: _numbers_unified(element) for key, element in value.items()}
    return value


def attributes(metadata: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, int, str, Any]]:
    """The rows (path, element, type, value) of a metadata object."""
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
    """An SQL condition that is true or false, never NULL, and its parameters."""
    match filter:
        case AllOf(parts):
            return _joined(parts, " AND ", "1")
        case AnyOf(parts):
            return _joined(parts, " OR ", "0")
        case Not(part):
            sql, parameters = condition(part)
            return f"NOT ({sql})", parameters
        case OneOf(field, values):
            return _one_of(field, values)
        case Ordered(field, operator, value):
            return _ordered(field, SIGNS[operator], value)
        case Contains(field, value):
            return _contains(field, value)
        case Exists(field):
            return _exists(field)


def _joined(parts: tuple[Filter, ...], joint: str, when_empty: str) -> Condition:
    conditions = [condition(part) for part in parts]
    sql = joint.join(f"({sql})" for sql, _ in conditions) or when_empty
    return sql, [parameter for _, parameters in conditions for parameter in parameters]


def _one_of(field: Field, values: tuple[JSON, ...]) -> Condition:
    if field.own:
        marks = ",".join("?" * len(values))
        return f"COALESCE({OWN_COLUMNS[field.name]} IN ({marks}), 0)", list(values)
    by_type: dict[str, list[Any]] = {}
    for value in values:
        type_, comparable = typed(value)
        by_type.setdefault(type_, []).append(comparable)
    tests = [f"type = '{type_}' AND value IN ({','.join('?' * len(found))})" for type_, found in by_type.items()]
    parameters = [value for found in by_type.values() for value in found]
    return _some_attribute(field, 0, " OR ".join(f"({test})" for test in tests) or "0", parameters)


def _ordered(field: Field, sign: str, value: int | float | str) -> Condition:
    if field.own:
        return f"COALESCE({OWN_COLUMNS[field.name]} {sign} ?, 0)", [value]
    return _some_attribute(field, 0, f"type = '{typed(value)[0]}' AND value {sign} ?", [value])


def _contains(field: Field, value: JSON) -> Condition:
    if field.own:
        return f"instr({OWN_COLUMNS[field.name]}, ?) > 0", [value]
    type_, comparable = typed(value)
    has_element, parameters = _some_attribute(field, 1, f"type = '{type_}' AND value = ?", [comparable])
    if not isinstance(value, str):
        return has_element, parameters
    has_substring, more = _some_attribute(field, 0, "type = 's' AND instr(value, ?) > 0", [value])
    return f"({has_element}) OR ({has_substring})", parameters + more


def _exists(field: Field) -> Condition:
    if field.own:
        return f"{OWN_COLUMNS[field.name]} IS NOT NULL", []
    return _some_attribute(field, 0, "1", [])


def _some_attribute(field: Field, element: int, test: str, parameters: list[Any]) -> Condition:
    """Whether the memory has an attribute at the field's path that passes the test.

    The set does not depend on the row, so SQLite finds it once, along the attribute's primary key. `?1` is the
    namespace, which every query binds first.
    """
    chosen = f"namespace = ?1 AND path = ? AND element = {element} AND ({test})"
    return f"m.id IN (SELECT id FROM attribute WHERE {chosen})", [field.name, *parameters]
