"""The commands for the operator: stats, snapshot, compact, bench."""

from typing import Annotated

import typer

from gateway.cli.failing import say, usage
from gateway.cli.showing import counted, print_json, show, show_line
from gateway.cli.target import ApiKey, AsJson, DataDir, RunPod, Url, connected

BENCH_COUNT_MIN = 100


def stats(
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Show how many memories there are."""
    with connected(data_dir, url, runpod, api_key) as client:
        found, health = client.stats(), client.health()
    if as_json:
        body = {"memories": found.memories, "namespaces": dict(found.namespaces), "embedder": found.embedder.model}
        print_json({**body, "status": health.status, "problems": list(health.problems), "version": health.version})
        return
    width = max((len(f"{count:,}") for count in found.namespaces.values()), default=1)
    for namespace, count in found.namespaces.items():
        show_line((f"{count:>{width},}", ""), (namespace, "bold cyan"))
    many = f"{counted(found.memories, 'memory', 'memories')} in {counted(len(found.namespaces), 'namespace')}"
    show(f"{many}, embedded by {found.embedder.model}; {health.status}")
    for problem in health.problems:
        say(problem)


def snapshot(
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Write a snapshot, so that the next start is quick."""
    with connected(data_dir, url, runpod, api_key) as client:
        name = client.snapshot()
    if as_json:
        print_json({"snapshot": name})
    else:
        show(f"wrote snapshot {name}")


def compact(
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Remove journals that snapshots cover; what was deleted is in no file afterwards."""
    with connected(data_dir, url, runpod, api_key) as client:
        found = client.compact()
    if as_json:
        print_json(found.body())
        return
    show(f"removed {counted(len(found.removed), 'journal')}, {counted(found.removed_bytes, 'byte')}")
    for kept in found.kept:
        show_line(("kept", "yellow"), (kept.journal, "bold cyan"), (kept.reason, "dim"))


def bench(
    count: Annotated[int, typer.Option(help="Memories to store.")] = 1_000,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Measure how quickly memories are stored and retrieved, in a temporary folder or where you say."""
    from gateway.cli.measuring import measure

    if count < BENCH_COUNT_MIN:
        raise usage(f"--count must be at least {BENCH_COUNT_MIN}.")
    is_nowhere = data_dir is None and url is None and runpod is None
    settings = {"MEMORY_EPHEMERAL": True} if is_nowhere else None
    with connected(data_dir, url, runpod, api_key, makes_folder=True, settings=settings) as client:
        rates = []
        for rate in measure(client, count):
            rates.append(rate)
            if not as_json:
                each_ms = 1000 / rate.per_second
                show(f"{rate.name:<18} {rate.per_second:>8,.0f}/s {each_ms:>8.2f} ms each")
    if as_json:
        print_json({rate.name: {"count": rate.count, "per_second": round(rate.per_second, 1)} for rate in rates})
