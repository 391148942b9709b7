"""The commands export and import."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failing import FAILED, say, usage
from gateway.cli.showing import console, counted, print_json, safe
from gateway.cli.target import connected, where
from vector_memory.errors import InvalidInput

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.exchange.importing import ImportResult

STDIO = Path("-")
PROBLEMS_SHOWN = 20


def export_memories(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write. `-` is standard output.")] = STDIO,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Only this namespace; can be repeated.", show_default="all"),
    ] = None,
    vectors: Annotated[bool, typer.Option(help="Include the vectors, so that an import need not embed.")] = True,
) -> None:
    """Write every memory to a file, one JSON object a line."""
    from gateway.exchange.exporting import header, lines

    if file == STDIO and sys.stdout.isatty():
        raise usage("Name a file, or pipe the output.")
    count = 0
    with connected(context) as client:
        stats = client.stats()
        wanted = [*dict.fromkeys(namespace or where(context).scope.values() or stats.namespaces)]
        total = sum(stats.namespaces.get(each, 0) for each in wanted)
        exported = lines(client, wanted, vectors=vectors)
        with _line_writer(file) as write, _progress() as progress:
            task = progress.add_task("export", total=total)
            write(header(stats))
            for count, line in enumerate(exported, 1):
                write(line)
                progress.update(task, completed=count)
    say(f"exported {counted(count, 'memory', 'memories')}")


@contextlib.contextmanager
def _line_writer(file: Path) -> Iterator[Any]:
    """Yield a function that writes a line. The file gets its name only when it is complete."""
    if file == STDIO:
        yield lambda line: sys.stdout.write(json.dumps(line) + "\n")
        return
    is_replaced = not file.exists() or file.is_file() or file.is_dir()  # a pipe or a device must stay one
    part = file.with_name(f"{file.name}.part") if is_replaced else file
    try:
        with part.open("w", encoding="utf-8") as out:
            yield lambda line: out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            if is_replaced:
                os.fsync(out.fileno())
        if is_replaced:
            part.replace(file)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror or error}.", field="file") from error
    finally:
        if is_replaced:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def import_memories(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file or folder. `-` is standard input.", show_default=False)],
    format: Annotated[str, typer.Option(help="auto, jsonl, text, markdown, mem0, chroma or mcp.")] = "auto",
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Namespace of all of them.", show_default="their own, or default"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be imported, and store nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Store the memories of a file or folder: an export, texts, or the data of another memory program.

    Memories that are already there stay as they are, so an interrupted import can be repeated.
    """
    from gateway.exchange.formats import Format, read
    from gateway.exchange.importing import import_items

    if format not in list(Format):
        raise usage(f"--format must be one of {', '.join(Format)}.")
    items = read(path, Format(format), namespace or where(context).namespace, sys.stdin.buffer)
    if dry_run:
        _show_items(items)
        return
    with connected(context, makes_folder=True) as client, _progress() as progress:
        task = progress.add_task("import", total=None)
        outcome = import_items(client, items, lambda so_far: progress.update(task, completed=so_far.seen))
    _show_outcome(outcome, as_json=as_json)
    if outcome.problems:
        raise typer.Exit(FAILED)


def _show_items(items: Any) -> None:
    """Print every memory as a line of JSON, and every problem as a sentence."""
    from gateway.exchange.items import Problem

    problems = 0
    for item in items:
        if isinstance(item, Problem):
            say(safe(f"{item.where}: {item.reason}"))
            problems += 1
            continue
        memory = item.memory
        shown = {"namespace": memory.namespace, "key": memory.key, "content": memory.content}
        print_json({**shown, "metadata": memory.metadata, "created_at": memory.created_at})
    if problems:
        raise typer.Exit(FAILED)


def _show_outcome(outcome: "ImportResult", *, as_json: bool) -> None:
    counts = {name: getattr(outcome, name) for name in ("stored", "updated", "unchanged", "expired")}
    shown = outcome.problems if as_json else outcome.problems[:PROBLEMS_SHOWN]
    if as_json:
        problems = [{"where": problem.where, "reason": problem.reason} for problem in shown]
        print_json({**counts, "problems": problems})
        return
    for problem in shown:
        say(safe(f"{problem.where}: {problem.reason}"))
    if len(outcome.problems) > len(shown):
        say(f"... and {len(outcome.problems) - len(shown):,} more; --json lists all of them")
    parts = [f"{count:,} {name}" for name, count in counts.items() if count]
    if outcome.problems:
        parts.append(f"{len(outcome.problems):,} not imported")
    say(", ".join(parts) or "nothing to import")


def _progress() -> "Progress":
    """Return a progress bar with its rate, on stderr if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """A column that shows memories per second."""

        def render(self, task: Task) -> Text:
            """Return the rate, such as 1,200/s."""
            return Text("" if task.speed is None else f"{task.speed:,.0f}/s", style="dim")

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), RateColumn())
    err = console(stderr=True)
    return Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
