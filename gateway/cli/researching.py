"""The command for questions."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failing import say
from gateway.cli.showing import print_json, safe, show, show_line
from gateway.cli.target import ApiKey, AsJson, DataDir, Filter, Namespace, RunPod, Url, connected, parsed
from vector_memory.memories import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vector_memory import ResearchEvent, ResearchFields
    from vector_memory.research import Answer

_COLOURS = {"supported": "green", "weak": "yellow", "unsupported": "red"}


def research(
    query: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    k: Annotated[int, typer.Option("-k", help="How many memories to retrieve.")] = 8,
    filter: Filter = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out lower scores, -1 to 1.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens the answer may have.")] = 2_000,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.7,
    strict: Annotated[bool, typer.Option("--strict", help="Leave out what no memory supports; never streams.")] = False,
    context_only: Annotated[bool, typer.Option("--context-only", help="Only the passages; call no LLM.")] = False,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Show the answer as it comes.", show_default="on a terminal"),
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Answer a question from the memories, with citations."""
    fields: ResearchFields = {
        "namespace": namespace,
        "k": k,
        "filter": parsed(filter, "--filter"),
        "min_score": min_score,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "strict": strict,
        "context_only": context_only,
    }
    can_stream = not (as_json or strict or context_only) and runpod is None
    is_streamed = can_stream and (sys.stdout.isatty() if stream is None else stream)
    with connected(data_dir, url, runpod, api_key) as client:
        answer = _told(client.research_stream(query, **fields)) if is_streamed else client.research(query, **fields)
    if as_json:
        print_json(answer.body())
        return
    if answer.abstained and not answer.result:
        say("No memory answers this, so nothing was asked.")
    if answer.result and not is_streamed:
        show(answer.result)
        show()
    _show(answer, context_only=context_only)


def _told(steps: "Iterable[ResearchEvent]") -> "Answer":
    """Show the text as it comes; the answer."""
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
    raise AssertionError("a stream ends in an answer or an error")


def _show(answer: "Answer", *, context_only: bool) -> None:
    """The passages that are cited, each with what its citations are worth, and what else is to know."""
    for passage in answer.context:
        verdicts = list(dict.fromkeys(cited.verdict for cited in answer.citations if cited.n == passage.n))
        if context_only or verdicts:
            told = [(verdict, _COLOURS[verdict]) for verdict in verdicts]
            show_line((f"[{passage.n}]", "yellow"), (passage.key, "bold cyan"), (passage.date[:10], "dim"), *told)
            show(passage.content, "dim", indent=4)
    if answer.unknown_citations:
        numbers = ", ".join(map(str, answer.unknown_citations))
        say(f"The answer cites {numbers}, which no passage has.")
    if answer.removed:
        say(f"Left out, since no memory supports it: {' '.join(answer.removed)}")
    for miss in answer.nearest:
        show_line(("nearest", "dim"), (miss.key, "bold cyan"))
        show(miss.content, "dim", indent=4)
    if answer.truncated:
        say("The answer stopped at --max-tokens.")
