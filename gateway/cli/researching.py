"""The command for questions."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failing import say
from gateway.cli.fields import Fields, asks
from gateway.cli.showing import print_json, safe, show, show_line
from gateway.cli.target import AsJson, connected, where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vector_memory import ResearchEvent
    from vector_memory.research import Answer

_COLOURS = {"supported": "green", "weak": "yellow", "unsupported": "red"}


@asks("vector_memory.research:ResearchRequest", argument="query")
def research(
    context: typer.Context,
    fields: Fields,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Show the answer as it comes.", show_default="on a terminal"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the memories, with citations."""
    context_only = "context_only" in fields
    can_stream = not (as_json or context_only or "strict" in fields) and where(context).runpod is None
    is_streamed = can_stream and (sys.stdout.isatty() if stream is None else stream)
    with connected(context) as client:
        answer = _show_stream(client.research_stream(**fields)) if is_streamed else client.research(**fields)
    if as_json:
        print_json(answer.body())
        return
    if answer.abstained and not answer.result:
        say("No memory answers this, so nothing was asked.")
    if answer.result and not is_streamed:
        show(answer.result)
        show()
    _show(answer, context_only=context_only)


def _show_stream(steps: "Iterable[ResearchEvent]") -> "Answer":
    """Show the text as it comes, and return the answer."""
    from vector_memory import Answer, Token

    is_begun = False
    try:
        for step in steps:
            match step:
                case Token(text=text):
                    is_begun = True
                    sys.stdout.write(safe(text))
                    sys.stdout.flush()
                case Answer():
                    return step
    finally:
        if is_begun:
            print("\n")
    raise AssertionError("a stream ends with an answer or an error")


def _show(answer: "Answer", *, context_only: bool) -> None:
    """Show the cited passages, each with the verdicts of its citations, and what else the caller should know."""
    for passage in answer.context:
        verdicts = list(dict.fromkeys(cited.verdict for cited in answer.citations if cited.n == passage.n))
        if context_only or verdicts:
            styled = [(verdict, _COLOURS[verdict]) for verdict in verdicts]
            show_line((f"[{passage.n}]", "yellow"), (passage.key, "bold cyan"), (passage.date[:10], "dim"), *styled)
            show(passage.content, "dim", indent=4)
    if answer.unknown_citations:
        numbers = ", ".join(map(str, answer.unknown_citations))
        say(f"The answer cites {numbers}, which no passage has.")
    if answer.removed:
        say(f"Left out because no memory supports it: {' '.join(answer.removed)}")
    for miss in answer.nearest:
        show_line(("nearest", "dim"), (miss.key, "bold cyan"))
        show(miss.content, "dim", indent=4)
    if answer.truncated:
        say("The answer stopped at --max-tokens.")
