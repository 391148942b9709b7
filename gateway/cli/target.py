"""Where a command works: on a data folder in this process, on a running service, or on a RunPod endpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failing import usage

if TYPE_CHECKING:
    from vector_memory import Client

_PANEL = "Where"

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the memories (MEMORY_DATA_DIR).", rich_help_panel=_PANEL, show_default=False),
]
Url = Annotated[
    str | None, typer.Option(help="A running service, instead of a folder.", rich_help_panel=_PANEL, metavar="URL")
]
RunPod = Annotated[
    str | None, typer.Option("--runpod", help="A RunPod endpoint.", rich_help_panel=_PANEL, metavar="ENDPOINT")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        help="Key for --runpod (RUNPOD_API_KEY), or for what stands in front of --url.",
        rich_help_panel=_PANEL,
        metavar="KEY",
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="A hard wall between tenants.")]
Strong = Annotated[bool, typer.Option("--strong", help="See every write that any worker acknowledged.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Filter = Annotated[str | None, typer.Option(help="""Conditions as JSON, such as '{"lead": "acme"}'.""", metavar="JSON")]


@contextlib.contextmanager
def connected(
    data_dir: Path | None,
    url: str | None,
    runpod: str | None,
    api_key: str | None,
    *,
    makes_folder: bool = False,
    settings: dict[str, Any] | None = None,
) -> Iterator["Client"]:
    """The client for where a command works.

    Args:
        data_dir: as the option of that name, like the next three.
        url: of a service.
        runpod: id of an endpoint.
        api_key: of one of these.
        makes_folder: the command may begin a new folder; others want one that is there.
        settings: for a service in this process, by the names of variables.
    """
    if sum(each is not None for each in (data_dir, url, runpod)) > 1:
        raise usage("Name one of --data-dir, --url and --runpod.")
    from vector_memory import Client

    if runpod is not None:
        key = api_key or _runpod_key()
        if key is None:
            raise usage("A RunPod endpoint needs --api-key or RUNPOD_API_KEY.")
        client = Client.runpod(runpod, api_key=key)
    elif url is not None:
        client = Client(url, api_key=api_key)
    else:
        client = _local(data_dir, makes_folder=makes_folder, settings=settings)
    with client:
        yield client


def _local(data_dir: Path | None, *, makes_folder: bool, settings: dict[str, Any] | None) -> "Client":
    from gateway.observability import logs
    from gateway.settings import load
    from vector_memory import Client

    logs.configure("error")  # what goes wrong is said in a sentence
    found = load({**(settings or {}), "MEMORY_DATA_DIR": data_dir}).memory
    if found.ephemeral and not (settings or {}).get("MEMORY_EPHEMERAL"):
        raise usage("MEMORY_EPHEMERAL is set, so nothing would be kept; unset it, or name a service with --url.")
    if not makes_folder and not found.ephemeral and not found.data_dir.is_dir():
        raise usage(f"{found.data_dir} is not a folder; name one with --data-dir, or a service with --url.")
    return Client.local(found.data_dir, settings=settings)


def _runpod_key() -> str | None:
    from gateway.settings import load

    key = load().llm.runpod_api_key
    return None if key is None else key.get_secret_value()


def consistency(strong: bool) -> str:
    """What the option --strong asks for."""
    return "strong" if strong else "eventual"


def parsed(text: str | None, name: str) -> Any:
    """A JSON object given on the command line."""
    import json

    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise usage(f"""{name} is no JSON: {error}; write it such as '{{"lead": "acme"}}'.""") from error
    if not isinstance(value, dict):
        raise usage(f"""{name} must be a JSON object, such as '{{"lead": "acme"}}'.""")
    return value
