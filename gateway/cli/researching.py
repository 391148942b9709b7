"""The command for questions."""

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failing import say
from gateway.cli.showing import print_json, show, show_line
from gateway.cli.target import ApiKey, AsJson, DataDir, Filter, Namespace, RunPod, Url, connected, parsed
from memory_service.model import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from research.model import Answer


def research(
    query: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    k: Annotated[int, typer.Option("-k", help="How many memories to retrieve.")] = 8,
    filter: Filter = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out lower scores, -1 to 1.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens the answer may have.")] = 2_000,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.7,
    context_only: Annotated[bool, typer.Option("--context-only", help="Only the passages; call no LLM.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    url: Url = None,
    runpod: RunPod = None,
    api_key: ApiKey = None,
) -> None:
    """Answer a question from the memories, with citations."""
    from gateway import wire

    conditions = parsed(filter, "--filter")
    with connected(data_dir, url, runpod, api_key) as client:
        answer = client.research(
            query,
            namespace=namespace,
            k=k,
            filter=conditions,
            min_score=min_score,
            max_tokens=max_tokens,
            temperature=temperature,
            context_only=context_only,
        )
    if as_json:
        print_json(wire.answer_body(answer))
    else:
        _show(answer, context_only=context_only)


def _show(answer: "Answer", *, context_only: bool) -> None:
    if answer.abstained:
        say("No memory matches, so nothing was asked.")
    if answer.result:
        show(answer.result)
        show()
    cited = {citation.n for citation in answer.citations}
    for passage in answer.context:
        if context_only or passage.n in cited:
            show_line((f"[{passage.n}]", "yellow"), (passage.key, "bold cyan"), (passage.date[:10], "dim"))
            show(passage.content, "dim", indent=4)
    if answer.unknown_citations:
        numbers = ", ".join(map(str, answer.unknown_citations))
        say(f"The answer cites {numbers}, which no passage has.")
    if answer.truncated:
        say("The answer stopped at --max-tokens.")
