"""Filters: a small JSON grammar for conditions on memories.

    {"lead": "acme"}                                    the field equals the value
    {"importance": {"$gte": 0.5, "$lt": 0.9}}           several conditions on a field: all must hold
    {"tags": {"$contains": "vip"}}                      an array has the element; a string has the substring
    {"$or": [{"kind": {"$in": ["call", "email"]}}, {"$not": {"won": {"$exists": true}}}]}

A field is a path into the metadata, levels joined by dots (`contact.role`). `key`, `created_at`, `updated_at` and
`expires_at` are the memory's own; metadata of these names is reached as `metadata.key` and so on. Times are compared
with ISO 8601 strings (`2026-09-14` or `2026-09-14T08:00:00Z`).

Comparison is typed: a number never equals a string, `true` is not 1, and ordering holds between two numbers or two
strings (by code point) only. `$ne` and `$nin` are the exact opposites of `$eq` and `$in`, so they also match memories
without the field; `null` equals an explicit null only, and `$exists` tells absence.

This module parses and checks. `sql.py` turns the result into SQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from memory_service import metadata
from vector_memory.errors import InvalidInput
from vector_memory.fields import JSON, check_text
from vector_memory.times import time_ms

DEPTH_MAX = 16
NODES_MAX = 300
OPERANDS_MAX = 2_000
"""Bounds of one filter: levels of nesting, conditions in all, and values to compare with in all."""

TIME_FIELDS = ("created_at", "updated_at", "expires_at")
OWN_FIELDS = ("key", *TIME_FIELDS)
METADATA_PREFIX = "metadata."

Ordering = Literal["$gt", "$gte", "$lt", "$lte"]


@dataclass(frozen=True, slots=True)
class Field:
    """The subject of a condition: one of the memory's own fields, or a path into its metadata."""

    name: str
    own: bool


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field equals one of the values (`$eq`, `$in`)."""

    field: Field
    values: tuple[JSON, ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The field compares with the value by the operator; both are numbers or both are strings."""

    field: Field
    operator: Ordering
    value: int | float | str


