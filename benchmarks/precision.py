"""Measures what int8 gains and costs: the speed of the model in fp32 and int8, and what each finds, in one run.

Speed is the bare model's with the service's default threads. The two precisions take turns, so a busy neighbour slows
both. Neighbours are the texts whose vectors are nearest to a query's vector, found exactly. Each precision is compared
within its own vectors, as in a data folder. Evidence is what the real worker finds over HTTP with default settings
except the precision. `benchmarks/judging.py` says what its figures are. A run takes about three minutes on two cores
with one conversation.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks import asking, conversations, judging, machine, texts
from benchmarks.asking import WITH_METADATA
from benchmarks.bare_model import BareModel
from benchmarks.conversations import Dialogue
from benchmarks.figures import Table, latencies, ms, rendered, times
from benchmarks.http_client import Client
from benchmarks.judging import Judged
from benchmarks.service_process import ServiceProcess
from memory_service.embedding.embedder import Vectors
from memory_service.embedding.minilm import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
TEXTS, QUERIES = 2_000, 400
SLICES = 10
"""Number of turns in which each precision embeds the texts. The rate is the median over them."""

NEIGHBOURS = 10
MODES = ("dense", "hybrid")
MEASURES = ("any@10", "recall@10")


@dataclass(slots=True)
class Measured:
    """The figures and vectors of one precision.

    Attributes:
        rates: texts embedded in a second, for each slice.
        query_s: seconds of each query, embedded alone.
        vectors: vector (384,) of each text's first window.
        queries: vector (384,) of each query.

    """

    rates: list[float] = field(default_factory=list)
    query_s: list[float] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    queries: list[Vectors] = field(default_factory=list)

    def neighbours(self) -> NDArray[np.int64]:
        """Return the nearest texts of each query, (queries, 10), in no order."""
        # (queries, texts) the cosine of every query to every text.
        scores = np.stack(self.queries) @ np.stack(self.vectors).T
        return np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def main() -> None:
    """Measure, then print the tables."""
    arguments = _arguments()
    chosen = texts.from_file(arguments.texts, TEXTS) if arguments.texts else texts.synthetic(TEXTS)
    dialogues = conversations.locomo(arguments.locomo)[: arguments.conversations] if arguments.locomo else []
    measured = _measured(chosen.lines)
    found = {precision: _evidence(dialogues, precision) for precision in PRECISIONS} if dialogues else {}
    about = {**machine.described(), "texts": chosen.source, "load over the last minute": machine.load()}
    tables = [_model_table(measured)]
    if found:
        tables.append(_evidence_table(found, [one.name for one in dialogues]))
    print("\n\n".join(["\n".join(f"{name}: {value}" for name, value in about.items()), *map(rendered, tables)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--texts", type=Path, metavar="FILE", help="texts, one a line, perhaps compressed with gzip")
    parser.add_argument("--locomo", type=Path, metavar="FILE", help="LoCoMo's JSON, for evidence")
    parser.add_argument("--conversations", type=int, metavar="N", help="the first of them only")
    return parser.parse_args()


def _measured(lines: Sequence[str]) -> dict[Precision, Measured]:
    models = {precision: BareModel(precision) for precision in PRECISIONS}
    measured = {precision: Measured() for precision in PRECISIONS}
    for model in models.values():
        model.embed_all(lines[:50])
    for begin in range(0, len(lines), len(lines) // SLICES):
        part = lines[begin : begin + len(lines) // SLICES]
        for precision, model in models.items():
            started = time.perf_counter()
            vectors = model.embed_all(part)
            measured[precision].rates.append(len(part) / (time.perf_counter() - started))
            measured[precision].vectors += [windows[0] for windows in vectors]
    for line in lines[:QUERIES]:
        query = texts.query(line)
        for precision, model in models.items():
            started = time.perf_counter()
            (vector,) = model.embed_one(query)
            measured[precision].query_s.append(time.perf_counter() - started)
            measured[precision].queries.append(vector)
    return measured


def _evidence(dialogues: Sequence[Dialogue], precision: Precision) -> dict[str, list[Judged]]:
    settings = {"MEMORY_EMBEDDING_PRECISION": precision}
    with (
        tempfile.TemporaryDirectory(prefix="vector-memory-precision-") as folder,
        ServiceProcess(Path(folder), settings=settings) as service,
        Client(service.ready_port()) as client,
    ):
        answered = [asking.dialogue(client, one, WITH_METADATA) for one in dialogues]
    return {mode: [judged for one in answered for judged in one[mode]] for mode in MODES}


def _model_table(measured: dict[Precision, Measured]) -> Table:
    reference = measured["fp32"]
    nearest = reference.neighbours()
    rows = []
    for precision, one in measured.items():
        # (texts,) the cosine of each text's two vectors: in this precision and in fp32.
        cosines = (np.stack(one.vectors) * np.stack(reference.vectors)).sum(axis=1)
        # (queries,) the share of fp32's nearest texts that this precision finds, too.
        shared = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(one.neighbours(), nearest, strict=True)]
        rows.append(
            (
                precision,
                f"{median(one.rates):.0f}",
                times(median(one.rates) / median(reference.rates)),
                ms(latencies(one.query_s).p50_ms),
                f"{cosines.mean():.4f}",
                f"{cosines.min():.4f}",
                f"{100 * np.mean(shared):.1f}",
            )
        )
    columns = ("", "texts/s", "to fp32", "query p50 ms", "cosine to fp32, mean", "least", "recall@10 of its neighbours")
    notes = (
        f"{TEXTS} texts, {QUERIES} queries of {texts.QUERY_WORDS} words.",
        "Recall of fp32's ten nearest texts, in percent. Most of what differs are near ties.",
    )
    return Table("The model", columns, tuple(rows), notes)


def _evidence_table(found: dict[Precision, dict[str, list[Judged]]], names: Sequence[str]) -> Table:
    return Table(
        f"Evidence found in {', '.join(names)}",
        ("", "mode", "questions", *MEASURES, "any@10, 95 % interval"),
        tuple(_evidence_rows(found)),
    )


def _evidence_rows(found: dict[Precision, dict[str, list[Judged]]]) -> Iterator[tuple[str, ...]]:
    for mode in MODES:
        for precision, by_mode in found.items():
            judged = by_mode[mode]
            low, high = judging.interval(judged, "any@10")
            figures = (f"{judging.mean(judged, name):.1f}" for name in MEASURES)
            yield precision, mode, str(len(judged)), *figures, f"{low:.1f} to {high:.1f}"


if __name__ == "__main__":
    main()
