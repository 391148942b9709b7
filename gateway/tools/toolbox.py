"""Tools: what an agent may do here. Each is defined once; MCP, HTTP and jobs offer the same ones.

A tool of your own joins through the entry point group `vector_memory.tools` (docs/tools.md). Knows no protocol. Above:
the doors. Below: the services, which every tool is given.
"""

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.serving.services import Services
from vector_memory.errors import InvalidInput, NotFound, ServiceError, StartupError, Unavailable
from vector_memory.fields import invalid_input

log = logging.getLogger(__name__)

GROUP = "vector_memory.tools"
"""The entry point group of tools that other packages bring."""

LOADING_S_MAX = 50.0
"""How long a call waits for a worker that loads: less than the minute that MCP's own clients usually wait."""

idempotency_key: ContextVar[str | None] = ContextVar("idempotency_key", default=None)
"""The caller's name for this call, of which a repetition is answered as the first; set by a door that has one."""

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}")
"""Names that every client of MCP and every model's function calling takes."""

P = TypeVar("P", bound=BaseModel)


class Parameters(BaseModel):
    """A tool's parameters: strict types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Hints:
    """How a tool behaves, for clients that ask before they call it.

    Attributes:
        read_only: changes nothing.
        destructive: what it replaces or removes does not come back.
        idempotent: calling it again with the same parameters changes nothing more.
        open_world: it reaches beyond this service.
    """

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


@dataclass(frozen=True, slots=True)
class Tool(Generic[P]):
    """One tool.

    Attributes:
        name: a letter, then up to 63 letters, digits, `_` and `-`.
        description: one or two sentences for a model: what it does, and when to use it.
        parameters: the model of its parameters; derive it from `Parameters`.
        run: gets the services and the parameters; returns a JSON object. An ordinary function runs in a thread, a
            coroutine function in the event loop. A `ServiceError` reaches the caller as it is, all else as a sentence.
        output: JSON Schema of the result, where it is worth its tokens.
    """

    name: str
    description: str
    parameters: type[P]
    run: Callable[[Services, P], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
    hints: Hints = field(default_factory=Hints)
    output: Mapping[str, Any] | None = None

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters, without what costs tokens and says nothing."""
        schema = _lean(self.parameters.model_json_schema())
        assert isinstance(schema, dict), "a model's schema is an object"
        schema.pop("description", None)
        return schema


class Toolbox:
    """The tools of one worker, by name."""

    def __init__(self, services: Services, tools: Iterable[Tool[Any]]) -> None:
        """Raises:
        StartupError: two tools have one name, or a name cannot be one.
        """
        self._services = services
        self._tools: dict[str, Tool[Any]] = {}
        for tool in tools:
            if not _NAME.fullmatch(tool.name):
                raise StartupError(f"{tool.name!r} cannot be a tool's name; use letters, digits, _ and -.")
            if tool.name in self._tools:
                raise StartupError(f"There are two tools named {tool.name}; rename the one that a package brings.")
            self._tools[tool.name] = tool

    @property
    def tools(self) -> tuple[Tool[Any], ...]:
        """Every tool, ours first."""
        return tuple(self._tools.values())

    def get(self, name: str) -> Tool[Any]:
        """The tool of a name.

        Raises:
            NotFound: there is none.
        """
        if name not in self._tools:
            raise NotFound(f"There is no tool {name[:80]!r}; there are {', '.join(self._tools)}.", field="tool_name")
        return self._tools[name]

    def described(self) -> list[dict[str, Any]]:
        """Every tool for a caller, with its JSON Schemas."""
        return [_described(tool) for tool in self._tools.values()]

    async def invoke(self, name: str, parameters: object) -> dict[str, Any]:
        """Call a tool; one that comes while the worker loads waits for it.

        Args:
            name: of the tool.
            parameters: what the caller sent; null parameters count as left out.

        Raises:
            ServiceError: nothing else is raised but a cancellation.
        """
        tool = self.get(name)
        checked = _checked(tool, parameters)
        await ready(self._services)
        try:
            if inspect.iscoroutinefunction(tool.run):
                result = await tool.run(self._services, checked)
            else:
                result = await asyncio.to_thread(_ran, tool, self._services, checked)
            return _sent(result)
        except ServiceError:
            raise
        # Whoever wrote the tool: the operator gets the traceback, the caller a sentence. `sys.exit()` ends no service.
        except (Exception, SystemExit) as error:
            log.exception("tool.crashed", extra={"tool": name})
            raise ServiceError(f"The tool {name} failed inside the service; its log has the details.") from error


