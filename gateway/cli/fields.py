"""Options of a command that quote the fields of a request type.

    @asks("vector_memory.retrieval:Retrieval", argument="query")
    def retrieve(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None: ...

Each field becomes an option with the field's description, bounds and default. Fields that the function takes itself,
and those in `without`, do not. The type is imported when the command is used, so that the bare help need not load it.
"""

import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import typer

from gateway.cli.failing import usage
from gateway.cli.target import where

Fields: TypeAlias = dict[str, Any]
"""The fields that the command line sets to something else than their defaults."""

STDIN = "-"

_SPELLINGS = {
    "k": ("-k",),
    "recency_half_life_days": ("--half-life", "--recency-half-life-days"),
    "importance_weight": ("--importance", "--importance-weight"),
    "consistency": ("--strong",),
}
_TEXTS = ("content", "query")
"""Fields that can be read from standard input."""

_KINDS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list[str]}
_STRONG = {"type": "boolean", "default": False, "description": "See every write that any worker acknowledged."}


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a request type.

    Attributes:
        schema: its JSON Schema, without references and without null.
    """

    name: str
    schema: dict[str, Any]
    is_required: bool

    @property
    def spellings(self) -> tuple[str, ...]:
        """The option's names on the command line."""
        return _SPELLINGS.get(self.name, (f"--{self.name.replace('_', '-')}",))

    def parameter(self, *, is_argument: bool) -> inspect.Parameter:
        """Return the parameter from which Typer makes the option, or the argument."""
        kind = Literal[tuple(self.schema["enum"])] if "enum" in self.schema else _KINDS.get(self._type, str)
        stdin = " `-` reads it from standard input." if self.name in _TEXTS else ""
        help = (self.schema.get("description", "") + stdin).replace("[", r"\[")  # not markup of rich
        option = (
            typer.Argument(help=help, show_default=False)
            if is_argument
            else typer.Option(*self.spellings, help=help, metavar=self._metavar)
        )
        default = inspect.Parameter.empty if self.is_required else self.schema.get("default")
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )

    @property
    def _type(self) -> str:
        return str(self.schema.get("type"))

    @property
    def _metavar(self) -> str | None:
        if self._type == "object":
            return "JSON"
        return f"{self.schema['minimum']}..{self.schema['maximum']}" if "minimum" in self.schema else None

    def value(self, given: Any) -> Any:
        """Return what an option's value means: JSON, the text of standard input, or the value itself."""
        if self._type == "object":
            return parsed(given, self.spellings[0])
        if self.name == "consistency":
            return "strong"
        return read_stdin() if given == STDIN and self.name in _TEXTS else given


def asks(request: str, *, argument: str | None = None, without: Collection[str] = ()) -> Callable[..., Any]:
    """Give a command the fields of a request type as options, and pass their values on as `fields`.

    Args:
        request: module and name of the type.
        argument: the field that is an argument of the command.
        without: fields that the command does not offer.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [one.replace(kind=one.KEYWORD_ONLY) for one in signature.parameters.values() if one.name != "fields"]
        absent = {"namespace", *without, *signature.parameters}

        def whole() -> Callable[..., None]:
            return _whole(function, own, [one for one in _fields_of(request) if one.name not in absent], argument)

        function.__dict__.update(__signature__=signature.replace(parameters=own), whole=whole)
        return function

    return decorate


def _whole(
    function: Callable[..., None], own: list[inspect.Parameter], fields: list[_Field], argument: str | None
) -> Callable[..., None]:
    def command(context: typer.Context, **values: Any) -> None:
        given = [(one, values.pop(one.name)) for one in fields]
        changed = {one.name: one.value(value) for one, value in given if value != one.schema.get("default")}
        function(context=context, fields={**changed, **where(context).scope}, **values)

    options = [one.parameter(is_argument=one.name == argument) for one in fields]
    command.__dict__["__signature__"] = inspect.Signature([*options, *own])
    return command


def _fields_of(request: str) -> list[_Field]:
    schema = pkgutil.resolve_name(request).model_json_schema()
    required, definitions = schema.get("required", ()), schema.get("$defs", {})
    return [
        _Field(name, _STRONG if name == "consistency" else _flat(field, definitions), name in required)
        for name, field in schema["properties"].items()
    ]


def _flat(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema with its reference followed, and without the alternative null."""
    kind = next(one for one in field.get("anyOf", [field]) if one.get("type") != "null")
    referred = definitions.get(kind.get("$ref", "").rpartition("/")[2], {})
    return {**referred, **kind, **field}


def read_stdin() -> str:
    """Read a text from standard input, without the line end that a pipe adds."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise usage("Standard input is not UTF-8 text.") from error


def parsed(text: str, name: str) -> Any:
    """Return the JSON object that an option's text is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise usage(f"""{name} is not JSON: {error}. Write it like '{{"lead": "acme"}}'.""") from error
    if not isinstance(value, dict):
        raise usage(f"""{name} must be a JSON object, such as '{{"lead": "acme"}}'.""")
    return value
