"""The commands for the operator: stats, snapshot, compact, bench."""

from typing import Annotated

import typer

from gateway.cli.failing import say, usage
from gateway.cli.showing import counted, print_json, show, show_line
from gateway.cli.target import AsJson, connected, where

BENCH_COUNT_MIN = 100


def stats(context: typer.Context, as_json: AsJson = False) -> None:
    """Show how many memories there are."""
    with connected(context) as client:
        answer, health = client.stats(), client.health()
    if as_json:
        body = {"memories": answer.memories, "namespaces": dict(answer.namespaces), "embedder": answer.embedder.model}
        print_json({**body, "status": health.status, "problems": list(health.problems), "version": health.version})
        return
    width = max((len(f"{count:,}") for count in answer.namespaces.values()), default=1)
    for namespace, count in answer.namespaces.items():
        show_line((f"{count:>{width},}", ""), (namespace, "bold cyan"))
    many = f"{counted(answer.memories, 'memory', 'memories')} in {counted(len(answer.namespaces), 'namespace')}"
    show(f"{many}, embedded by {answer.embedder.model}; {health.status}")
    for problem in health.problems:
        say(problem)


def snapshot(context: typer.Context, as_json: AsJson = False) -> None:
    """Write a snapshot, so that the next start is quick."""
    with connected(context) as client:
        name = client.snapshot()
    if as_json:
        print_json({"snapshot": name})
    else:
        show(f"wrote snapshot {name}")


def compact(context: typer.Context, as_json: AsJson = False) -> None:
    """Remove journals that snapshots cover; what was deleted is in no file afterwards."""
    with connected(context) as client:
        answer = client.compact()
    if as_json:
        print_json(answer.body())
        return
    show(f"removed {counted(len(answer.removed), 'journal')}, {counted(answer.removed_bytes, 'byte')}")
    for kept in answer.kept:
        show_line(("kept", "yellow"), (kept.journal, "bold cyan"), (kept.reason, "dim"))


def bench(
    context: typer.Context,
    count: Annotated[int, typer.Option(help="Memories to store.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Measure how quickly memories are stored and retrieved, in a temporary folder or where you say."""
    from gateway.cli.measuring import measure

    if count < BENCH_COUNT_MIN:
        raise usage(f"--count must be at least {BENCH_COUNT_MIN}.")
    settings = {"MEMORY_EPHEMERAL": True} if where(context).is_default else None
    with connected(context, makes_folder=True, settings=settings) as client:
        rates = []
        for rate in measure(client, count):
            rates.append(rate)
            if not as_json:
                each_ms = 1000 / rate.per_second
                show(f"{rate.name:<18} {rate.per_second:>8,.0f}/s {each_ms:>8.2f} ms each")
    if as_json:
        print_json({rate.name: {"count": rate.count, "per_second": round(rate.per_second, 1)} for rate in rates})
