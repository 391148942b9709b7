"""The command line: `vector-memory`.

Each command is a call of the client (`vector_memory/client`), on a data folder in this process or on a service. This
package only shows memories and knows nothing else of them. Each command imports what it needs, to start quickly.

Exit codes: 0 done, 1 the service refused or failed, 2 the command line is wrong, 3 not found, 4 out of reach or not
ready yet, 130 interrupted.
"""

import typer

from gateway.cli import connecting, documents, examining, exchanging, memories, operating, researching, serving
from gateway.cli.command import Command, taking
from gateway.cli.failing import Commands
from gateway.cli.target import root_options

app = typer.Typer(
    cls=Commands,
    help="Long-term memory for AI agents: store, retrieve, delete, research.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not found, 4 out of reach, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(root_options)

MEMORIES, SERVICE = "Memories", "Service"
OnService = taking("data_dir", "url", "runpod", "api_key")
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.store)
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.retrieve)
app.command(cls=Command, rich_help_panel=MEMORIES)(researching.research)
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.get)
app.command("list", cls=Command, rich_help_panel=MEMORIES)(memories.list_memories)
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.history)
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.update)
app.command(cls=Command, rich_help_panel=MEMORIES)(memories.delete)
app.add_typer(documents.app, name="documents", rich_help_panel=MEMORIES)
app.command("export", cls=Command, rich_help_panel=MEMORIES)(exchanging.export_memories)
app.command("import", cls=Command, rich_help_panel=MEMORIES)(exchanging.import_memories)
app.command(cls=taking("data_dir"), rich_help_panel=SERVICE)(serving.serve)
app.command(cls=taking("data_dir", "url"), rich_help_panel=SERVICE)(connecting.mcp)
app.command(cls=taking("data_dir"), rich_help_panel=SERVICE)(examining.doctor)
app.command(cls=OnService, rich_help_panel=SERVICE)(operating.stats)
app.command(cls=OnService, rich_help_panel=SERVICE)(operating.snapshot)
app.command(cls=OnService, rich_help_panel=SERVICE)(operating.compact)
app.command(cls=OnService, rich_help_panel=SERVICE)(operating.bench)
