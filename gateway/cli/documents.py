"""The commands for documents: documents add, list, delete."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failing import FAILED, say, usage
from gateway.cli.showing import counted, print_json, show_line
from gateway.cli.target import ApiKey, AsJson, DataDir, Namespace, RunPod, Url, connected, parsed
from vector_memory.memories import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from vector_memory import Document, Uploaded

STDIN = Path("-")

app = typer.Typer(help="Keep documents: text, Markdown, HTML and PDF.", no_args_is_help=True)


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Files; - reads one from stdin.", show_default=False)],
    id: Annotated[str | None, typer.Option(help="Your name for it.", show_default="the path of the file")] = None,
    library: Annotated[str | None, typer.Option(help="The library whose documentation they are part of.")] = None,
    topic: Annotated[str | None, typer.Option(help="What they are about.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the document.", show_default="its own")] = None,
    form: Annotated[
        str | None, typer.Option(help="text, markdown, html or pdf.", show_default="by the name of the file")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object.", metavar="JSON")] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each, a line each.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Keep documents. Adding one again, by the same path or --id, replaces only what changed."""
    from vector_memory.errors import InvalidInput, LimitExceeded

    if len(files) > 1 and (id is not None or title is not None):
        raise usage("--id and --title are of one document; add them one by one.")
    fields = parsed(metadata, "--metadata")
    failed = False
    with connected(data_dir, url, runpod, api_key, makes_folder=True) as client:
        for file in files:
            is_stdin = file == STDIN
            try:
                uploaded = client.store_document(
                    sys.stdin.buffer.read() if is_stdin else file,
                    form=(form or "text") if is_stdin else form,
                    id=id or (None if is_stdin else file.as_posix()),
                    namespace=namespace,
                    title=title,
                    library=library,
                    topic=topic,
                    metadata=fields,
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
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    show_line((document.id, "bold cyan"), (f"{counted(document.chunks, 'chunk')}: {told}", "dim"))


@app.command("list")
def list_documents(
    library: Annotated[str | None, typer.Option(help="Only those of this library.")] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Show documents, in order of id."""
    count = 0
    with connected(data_dir, url, runpod, api_key) as client:
        for document in client.documents(namespace=namespace, library=library):
            count += 1
            if as_json:
                print_json(document.body())
            else:
                _show(document)
    if not as_json:
        say(counted(count, "document"))


def _show(document: "Document") -> None:
    state = "" if document.is_complete else "partial: add it again"
    title = "" if document.title == document.id else document.title
    about = "  ".join(each for each in (document.library, counted(document.chunks, "chunk")) if each)
    show_line((document.id, "bold cyan"), (title, ""), (about, "dim"), (state, "yellow"))


@app.command()
def delete(
    ids: Annotated[list[str], typer.Argument(help="Of the documents.", show_default=False)],
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Delete documents, each with all its chunks."""
    with connected(data_dir, url, runpod, api_key) as client:
        deleted = {id: client.delete_document(id, namespace=namespace).chunks for id in dict.fromkeys(ids)}
    if as_json:
        print_json({"namespace": namespace, "deleted": deleted})
        return
    for id, chunks in deleted.items():
        show_line(("deleted", "red"), (id, "bold cyan"), (counted(chunks, "chunk"), "dim"))
