"""The commands for single memories: store, retrieve, get, list, history, update, delete."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failing import say, usage
from gateway.cli.fields import Fields, asks
from gateway.cli.showing import counted, print_json, show, show_each, show_line, show_memory
from gateway.cli.target import AsJson, connected

if TYPE_CHECKING:
    from vector_memory import Stored

PAGE_SIZE = 500
"""Memories per request of a listing. The service allows 1,000; smaller pages show the first memories sooner."""


@asks("vector_memory.memories:NewMemory", argument="content", without=("embedding",))
def store(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None:
    """Keep a memory, or update the one with its key."""
    from vector_memory import operations

    with connected(context, makes_folder=True) as client:
        stored = client.call(operations.STORE, fields)
    _show_stored(stored, as_json=as_json)


@asks("vector_memory.retrieval:Retrieval", argument="query")
def retrieve(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None:
    """Find the memories that answer a query best."""
    from vector_memory import Retrieval, operations

    if ("query" in fields) == ("like" in fields):
        raise usage("Say what to look for, or name a key with --like.")
    request = Retrieval(**fields)
    with connected(context) as client:
        retrieved = client.call(operations.RETRIEVE, request)
    if as_json:
        print_json(retrieved.body())
        return
    for hit in retrieved.hits:
        relevance = "" if hit.relevance is None else f"  relevance {hit.relevance:.2f}"
        show_memory(hit.memory, f"{hit.score:.3f}{relevance}")
    if retrieved.nearest:
        say("Nothing is relevant enough; this came nearest:")
        for hit in retrieved.nearest:
            show_memory(hit.memory, f"{hit.score:.3f}")
    elif not retrieved.hits:
        say("Nothing was found.")
    if retrieved.explanation is not None:
        _show_explanation(retrieved.explanation.body())


def _show_explanation(body: dict[str, Any]) -> None:
    import json

    show()
    for name, value in body.items():
        if value not in (None, [], False):
            show_line((f"{name}:", "yellow"), (json.dumps(value, ensure_ascii=False), ""))


@asks("vector_memory.memories:Get", argument="key")
def get(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None:
    """Show one memory."""
    with connected(context) as client:
        memory = client.get(**fields)
    if as_json:
        print_json(memory.body())
    else:
        show_memory(memory)


@asks("vector_memory.memories:Listing", without=("cursor", "embeddings"))
def list_memories(
    context: typer.Context,
    fields: Fields,
    limit: Annotated[int | None, typer.Option(help="Memories to show.", min=1, show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show memories, newest first."""
    from itertools import islice

    with connected(context) as client:
        memories = client.list(**fields, page_size=min(limit or PAGE_SIZE, PAGE_SIZE))
        count = show_each(islice(memories, limit), show_memory, as_json=as_json)
    if not as_json:
        say(counted(count, "memory", "memories"))


@asks("vector_memory.memories:GetHistory", argument="key")
def history(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None:
    """Show what happened to a memory, newest first."""
    from vector_memory import operations
    from vector_memory.times import iso_time

    with connected(context) as client:
        answer = client.call(operations.HISTORY, fields)
    if as_json:
        print_json(answer.body())
        return
    for event in answer.events:
        show_line((iso_time(event.at_ms), "dim"), (event.kind.value, "bold"))
        if event.content is not None:
            show(event.content, indent=2)


@asks("vector_memory.memories:Update", argument="key")
def update(context: typer.Context, fields: Fields, as_json: AsJson = False) -> None:
    """Change the text, the metadata or the lifetime of a memory."""
    from vector_memory import operations

    if fields.keys() <= {"key", "namespace"}:
        raise usage("Name what to change: --content, --metadata or --ttl-seconds.")
    with connected(context) as client:
        updated = client.call(operations.UPDATE, fields)
    _show_stored(updated, as_json=as_json)


def _show_stored(stored: "Stored", *, as_json: bool) -> None:
    if as_json:
        print_json(stored.body())
    else:
        show_line((stored.status.value, "green"), (stored.key, "bold cyan"))


@asks("vector_memory.memories:BulkDelete")
def delete(
    context: typer.Context,
    fields: Fields,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of the memories.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting many.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete one memory, several, or all that match a filter."""
    from vector_memory import Deletion, operations

    if bool(keys) == ("filter" in fields):
        raise usage("Name either keys or a --filter.")
    is_dry_run = "dry_run" in fields
    with connected(context) as client:
        if keys and len(keys) == 1 and not is_dry_run:
            one = client.call(operations.DELETE, {**fields, "key": keys[0]})
            deleted = Deletion(namespace=one.namespace, count=1, keys=(one.key,), receipt=one.receipt)
        else:
            wanted = {**fields, "keys": keys} if keys else fields
            if not is_dry_run and not yes:
                _confirm(client.call(operations.DELETE_MANY, {**wanted, "receipt": False, "dry_run": True}).count)
            deleted = client.call(operations.DELETE_MANY, wanted)
    if as_json:
        print_json(deleted.body())
        return
    for key in deleted.keys:
        show_line(("would be deleted" if is_dry_run else "deleted", "red"), (key, "bold cyan"))
    for key in deleted.missing:
        show_line(("not there", "yellow"), (key, "bold cyan"))
    if deleted.receipt is not None:
        state = "still hold its bytes until `compact`" if deleted.receipt.files else ""
        show(f"{', '.join(deleted.receipt.files) or 'no file holds its bytes'} {state}".rstrip(), "dim")
    if deleted.count > len(deleted.keys):
        say(f"... and {deleted.count - len(deleted.keys):,} more")


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise usage(f"This deletes {counted(count, 'memory', 'memories')}; repeat it with --yes.")
    if not typer.confirm(f"Delete {counted(count, 'memory', 'memories')}?", err=True):
        say("nothing was deleted")
        raise typer.Exit(0)