@dataclass(frozen=True, slots=True)
class Contains:
    """The field is an array with this element, or a string with this substring."""

    field: Field
    value: JSON


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is present; its value may be null."""

    field: Field


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds. Without parts, everything matches."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Filter"


Filter: TypeAlias = OneOf | Ordered | Contains | Exists | AllOf | AnyOf | Not

EVERYTHING = AllOf(())


def parse(raw: Mapping[str, JSON] | None) -> Filter:
    """Parse a filter; None and {} match everything.

    Raises:
        InvalidInput: the field is the path of the offending node, such as `filter.$or[1].price.$gt`.
    """
    if raw is None:
        return EVERYTHING
    parser = _Parser()
    return parser.filter(raw, "filter", 0)


class _Parser:
    """Parses one filter and counts its conditions and values against the bounds."""

    def __init__(self) -> None:
        self._nodes = 0
        self._operands = 0

    def filter(self, raw: Any, path: str, depth: int) -> Filter:
        if not isinstance(raw, Mapping):
            raise InvalidInput(f'{path} must be an object such as {{"field": value}}.', field=path)
        if depth > DEPTH_MAX:
            raise InvalidInput(f"{path} is nested deeper than {DEPTH_MAX} levels.", field=path)
        self._count_node(path)
        return _all([self._entry(name, value, f"{path}.{name}", depth) for name, value in raw.items()])

    def _entry(self, name: str, value: Any, path: str, depth: int) -> Filter:
        match name:
            case "$and":
                return AllOf(self._list(value, path, depth))
            case "$or":
                return AnyOf(self._list(value, path, depth))
            case "$not":
                return Not(self.filter(value, path, depth + 1))
        if name.startswith("$"):
            raise InvalidInput(f"{path}: unknown operator {name!r}; here only $and, $or, $not or a field.", field=path)
        check_text(name, path)
        return self._conditions_on(_field(name, path), value, path, depth)

    def _list(self, raw: Any, path: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(raw, list | tuple) or not raw:
            raise InvalidInput(f"{path} must be a list of at least one filter.", field=path)
        return tuple(self.filter(part, f"{path}[{at}]", depth + 1) for at, part in enumerate(raw))

    def _conditions_on(self, field: Field, raw: Any, path: str, depth: int) -> Filter:
        # An object without operators is a value to compare with, as in {"address": {"city": "Ulm"}}.
        if not isinstance(raw, Mapping) or not any(str(name).startswith("$") for name in raw):
            return OneOf(field, (self._operand(field, raw, path),))
        if depth > DEPTH_MAX:
            raise InvalidInput(f"{path} is nested deeper than {DEPTH_MAX} levels.", field=path)
        return _all([self._condition(field, name, value, f"{path}.{name}", depth) for name, value in raw.items()])

    def _condition(self, field: Field, operator: str, value: Any, path: str, depth: int) -> Filter:
        self._count_node(path)
        match operator:
            case "$eq":
                return OneOf(field, (self._operand(field, value, path),))
            case "$ne":
                return Not(OneOf(field, (self._operand(field, value, path),)))
            case "$in":
                return OneOf(field, self._operands_of(field, value, path))
            case "$nin":
                return Not(OneOf(field, self._operands_of(field, value, path)))
            case "$gt" | "$gte" | "$lt" | "$lte":
                return self._ordered(field, operator, value, path)
            case "$contains":
                return self._contains(field, value, path)
            case "$exists":
                if not isinstance(value, bool):
                    raise InvalidInput(f"{path} must be true or false.", field=path)
                return Exists(field) if value else Not(Exists(field))
            case "$not":
                if not isinstance(value, Mapping):
                    raise InvalidInput(f"{path} must be an object of conditions.", field=path)
                return Not(self._conditions_on(field, value, path, depth + 1))
        raise InvalidInput(
            f"{path}: unknown operator {operator!r}; known are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, "
            "$contains, $not.",
            field=path,
        )

    def _ordered(self, field: Field, operator: Ordering, raw: Any, path: str) -> Ordered:
        value = self._operand(field, raw, path)
        # true would otherwise count as the number 1.
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InvalidInput(f"{path} compares with a number or a string only.", field=path)
        return Ordered(field, operator, value)

    def _contains(self, field: Field, raw: Any, path: str) -> Contains:
        if field.own and (field.name != "key" or not isinstance(raw, str)):
            raise InvalidInput(
                f"{path}: $contains needs a list or text; of the own fields only key takes it, with a string.",
                field=path,
            )
        return Contains(field, self._operand(field, raw, path))

    def _operands_of(self, field: Field, raw: Any, path: str) -> tuple[JSON, ...]:
        if not isinstance(raw, list | tuple):
            raise InvalidInput(f"{path} must be a list of values.", field=path)
        return tuple(self._operand(field, value, f"{path}[{at}]") for at, value in enumerate(raw))

    def _operand(self, field: Field, raw: Any, path: str) -> Any:
        self._count_operand(path)
        # What metadata cannot hold cannot be compared with them.
        metadata.check(raw, path)
        if field.own and field.name in TIME_FIELDS:
            return time_ms(raw, path)
        if field.own and not isinstance(raw, str):
            raise InvalidInput(f"{path}: {field.name} is text; compare it with a string.", field=path)
        return raw

    def _count_node(self, path: str) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise InvalidInput(f"{path}: a filter has at most {NODES_MAX} conditions.", field=path)

    def _count_operand(self, path: str) -> None:
        self._operands += 1
        if self._operands > OPERANDS_MAX:
            raise InvalidInput(f"{path}: a filter has at most {OPERANDS_MAX} values.", field=path)


def to_json(filter: Filter) -> str:
    """Return a filter as JSON text in this grammar. Times are in milliseconds instead of ISO 8601."""
    return metadata.canonical_json(_raw(filter))


def _raw(filter: Filter) -> Any:
    match filter:
        case AllOf(parts):
            return {"$and": [_raw(part) for part in parts]}
        case AnyOf(parts):
            return {"$or": [_raw(part) for part in parts]}
        case Not(part):
            return {"$not": _raw(part)}
        case OneOf(field, (value,)):
            return {_name(field): {"$eq": value}}
        case OneOf(field, values):
            return {_name(field): {"$in": list(values)}}
        case Ordered(field, operator, value):
            return {_name(field): {operator: value}}
        case Contains(field, value):
            return {_name(field): {"$contains": value}}
        case Exists(field):
            return {_name(field): {"$exists": True}}


def _name(field: Field) -> str:
    return METADATA_PREFIX + field.name if not field.own and field.name in OWN_FIELDS else field.name


def _all(parts: Sequence[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _field(name: str, path: str) -> Field:
    if name in OWN_FIELDS:
        return Field(name, own=True)
    name = name.removeprefix(METADATA_PREFIX)
    if not name:
        raise InvalidInput(f"{path}: a field needs a name.", field=path)
    return Field(name, own=False)
