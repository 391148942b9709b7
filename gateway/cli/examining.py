"""The command doctor."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vector_memory.errors import StartupError

if TYPE_CHECKING:
    from memory_service.doctor import Report

_MARKS = {
    "ok": typer.style("ok     ", fg="green"),
    "note": typer.style("note   ", fg="yellow"),
    "problem": typer.style("problem", fg="red", bold=True),
}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool | None, typer.Option("--json", help="Print the report as JSON.")] = None,
    with_repair: Annotated[
        bool | None, typer.Option("--repair", help="Remove unusable snapshots and write a fresh one.")
    ] = None,
) -> None:
    """Examine a data folder without writing to it. Its workers may be running.

    The exit code is 0 when there is no problem, 1 when there is one, and 2 when there is no folder to examine.
    """
    from gateway.observability import logs

    logs.configure("error")  # the report says what the log would
    folder, scratch = _folder_to_examine(context.find_root().params["data_dir"])
    from memory_service.doctor import examine

    report = examine(folder, scratch)
    if with_repair:
        if not as_json:
            _print_report(report)
        report = _repaired(report, scratch)
    if as_json:
        print(json.dumps({**asdict(report), "problems": report.problems}, indent=2))
    else:
        _print_report(report)
    raise typer.Exit(1 if report.problems else 0)


def _folder_to_examine(data_dir: Path | None) -> tuple[Path, Path | None]:
    """Return the data folder and the folder for copies of catalogs; end the process if there is no data folder."""
    from gateway.settings import load

    try:
        settings = load({"MEMORY_DATA_DIR": data_dir}).memory
    except StartupError as error:
        raise _usage(str(error)) from error
    if settings.ephemeral and data_dir is None:
        raise _usage("MEMORY_EPHEMERAL is set, so no folder is kept; name one with --data-dir.")
    if not settings.data_dir.is_dir():
        raise _usage(f"{settings.data_dir} is not a folder; name one with --data-dir or MEMORY_DATA_DIR.")
    return settings.data_dir, settings.cache_dir


def _usage(line: str) -> typer.Exit:
    print(f"vector-memory: {line}", file=sys.stderr)
    return typer.Exit(2)


def _repaired(report: "Report", scratch: Path | None) -> "Report":
    """Announce a repair on stderr, make it and return the new report; return the same one if nothing was repaired."""
    from memory_service.doctor import RepairRefused, examine, plan, repair

    try:
        steps = plan(report)
        for step in steps or ["nothing: no snapshot needs it"]:
            print(f"vector-memory: repair will {step}" if steps else f"vector-memory: repairs {step}", file=sys.stderr)
        if not steps:
            return report
        print(f"vector-memory: wrote snapshot {repair(report, scratch)}", file=sys.stderr)
    except (RepairRefused, StartupError, OSError) as error:
        print(f"vector-memory: not repaired: {error}", file=sys.stderr)
        return report
    return examine(Path(report.folder), scratch)


def _print_report(report: "Report") -> None:
    """Print the report for a person: coloured on a terminal, plain when piped."""
    from memory_service.doctor import counted

    totals = report.totals
    held = f"{counted(sum(totals.memories.values()), 'memory')}, {counted(totals.tombstones, 'tombstone')}"
    journals = f"{counted(totals.journals, 'journal')} with {counted(totals.records, 'record')}"
    snapshots = f"{counted(totals.snapshots, 'snapshot')}; {counted(totals.bytes, 'byte')}"
    typer.echo(f"{report.folder}: {held}; {journals}, {snapshots}")
    for namespace, count in totals.memories.items():
        typer.echo(f"{count:>9,}  in namespace {namespace}")
    typer.echo()
    for finding in report.findings:
        typer.echo(f"{_MARKS[finding.severity]}  {finding.where}: {finding.what}")
        if finding.remedy:
            typer.echo(f"{'':9}{finding.remedy}")
    if report.unusable and report.refusal:
        typer.echo(f"\nA repair would be refused: {report.refusal}")
    notes = sum(finding.severity == "note" for finding in report.findings)
    typer.echo(f"\n{counted(report.problems, 'problem')}, {counted(notes, 'note')}")
