"""Measures how well the real worker finds the right memories over HTTP, by questions whose evidence is known.

It stores public conversations and document collections, which you get yourself (docs/quality.md), with default
settings. Each conversation has a namespace of its own and is stored in three ways. It asks every question in every mode
and prints tables. `benchmarks/judging.py` says what the figures are. A run takes about 10 minutes on two cores. Two
thirds of the time are spent embedding documents.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import asking, conversations, judged_documents, judging, machine
from benchmarks.asking import MODES, VARIANTS
from benchmarks.conversations import Dialogue
from benchmarks.figures import Table, rendered, write_json
from benchmarks.http_client import Client
from benchmarks.judged_documents import Collection
from benchmarks.judging import HEADLINES, MEASURES, Judged, interval, mean
from benchmarks.service_process import ServiceProcess

PARTS = ("development", "held out", "not looked at")
ALL = "all"
"""Name of all parts together."""

BRIEF = ("any@1", "any@5", "any@10", "any@20", "recall@10", "all@10", "nDCG@10", "MRR")


@dataclass(frozen=True, slots=True)
class Run:
    """The judged questions of one way to store and one mode.

    Attributes:
        variant: how turns were stored.
        mode: mode of the retrieves.

    """

    variant: str
    mode: str
    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True)
class Documents:
    """A collection with its mean nDCG@10 by mode, in percent."""

    name: str
    documents: int
    queries: int
    ndcg: dict[str, float]


def main() -> None:
    """Measure, then print the tables."""
    arguments = _arguments()
    dialogues, collections = _read(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vector-memory-quality-") as folder:
        runs, documents = _measured(dialogues, collections, Path(folder))
    about = {**machine.described(), "took": f"{time.monotonic() - began:.0f} s"}
    tables = list(_tables(dialogues, runs, documents))
    print("\n\n".join(["\n".join(f"{name}: {value}" for name, value in about.items()), *map(rendered, tables)]))
    if arguments.json:
        write_json(arguments.json, _results(about, runs, documents))
    if arguments.ranks:
        arguments.ranks.write_text(json.dumps(_ranks(runs)), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--locomo", type=Path, metavar="FILE", help="LoCoMo's JSON, such as locomo10.json")
    parser.add_argument("--realtalk", type=Path, metavar="FOLDER", help="REALTALK's JSON files")
    parser.add_argument("--beir", type=Path, metavar="FOLDER", action="append", default=[], help="a BEIR collection")
    parser.add_argument("--skip-beir", action="store_true", help="leave the collections out")
    parser.add_argument("--quick", action="store_true", help="the first conversation alone, in a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--ranks", type=Path, metavar="FILE", help="write the ranks of each question's evidence there")
    return parser.parse_args()


def _read(arguments: argparse.Namespace) -> tuple[list[Dialogue], list[Collection]]:
    dialogues = conversations.locomo(arguments.locomo) if arguments.locomo else []
    dialogues += conversations.realtalk(arguments.realtalk) if arguments.realtalk else []
    folders: list[Path] = [] if arguments.skip_beir or arguments.quick else arguments.beir
    if arguments.quick:
        dialogues = dialogues[:1]
    if not dialogues and not folders:
        sys.exit("Nothing to measure: name --locomo, --realtalk or --beir.")
    return dialogues, [judged_documents.read(folder) for folder in folders]


def _measured(
    dialogues: Sequence[Dialogue], collections: Sequence[Collection], folder: Path
) -> tuple[list[Run], list[Documents]]:
    with ServiceProcess(folder) as service, Client(service.ready_port()) as client:
        runs = [run for variant in VARIANTS for run in _runs(client, dialogues, variant)] if dialogues else []
        return runs, [_documents(client, one) for one in collections]


def _runs(client: Client, dialogues: Sequence[Dialogue], variant: asking.Variant) -> Iterator[Run]:
    answered = [asking.dialogue(client, one, variant) for one in dialogues]
    for mode in MODES:
        yield Run(variant.name, mode, tuple(judged for one in answered for judged in one[mode]))


def _documents(client: Client, one: Collection) -> Documents:
    found = asking.collection(client, one)
    means = {mode: 100 * sum(values) / len(values) for mode, values in found.items()}
    return Documents(one.name, len(one.documents), len(one.queries), means)


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(dialogues: Sequence[Dialogue], runs: Sequence[Run], documents: Sequence[Documents]) -> Iterator[Table]:
    if runs:
        yield _sources_table(dialogues)
        yield _headline_table(runs)
    for source in dict.fromkeys(one.source for one in dialogues):
        of_source = [_of_source(run, source) for run in runs]
        yield _modes_table(source, of_source)
        yield _recall_table(source, of_source)
        default = of_source[0]
        yield _grouped_table(f"{source}, by category", default, lambda one: one.category)
        yield _grouped_table(f"{source}, by conversation", default, lambda one: f"{one.conversation} ({one.part})")
        yield _parts_table(source, of_source)
    if documents:
        yield _documents_table(documents)


def _of_source(run: Run, source: str) -> Run:
    return replace(run, judged=tuple(one for one in run.judged if one.source == source))


def _sources_table(dialogues: Sequence[Dialogue]) -> Table:
    rows = []
    for source in dict.fromkeys(one.source for one in dialogues):
        chosen = [one for one in dialogues if one.source == source]
        counts = (
            len(chosen),
            sum(len(one.turns) for one in chosen),
            sum(len(one.questions) for one in chosen),
            sum(one.passed_over for one in chosen),
        )
        rows.append((source, *map(str, counts)))
    return Table(
        "What was asked",
        ("data", "conversations", "turns", "questions", "passed over"),
        tuple(rows),
        ("Passed over: questions without an answer (LoCoMo's category 5) or without a turn that answers them.",),
    )


def _headline_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs[:1]:
        for source in dict.fromkeys(one.source for one in run.judged):
            judged = _of_source(run, source).judged
            rows += [(source, name, f"{mean(judged, name):.1f}", _between(judged, name)) for name in HEADLINES]
    return Table(
        "Default retrieve over text with metadata",
        ("data", "figure", "mean", "95 % interval"),
        tuple(rows),
        (
            f"Percentiles of {judging.RESAMPLES} bootstrap samples of the questions; those of one conversation hang "
            "together, so the truth is less certain.",
        ),
    )


def _between(judged: Sequence[Judged], measure: str) -> str:
    low, high = interval(judged, measure)
    return f"{low:.1f} to {high:.1f}"


def _modes_table(source: str, runs: Sequence[Run]) -> Table:
    return Table(
        f"{source}: {len(runs[0].judged)} questions, by how turns are stored and by mode",
        ("stored as", "mode", *BRIEF, "tokens@10"),
        tuple((run.variant, run.mode, *_figures(run.judged, BRIEF), f"{_tokens(run.judged):.0f}") for run in runs),
        (
            "tokens@10: mean tokens in the contents of the first ten memories, by the estimate that research packs "
            "by (`memory_service/tokens.py`), which is a third too high for English.",
        ),
    )


def _recall_table(source: str, runs: Sequence[Run]) -> Table:
    names = tuple(f"recall@{k}" for k in (1, 5, 10, 20))
    rows = ((run.variant, run.mode, *_figures(run.judged, names)) for run in runs)
    return Table(f"{source}: the share of the evidence found", ("stored as", "mode", *names), tuple(rows))


def _grouped_table(title: str, run: Run, group: Callable[[Judged], str]) -> Table:
    groups: dict[str, list[Judged]] = {}
    for one in run.judged:
        groups.setdefault(group(one), []).append(one)
    rows = ((name, str(len(judged)), *_figures(judged, BRIEF)) for name, judged in groups.items())
    return Table(f"{title} ({run.mode}, {run.variant})", ("", "questions", *BRIEF), tuple(rows))


def _parts_table(source: str, runs: Sequence[Run]) -> Table:
    names = ("any@10", "recall@10", "nDCG@10")
    rows = []
    for run in runs:
        for part in PARTS:
            judged = [one for one in run.judged if one.part == part]
            if judged:
                rows.append((run.variant, run.mode, part, str(len(judged)), *_figures(judged, names)))
    return Table(f"{source}, by part", ("stored as", "mode", "part", "questions", *names), tuple(rows))


def _documents_table(documents: Sequence[Documents]) -> Table:
    rows = (
        (one.name, str(one.documents), str(one.queries), *(f"{one.ndcg[mode]:.1f}" for mode in MODES))
        for one in documents
    )
    return Table(
        "Documents: nDCG@10",
        ("collection", "documents", "queries", *MODES),
        tuple(rows),
        ("Title and text as one content, no metadata, stored in an order shuffled with a fixed seed.",),
    )


def _figures(judged: Sequence[Judged], names: Sequence[str]) -> list[str]:
    return [f"{mean(judged, name):.1f}" for name in names]


def _tokens(judged: Sequence[Judged]) -> float:
    return sum(one.tokens for one in judged) / len(judged)


# -- files -------------------------------------------------------------------------------------------------------------


def _results(about: Mapping[str, str], runs: Sequence[Run], documents: Sequence[Documents]) -> dict[str, object]:
    return {
        "run": about,
        "asked": [
            {"variant": run.variant, "mode": run.mode, **group} for run in runs for group in _by_source_and_part(run)
        ],
        "documents": [asdict(one) for one in documents],
    }


def _by_source_and_part(run: Run) -> Iterator[dict[str, object]]:
    for source in dict.fromkeys(one.source for one in run.judged):
        of_source = _of_source(run, source).judged
        for part in (ALL, *PARTS):
            judged = [one for one in of_source if part in (ALL, one.part)]
            if judged:
                means = {measure: mean(judged, measure) for measure in MEASURES}
                counted = {"source": source, "part": part, "questions": len(judged)}
                yield {**counted, "figures": means, "any_by_k": judging.any_by_k(judged)}


def _ranks(runs: Sequence[Run]) -> list[dict[str, object]]:
    return [
        {"variant": run.variant, "mode": run.mode, "questions": [asdict(one) for one in run.judged]} for run in runs
    ]


if __name__ == "__main__":
    main()
