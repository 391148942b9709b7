"""A tool of your own, as docs/tools.md explains it: what is known about one lead, newest first.

A package offers it by an entry point in its pyproject.toml:

    [project.entry-points."vector_memory.tools"]
    leads_tool = "leads_tool:TOOL"
"""

from typing import Any

from gateway.serving.services import Services
from gateway.tools.toolbox import Hints, Parameters, Tool

NOTES_MAX = 10


class LeadSummary(Parameters):
    """Parameters of the tool; unknown or mistyped ones are refused before it runs."""

    lead: str
    namespace: str = "default"


def lead_summary(services: Services, asked: LeadSummary) -> dict[str, Any]:
    """Runs in a thread. Errors of the service reach the caller as they are."""
    page = services.memories.list(namespace=asked.namespace, filter={"lead": asked.lead}, limit=NOTES_MAX)
    notes = [{"key": memory.key, "content": memory.content} for memory in page.memories]
    return {"lead": asked.lead, "notes": notes, "more": page.cursor is not None}


TOOL = Tool(
    "lead_summary",
    "What is remembered about one lead, newest first.",
    LeadSummary,
    lead_summary,
    Hints(read_only=True, idempotent=True),
)
