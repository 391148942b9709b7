"""The commands for single memories: store, retrieve, get, list, history, update, delete."""

import sys
from typing import Annotated, Any

import typer

from gateway.cli.failing import say, usage
from gateway.cli.showing import counted, print_json, show, show_line, show_memory
from gateway.cli.target import (
    ApiKey,
    AsJson,
    DataDir,
    Filter,
    Namespace,
    RunPod,
    Strong,
    Url,
    connected,
    consistency,
    parsed,
)
from vector_memory.memories import DEFAULT_NAMESPACE, Deletion, History

STDIN = "-"


def store(
    content: Annotated[str, typer.Argument(help="The text to remember; - reads it from stdin.", show_default=False)],
    key: Annotated[str | None, typer.Option(help="Your name for it; without one, derived from the text.")] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object.", metavar="JSON")] = None,
    ttl_seconds: Annotated[int | None, typer.Option(help="Lifetime from now.", metavar="SECONDS")] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Keep a memory, or update the one with its key."""
    text = _stdin() if content == STDIN else content
    fields = parsed(metadata, "--metadata")
    with connected(data_dir, url, runpod, api_key, makes_folder=True) as client:
        stored = client.store(text, key=key, namespace=namespace, metadata=fields, ttl_seconds=ttl_seconds)
    if as_json:
        print_json(stored.body())
    else:
        show_line((stored.status.value, "green"), (stored.key, "bold cyan"))


def retrieve(
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.", show_default=False)] = None,
    k: Annotated[int, typer.Option("-k", help="How many to return.")] = 5,
    like: Annotated[str | None, typer.Option(help="Instead: what is like this key.", metavar="KEY")] = None,
    filter: Filter = None,
    after: Annotated[str | None, typer.Option(help="Only what happened then or later.", metavar="TIME")] = None,
    before: Annotated[str | None, typer.Option(help="Only what happened earlier.", metavar="TIME")] = None,
    mode: Annotated[str | None, typer.Option(help="dense, lexical or hybrid.")] = None,
    half_life: Annotated[float | None, typer.Option(help="Halve a score for so much age.", metavar="DAYS")] = None,
    importance: Annotated[float, typer.Option(help="Add so much of the metadata importance, 0 to 1.")] = 0.0,
    diversity: Annotated[float, typer.Option(help="Hold back what resembles a better hit, 0 to 1.")] = 0.0,
    per_session: Annotated[int | None, typer.Option(help="At most so many of one session.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out lower scores, -1 to 1.")] = None,
    min_relevance: Annotated[float | None, typer.Option(help="Leave out what is less relevant, 0 to 1.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="As many as fit.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Look at the memories of that time.", metavar="TIME")] = None,
    strong: Strong = False,
    explain: Annotated[bool, typer.Option("--explain", help="Tell how the answer came about.")] = False,
    why_not: Annotated[str | None, typer.Option(help="Tell why this key did not come back.", metavar="KEY")] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Find the memories that answer a query best."""
    from vector_memory.memories import Consistency
    from vector_memory.retrieval import Mode, Retrieval

    if (query is None) == (like is None):
        raise usage("Say what to look for, or name a key with --like.")
    if mode is not None and mode not in list(Mode):
        raise usage(f"--mode must be {', '.join(Mode)}.")
    asked = Retrieval(
        query=_stdin() if query == STDIN else query,
        like=like,
        namespace=namespace,
        k=k,
        filter=parsed(filter, "--filter"),
        after=after,
        before=before,
        mode=None if mode is None else Mode(mode),
        recency_half_life_days=half_life,
        importance_weight=importance,
        diversity=diversity,
        per_session=per_session,
        min_score=min_score,
        min_relevance=min_relevance,
        max_tokens=max_tokens,
        as_of=as_of,
        consistency=Consistency(consistency(strong)),
        explain=explain,
        why_not=why_not,
    )
    with connected(data_dir, url, runpod, api_key) as client:
        [found] = client.retrieve_batch([asked])
    if as_json:
        print_json(found.body())
        return
    for hit in found.hits:
        relevance = "" if hit.relevance is None else f"  relevance {hit.relevance:.2f}"
        show_memory(hit.memory, f"{hit.score:.3f}{relevance}")
    if found.nearest:
        say("Nothing is relevant enough; this came nearest:")
        for hit in found.nearest or ():
            show_memory(hit.memory, f"{hit.score:.3f}")
    elif not found.hits:
        say("Nothing was found.")
    if found.explanation is not None:
        _show_explanation(found.explanation.body())


def _show_explanation(body: dict[str, Any]) -> None:
    import json

    show()
    for name, value in body.items():
        if value not in (None, [], False):
            show_line((f"{name}:", "yellow"), (json.dumps(value, ensure_ascii=False), ""))


def get(
    key: Annotated[str, typer.Argument(help="Of the memory.", show_default=False)],
    as_of: Annotated[str | None, typer.Option(help="As it was at that time.", metavar="TIME")] = None,
    strong: Strong = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Show one memory."""
    with connected(data_dir, url, runpod, api_key) as client:
        memory = client.get(key, namespace=namespace, as_of=as_of, consistency=consistency(strong))
    if as_json:
        print_json(memory.body())
    else:
        show_memory(memory)


def list_memories(
    filter: Filter = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.", min=1, show_default="all")] = None,
    as_of: Annotated[str | None, typer.Option(help="As they were at that time.", metavar="TIME")] = None,
    strong: Strong = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Show memories, newest first."""
    from itertools import islice

    conditions = parsed(filter, "--filter")
    with connected(data_dir, url, runpod, api_key) as client:
        size = min(limit or 500, 500)
        found = client.list(
            namespace=namespace, filter=conditions, as_of=as_of, page_size=size, consistency=consistency(strong)
        )
        count = 0
        for memory in islice(found, limit):
            count += 1
            if as_json:
                print_json(memory.body())
            else:
                show_memory(memory)
    if not as_json:
        say(counted(count, "memory", "memories"))


def history(
    key: Annotated[str, typer.Argument(help="Of the memory.", show_default=False)],
    strong: Strong = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Show what happened to a memory, newest first."""
    from vector_memory.times import iso_time

    with connected(data_dir, url, runpod, api_key) as client:
        events = client.history(key, namespace=namespace, consistency=consistency(strong))
    if as_json:
        print_json(History(key=key, namespace=namespace, events=tuple(events)).body())
        return
    for event in events:
        show_line((iso_time(event.at_ms), "dim"), (event.kind.value, "bold"))
        if event.content is not None:
            show(event.content, indent=2)


def update(
    key: Annotated[str, typer.Argument(help="Of the memory.", show_default=False)],
    content: Annotated[str | None, typer.Option(help="Replaces the text; - reads it from stdin.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object, merged into what is there; null removes a field.", metavar="JSON")
    ] = None,
    ttl_seconds: Annotated[int | None, typer.Option(help="A new lifetime from now.", metavar="SECONDS")] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Change the text, the metadata or the lifetime of a memory."""
    if content is None and metadata is None and ttl_seconds is None:
        raise usage("Name what to change: --content, --metadata or --ttl-seconds.")
    text = _stdin() if content == STDIN else content
    fields = parsed(metadata, "--metadata")
    with connected(data_dir, url, runpod, api_key) as client:
        updated = client.update(key, namespace=namespace, content=text, metadata=fields, ttl_seconds=ttl_seconds)
    if as_json:
        print_json(updated.body())
    else:
        show_line((updated.status.value, "green"), (updated.key, "bold cyan"))


def delete(
    keys: Annotated[list[str] | None, typer.Argument(help="Of the memories.", show_default=False)] = None,
    filter: Filter = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting many.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted.")] = False,
    receipt: Annotated[bool, typer.Option("--receipt", help="Tell in which files the bytes still are.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Delete one memory, several, or all that match a filter."""
    if bool(keys) == (filter is not None):
        raise usage("Name either keys or a --filter.")
    wanted: dict[str, Any] = {"namespace": namespace, "keys": keys or None, "filter": parsed(filter, "--filter")}
    with connected(data_dir, url, runpod, api_key) as client:
        if keys and len(keys) == 1 and not dry_run:
            one = client.delete(keys[0], namespace=namespace, receipt=receipt)
            deleted = Deletion(namespace=namespace, count=1, keys=(one.key,), receipt=one.receipt)
        else:
            if not dry_run and not yes:
                _confirm(client.delete_many(**wanted, dry_run=True).count)
            deleted = client.delete_many(**wanted, dry_run=dry_run, receipt=receipt)
    if as_json:
        print_json(deleted.body())
        return
    for key in deleted.keys:
        show_line(("would be deleted" if dry_run else "deleted", "red"), (key, "bold cyan"))
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


def _stdin() -> str:
    """A text from stdin, without the line end that a pipe puts behind it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise usage("stdin is no text in UTF-8.") from error
