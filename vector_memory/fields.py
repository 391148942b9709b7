"""How a request type states its bounds, and the base classes of requests and answers.

A bound is declared once, on the field. The type checks it, `/openapi.json` shows it, and the error names it:

    Key = Annotated[str, BoundedText(512, "use a shorter one")]

    class GetRequest(Request):
        key: Key
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from vector_memory.errors import InvalidInput
from vector_memory.times import iso_time, time_ms

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


class Bound:
    """A check of one field's value that also shows its bound in the JSON Schema."""

    def check(self, value: Any, field: str) -> None:
        """Raise InvalidInput unless the value is within the bound. The error names field, bound and remedy."""
        raise NotImplementedError

    def shown(self) -> dict[str, Any]:
        """Return the keywords of JSON Schema that state the bound."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def checked(value: Any, info: core_schema.ValidationInfo) -> Any:
            self.check(value, info.field_name or "value")
            return value

        return core_schema.with_info_after_validator_function(checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), **self.shown()}


@dataclass(frozen=True, slots=True)
class BoundedText(Bound):
    """Text of 1 to `chars_max` characters that has a UTF-8 form.

    Attributes:
        remedy: what to do about a longer text, such as `use a shorter one`.
        blank: the remedy for a text of white space only; None admits it.
    """

    chars_max: int
    remedy: str
    blank: str | None = None

    def check(self, value: Any, field: str) -> None:  # noqa: D102 - as the base class says
        if not isinstance(value, str):
            raise InvalidInput(f"{field} must be a string.", field=field)
        if not value:
            raise InvalidInput(f"{field} is empty; it needs at least 1 character.", field=field)
        if len(value) > self.chars_max:
            raise InvalidInput(
                f"{field} has {len(value)} characters; at most {self.chars_max} fit, {self.remedy}.", field=field
            )
        check_text(value, field)
        if self.blank is not None and not value.strip():
            raise InvalidInput(f"{field} is blank; {self.blank}.", field=field)

    def shown(self) -> dict[str, Any]:  # noqa: D102
        return {"minLength": 1, "maxLength": self.chars_max}


@dataclass(frozen=True, slots=True)
class WholeNumber(Bound):
    """An integer from `least` to `most`; true and 5.0 are not integers."""

    least: int
    most: int

    def check(self, value: Any, field: str) -> None:  # noqa: D102
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise InvalidInput(f"{field} must be a whole number from {self.least} to {self.most}.", field=field)

    def shown(self) -> dict[str, Any]:  # noqa: D102
        return {"minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Number(Bound):
    """A finite number from `least` to `most`; true is not a number."""

    least: float
    most: float

    def check(self, value: Any, field: str) -> None:  # noqa: D102
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.least <= value <= self.most:  # a comparison with NaN is false, so NaN is refused
            raise InvalidInput(f"{field} must be a number from {self.least:g} to {self.most:g}.", field=field)

    def shown(self) -> dict[str, Any]:  # noqa: D102
        return {"minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Items(Bound):
    """A list of 1 to `most` items."""

    most: int

    def check(self, value: Any, field: str) -> None:  # noqa: D102
        if not isinstance(value, list | tuple):
            raise InvalidInput(f"{field} must be a list.", field=field)
        if not 1 <= len(value) <= self.most:
            raise InvalidInput(f"{field} must have 1 to {self.most} items, not {len(value)}; split it.", field=field)

    def shown(self) -> dict[str, Any]:  # noqa: D102
        return {"minItems": 1, "maxItems": self.most}


def check_text(text: str, path: str) -> None:
    """Refuse text that has no UTF-8 form because it holds a lone surrogate.

    Raises:
        InvalidInput: it names the path of the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{path} has a lone surrogate at character {error.start}, which is not valid Unicode text.", field=path
        ) from error


class Request(BaseModel):
    """The fields of one operation. Types are strict, unknown fields are refused, and construction checks every bound.

    Raises:
        InvalidInput: it names the field, the bound and the remedy.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True, ser_json_inf_nan="constants")

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise invalid_input(error) from error

    @classmethod
    def read(cls, fields: Any) -> Self:
        """Build the request from what a caller sent.

        Raises:
            InvalidInput: it names the field, the bound and the remedy.
        """
        if not isinstance(fields, dict):
            raise InvalidInput("The body must be a JSON object.")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid_input(error) from error

    def arguments(self) -> dict[str, Any]:
        """Return every field by its name, with Python values. They are the keyword arguments of a service's method."""
        return dict(self)

    def sent(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values.

        The service then applies its own defaults, and an older service receives no fields that it does not know.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


class Value(BaseModel):
    """An answer or a part of one. Unknown fields are passed over, so that a client reads a newer service."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    @classmethod
    def read(cls, body: Any) -> Self:
        """Build the answer from what a service sent."""
        return cls.model_validate(body)

    def body(self) -> dict[str, Any]:
        """Return the answer as JSON values under the names that the wire uses."""
        return self.model_dump(mode="json")


def is_none(value: object) -> bool:
    """Tell whether a field has no value. Such a field is left out of the answer's JSON."""
    return value is None


def _from_wire(value: Any) -> Any:
    return time_ms(value, "time") if isinstance(value, str) else value


Timestamp = Annotated[
    int,
    BeforeValidator(_from_wire),
    PlainSerializer(iso_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time: milliseconds since the Unix epoch in Python, and ISO 8601 in UTC in JSON."""


def invalid_input(error: ValidationError, field: str | None = None) -> InvalidInput:
    """Translate the first of pydantic's errors. The result names the field of that error, or `field` if it is given."""
    first = error.errors(include_url=False)[0]
    return first_as_ours(first if field is None else {**first, "loc": (field,)})


def first_as_ours(error: Mapping[str, Any]) -> InvalidInput:
    """Translate one entry of `ValidationError.errors()`. The result names the field of that entry."""
    field = _path(error["loc"])
    match error["type"]:
        case "missing":
            return InvalidInput(f"{field or 'The body'} is required.", field=field or None)
        case "extra_forbidden":
            return InvalidInput(f"{field} is not a field of this request; check its spelling.", field=field)
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            return InvalidInput(f"{field or 'The body'} must be a JSON object.", field=field or None)
    reason = str(error["msg"]).removeprefix("Input should be ")
    return InvalidInput(f"{field} must be {reason}." if reason != error["msg"] else f"{field}: {reason}.", field=field)


def _path(parts: Sequence[str | int]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".")
