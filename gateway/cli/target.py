"""The place that a command works on: a data folder in this process, a running service, or a RunPod endpoint.

`root_options` declares these options once, for the root command. Every command takes them after its own name as well.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failing import usage

if TYPE_CHECKING:
    from vector_memory import Client

PREFIX = "VECTOR_MEMORY_"
WHERE = ("data_dir", "url", "runpod", "api_key", "namespace")
_PLACES = ("data_dir", "url", "runpod")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Where", **settings)


def root_options(
    data_dir: Annotated[Path | None, _option(help="Folder of the memories (MEMORY_DATA_DIR).")] = None,
    url: Annotated[
        str | None, _option(envvar=f"{PREFIX}URL", metavar="URL", help="A running service, instead of a folder.")
    ] = None,
    runpod: Annotated[str | None, _option("--runpod", metavar="ENDPOINT", help="A RunPod endpoint.")] = None,
    api_key: Annotated[
        str | None,
        _option(envvar=f"{PREFIX}API_KEY", metavar="KEY", help="Key for --url, or for --runpod (also RUNPOD_API_KEY)."),
    ] = None,
    namespace: Annotated[
        str | None,
        _option(
            "--namespace",
            "-n",
            envvar=f"{PREFIX}NAMESPACE",
            metavar="NAME",
            help="A hard wall between tenants.",
            show_default="default",
        ),
    ] = None,
) -> None:
    """Long-term memory for AI agents: store, retrieve, delete, research."""


def is_written(context: Any, name: str) -> bool:
    """Tell whether an option stands on the command line itself, and not only in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Values of the root command's options; at most one of the first three is set."""

    data_dir: Path | None
    url: str | None
    runpod: str | None
    api_key: str | None
    namespace: str | None

    @property
    def is_default(self) -> bool:
        """Return whether no place is named."""
        return self.data_dir is None and self.url is None and self.runpod is None

    @property
    def scope(self) -> dict[str, str]:
        """The field `namespace` of a request, if a namespace is named."""
        return {} if self.namespace is None else {"namespace": self.namespace}


def where(context: typer.Context) -> Where:
    """Return where a command works. A place on the command line overrides VECTOR_MEMORY_URL."""
    from gateway.settings import refuse_misspelt

    root = context.find_root()
    refuse_misspelt(PREFIX, [f"{PREFIX}{name}" for name in ("URL", "API_KEY", "NAMESPACE")])
    values = {name: root.params[name] for name in WHERE}
    written = [name for name in _PLACES if is_written(root, name)]
    if len(written) > 1:
        raise usage("Name one of --data-dir, --url and --runpod.")
    if written:
        values |= {name: None for name in _PLACES if name not in written}
    if values["runpod"] is not None and not is_written(root, "api_key"):
        values["api_key"] = _runpod_key() or values["api_key"]
    return Where(**values)


@contextlib.contextmanager
def connected(
    context: typer.Context, *, makes_folder: bool = False, settings: dict[str, Any] | None = None
) -> Iterator["Client"]:
    """Open the client for where a command works.

    Args:
        context: of the command.
        makes_folder: the command may make a new folder; without it, the folder must exist.
        settings: for a service in this process, by the names of variables.
    """
    with _client(where(context), makes_folder=makes_folder, settings=settings or {}) as client:
        yield client


def _client(place: Where, *, makes_folder: bool, settings: dict[str, Any]) -> "Client":
    from vector_memory import Client

    if place.runpod is not None:
        if place.api_key is None:
            raise usage("A RunPod endpoint needs --api-key or RUNPOD_API_KEY.")
        return Client.runpod(place.runpod, api_key=place.api_key)
    if place.url is not None:
        return Client(place.url, api_key=place.api_key)
    return _local(place.data_dir, makes_folder=makes_folder, settings=settings)


def _local(data_dir: Path | None, *, makes_folder: bool, settings: dict[str, Any]) -> "Client":
    from gateway.observability import logs
    from gateway.settings import load
    from vector_memory import Client

    logs.configure("error")  # what goes wrong is said in a sentence
    memory = load({**settings, "MEMORY_DATA_DIR": data_dir}).memory
    if memory.ephemeral and not settings.get("MEMORY_EPHEMERAL"):
        raise usage("MEMORY_EPHEMERAL is set, so nothing would be kept; unset it, or name a service with --url.")
    if not makes_folder and not memory.ephemeral and not memory.data_dir.is_dir():
        raise usage(f"{memory.data_dir} is not a folder; name one with --data-dir, or a service with --url.")
    return Client.local(memory.data_dir, settings=settings)


def _runpod_key() -> str | None:
    from gateway.settings import load

    key = load().llm.runpod_api_key
    return None if key is None else key.get_secret_value()
