"""Tools are the actions that an agent may take here. Each is defined once, and MCP, HTTP and jobs offer the same tools.

Another package adds a tool through the entry point group `vector_memory.tools` (docs/tools.md). This module knows no
protocol. Above: the doors. Below: the services, which every tool is given.
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
"""The entry point group through which other packages add tools."""

LOADING_S_MAX = 50.0
"""How long a call waits for a worker that is loading. MCP's own clients usually wait for 60 seconds."""

idempotency_key: ContextVar[str | None] = ContextVar("idempotency_key", default=None)
"""The idempotency key of the call in progress, or None. A repeated call with the same key returns the first answer.
A door sets the key if the caller sent one."""

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}")
"""Names that every MCP client accepts, and the function calling of every model."""

P = TypeVar("P", bound=BaseModel)


class Parameters(BaseModel):
    """The base class of a tool's parameters. Types are strict, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Hints:
    """Statements about a tool's behaviour. Clients use them to decide whether to ask a person before a call.

    Attributes:
        read_only: the tool changes nothing.
        destructive: the tool replaces or removes data that cannot be restored.
        idempotent: a second call with the same parameters changes nothing more.
        open_world: the tool reaches beyond this service.
    """

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


@dataclass(frozen=True, slots=True)
class Tool(Generic[P]):
    """An action that an agent can call by name.

    Attributes:
        name: a letter, followed by at most 63 letters, digits, `_` and `-`.
        description: one or two sentences that tell a model what the tool does, and when to use it.
        parameters: the pydantic model of the parameters. Derive it from `Parameters`.
        run: the function that gets the services and the parameters, and returns a JSON object. An ordinary function
            runs in a thread, and a coroutine function in the event loop. A `ServiceError` reaches the caller unchanged;
            for any other exception the caller gets one general sentence.
        hints: how the tool behaves, for clients.
        output: the JSON Schema of the result, or None. Give one if it is worth its tokens.
    """

    name: str
    description: str
    parameters: type[P]
    run: Callable[[Services, P], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
    hints: Hints = field(default_factory=Hints)
    output: Mapping[str, Any] | None = None

    @property
    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameters, without parts that cost tokens and say nothing."""
        schema = _lean(self.parameters.model_json_schema())
        assert isinstance(schema, dict), "a model's schema is an object"
        schema.pop("description", None)
        return schema


class Toolbox:
    """All tools of one worker, by name."""

    def __init__(self, services: Services, tools: Iterable[Tool[Any]]) -> None:
        """Collect the tools.

        Raises:
            StartupError: two tools have the same name, or a name has a form that clients do not accept.
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
        """Return every tool, in the order in which the toolbox got them."""
        return tuple(self._tools.values())

    def get(self, name: str) -> Tool[Any]:
        """Return the tool with this name.

        Raises:
            NotFound: there is no such tool.
        """
        if name not in self._tools:
            raise NotFound(f"There is no tool {name[:80]!r}; there are {', '.join(self._tools)}.", field="tool_name")
        return self._tools[name]

    def described(self) -> list[dict[str, Any]]:
        """Return a description of every tool for callers, with its JSON Schemas."""
        return [_described(tool) for tool in self._tools.values()]

    async def invoke(self, name: str, parameters: object) -> dict[str, Any]:
        """Call a tool and return its result. A call that comes while the worker loads waits for it.

        Args:
            name: the name of the tool.
            parameters: the parameters as the caller sent them. A parameter that is null counts as left out.

        Raises:
            ServiceError: the call failed. Apart from a cancellation, no other exception is raised.
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
        # A tool may come from any package and raise anything. The operator gets the traceback, and the caller a
        # sentence. `sys.exit()` in a tool must not end the service, so SystemExit is caught too.
        except (Exception, SystemExit) as error:
            log.exception("tool.crashed", extra={"tool": name})
            raise ServiceError(f"The tool {name} failed inside the service; its log has the details.") from error


async def ready(services: Services) -> None:
    """Wait until the worker has loaded, at most `LOADING_S_MAX` seconds.

    Raises:
        Unavailable: loading failed.
    """
    if not services.is_ready:
        await asyncio.to_thread(services.wait, LOADING_S_MAX)
    if services.failure is not None:
        raise Unavailable(f"The memories cannot be used: {services.failure}")


def installed(found: Iterable[EntryPoint] | None = None) -> list[Tool[Any]]:
    """Load the tools that installed packages provide.

    Args:
        found: the entry points to load. By default these are all of the group `vector_memory.tools`.

    Raises:
        StartupError: an entry point cannot be loaded, or is not a tool. The message names it.
    """
    tools: list[Tool[Any]] = []
    for point in entry_points(group=GROUP) if found is None else found:
        try:
            loaded = point.load()
        except Exception as error:  # importing a package runs its code, which may raise anything
            raise StartupError(f"The tool {point.name} ({point.value}) cannot be loaded: {error}") from error
        each = [loaded] if isinstance(loaded, Tool) else loaded
        if not isinstance(each, list | tuple) or not all(isinstance(tool, Tool) for tool in each):
            raise StartupError(f"The entry point {point.name} ({point.value}) is neither a Tool nor a list of them.")
        tools += each
    return tools


def _checked(tool: Tool[P], parameters: object) -> P:
    if not isinstance(parameters, Mapping):
        raise InvalidInput("parameters must be a JSON object.", field="parameters")
    # A parameter that is null gets its default, as if it was left out.
    given = {name: value for name, value in parameters.items() if value is not None}
    try:
        return tool.parameters.model_validate(given)
    except ValidationError as error:
        raise invalid_input(error) from error


def _ran(tool: Tool[P], services: Services, parameters: P) -> object:
    """Run a tool's ordinary function and return its result."""
    try:
        return tool.run(services, parameters)
    except StopIteration as error:
        # A future cannot hold a StopIteration, so the caller would wait for ever.
        raise RuntimeError("the tool raised StopIteration") from error


def _sent(result: object) -> dict[str, Any]:
    """Return a tool's result as the receiver will decode it. A value that JSON cannot carry fails here."""
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
    """Return a schema without titles, without null defaults, and without the null type of optional fields.

    `is_properties` says that the keys of `schema` are names of properties and not keywords of JSON Schema.
    """
    match schema:
        case {"anyOf": [only, {"type": "null"}], **rest} if not is_properties:
            # An optional field. Callers leave it out instead of sending null, so the null type and default say nothing.
            return _lean({**only, **{name: value for name, value in rest.items() if value is not None}})
        case dict():
            kept = schema if is_properties else {name: value for name, value in schema.items() if _says(name, value)}
            return {name: _lean(value, is_properties=name == "properties") for name, value in kept.items()}
        case list():
            return [_lean(each) for each in schema]
    return schema


def _says(name: str, value: object) -> bool:
    # A title repeats the property's name, and `additionalProperties: true` is the default of JSON Schema.
    return name != "title" and (name, value) != ("additionalProperties", True)
