"""The commands for documents: documents add, list, delete."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.command import Command
from gateway.cli.failing import FAILED, say, usage
from gateway.cli.fields import Fields, asks
from gateway.cli.showing import counted, print_json, show_each, show_line
from gateway.cli.target import AsJson, connected, where

if TYPE_CHECKING:
    from vector_memory import Document, Uploaded

STDIN = Path("-")

app = typer.Typer(help="Keep documents: text, Markdown, HTML and PDF.", no_args_is_help=True)


@app.command(cls=Command)
@asks("vector_memory.documents:DocumentFields")
def add(
    context: typer.Context,
    fields: Fields,
    files: Annotated[list[Path], typer.Argument(help="Files. `-` reads one from standard input.", show_default=False)],
    id: Annotated[
        str | None, typer.Option(help="Your name for the document.", show_default="the path of the file")
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="text, markdown, html or pdf.", show_default="by the name of the file")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line for each document.")] = False,
) -> None:
    """Keep documents. Adding one again, by the same path or --id, replaces only what changed."""
    from vector_memory.errors import InvalidInput, LimitExceeded

    if len(files) > 1 and (id is not None or "title" in fields):
        raise usage("--id and --title are of one document; add them one by one.")
    failed = False
    with connected(context, makes_folder=True) as client:
        for file in files:
            is_stdin = file == STDIN
            try:
                uploaded = client.store_document(
                    sys.stdin.buffer.read() if is_stdin else file,
                    form=(form or "text") if is_stdin else form,
                    id=id or (None if is_stdin else file.as_posix()),
                    **fields,
                )
            except (InvalidInput, LimitExceeded) as error:  # of this file; the others are added all the same
                say(f"{file}: {error.message}")
                failed = True
                continue
            if as_json:
                print_json(uploaded.body())
            else:
                _show_uploaded(uploaded)
    if failed:
        raise typer.Exit(FAILED)


def _show_uploaded(uploaded: "Uploaded") -> None:
    document = uploaded.document
    counts = {name: getattr(uploaded, name) for name in ("stored", "updated", "unchanged", "deleted")}
    changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    show_line((document.id, "bold cyan"), (f"{counted(document.chunks, 'chunk')}: {changes}", "dim"))


@app.command("list", cls=Command)
@asks("vector_memory.documents:DocumentListing", without=("limit", "cursor", "consistency"))
def list_documents(
    context: typer.Context,
    fields: Fields,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show documents, in order of id."""
    with connected(context) as client:
        count = show_each(client.documents(**fields), _show, as_json=as_json)
    if not as_json:
        say(counted(count, "document"))


def _show(document: "Document") -> None:
    state = "" if document.is_complete else "partial: add it again"
    title = "" if document.title == document.id else document.title
    about = "  ".join(each for each in (document.library, counted(document.chunks, "chunk")) if each)
    show_line((document.id, "bold cyan"), (title, ""), (about, "dim"), (state, "yellow"))


@app.command(cls=Command)
def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(help="Ids of the documents.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Delete documents, each with all its chunks."""
    from vector_memory.operations import DELETE_DOCUMENT

    scope = where(context).scope
    with connected(context) as client:
        deleted = [client.call(DELETE_DOCUMENT, {"id": id, **scope}) for id in dict.fromkeys(ids)]
    if as_json:
        print_json({"namespace": deleted[0].namespace, "deleted": {one.id: one.chunks for one in deleted}})
        return
    for one in deleted:
        show_line(("deleted", "red"), (one.id, "bold cyan"), (counted(one.chunks, "chunk"), "dim"))
