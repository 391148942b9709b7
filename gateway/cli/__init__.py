"""The command line: `vector-memory`.

Each command is a call of the client (`vector_memory/client`), on a data folder in this process or on a service. Nothing
here knows more of memories than how to show them; what takes long to import is imported by the command that needs it.

Exit codes: 0 done, 1 the service refused or failed, 2 the command line is wrong, 3 not found, 4 out of reach or not
ready yet, 130 interrupted.
"""

import typer

from gateway.cli import connecting, documents, examining, exchanging, memories, operating, researching, serving
from gateway.cli.failing import Commands

app = typer.Typer(
    cls=Commands,
    help="Long-term memory for AI agents: store, retrieve, delete, research.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 out of reach, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main() -> None:
    """Long-term memory for AI agents: store, retrieve, delete, research."""


MEMORIES, SERVICE = "Memories", "Service"
app.command(rich_help_panel=MEMORIES)(memories.store)
app.command(rich_help_panel=MEMORIES)(memories.retrieve)
app.command(rich_help_panel=MEMORIES)(researching.research)
app.command(rich_help_panel=MEMORIES)(memories.get)
app.command("list", rich_help_panel=MEMORIES)(memories.list_memories)
app.command(rich_help_panel=MEMORIES)(memories.history)
app.command(rich_help_panel=MEMORIES)(memories.update)
app.command(rich_help_panel=MEMORIES)(memories.delete)
app.add_typer(documents.app, name="documents", rich_help_panel=MEMORIES)
app.command("export", rich_help_panel=MEMORIES)(exchanging.export_memories)
app.command("import", rich_help_panel=MEMORIES)(exchanging.import_memories)
app.command(rich_help_panel=SERVICE)(serving.serve)
app.command(rich_help_panel=SERVICE)(connecting.mcp)
app.command(rich_help_panel=SERVICE)(examining.doctor)
app.command(rich_help_panel=SERVICE)(operating.stats)
app.command(rich_help_panel=SERVICE)(operating.snapshot)
app.command(rich_help_panel=SERVICE)(operating.compact)
app.command(rich_help_panel=SERVICE)(operating.bench)