async def ready(services: Services) -> None:
    """Wait until the worker serves, within bounds.

    Raises:
        Unavailable: it does not.
    """
    if not services.is_ready:
        await asyncio.to_thread(services.wait, LOADING_S_MAX)
    if services.failure is not None:
        raise Unavailable(f"The memories cannot be used: {services.failure}")


def installed(found: Iterable[EntryPoint] | None = None) -> list[Tool[Any]]:
    """The tools that installed packages bring.

    Args:
        found: entry points; default: those of the group `vector_memory.tools`.

    Raises:
        StartupError: one cannot be loaded, or is no tool; the message names it.
    """
    tools: list[Tool[Any]] = []
    for point in entry_points(group=GROUP) if found is None else found:
        try:
            loaded = point.load()
        except Exception as error:  # whatever a package does when it is imported
            raise StartupError(f"The tool {point.name} ({point.value}) cannot be loaded: {error}") from error
        each = [loaded] if isinstance(loaded, Tool) else loaded
        if not isinstance(each, list | tuple) or not all(isinstance(tool, Tool) for tool in each):
            raise StartupError(f"The entry point {point.name} ({point.value}) is neither a Tool nor a list of them.")
        tools += each
    return tools


def _checked(tool: Tool[P], parameters: object) -> P:
    if not isinstance(parameters, Mapping):
        raise InvalidInput("parameters must be a JSON object.", field="parameters")
    given = {name: value for name, value in parameters.items() if value is not None}
    try:
        return tool.parameters.model_validate(given)
    except ValidationError as error:
        raise invalid_input(error) from error


def _ran(tool: Tool[P], services: Services, parameters: P) -> object:
    """What an ordinary function returns. A future can hold no StopIteration: its reader would wait for ever."""
    try:
        return tool.run(services, parameters)
    except StopIteration as error:
        raise RuntimeError("the tool raised StopIteration") from error


def _sent(result: object) -> dict[str, Any]:
    """The result as it will be after it was sent: what JSON cannot carry fails here, in the tool's name."""
    if not isinstance(result, Mapping):
        raise TypeError(f"a tool returns a JSON object, not {type(result).__name__}")
    text = json.dumps(dict(result), allow_nan=False, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    sent: dict[str, Any] = json.loads(text)
    return sent


def _described(tool: Tool[Any]) -> dict[str, Any]:
    hints = tool.hints
    described = {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "hints": {
            "read_only": hints.read_only,
            "destructive": hints.destructive,
            "idempotent": hints.idempotent,
            "open_world": hints.open_world,
        },
    }
    return described if tool.output is None else {**described, "output_schema": dict(tool.output)}


def _lean(schema: Any, *, is_properties: bool = False) -> Any:
    """A schema without titles, without what is the default, and without the null that an optional field may also be."""
    match schema:
        case {"anyOf": [only, {"type": "null"}], **rest} if not is_properties:
            return _lean({**only, **{name: value for name, value in rest.items() if value is not None}})
        case dict():
            kept = schema if is_properties else {name: value for name, value in schema.items() if _says(name, value)}
            return {name: _lean(value, is_properties=name == "properties") for name, value in kept.items()}
        case list():
            return [_lean(each) for each in schema]
    return schema


def _says(name: str, value: object) -> bool:
    return name != "title" and (name, value) != ("additionalProperties", True)
