"""Measures the main job on the real worker: start, store, retrieve, size. `python -m benchmarks.main_job`.

Absolute times depend on the machine. So every table has the bare model, too, measured in turns with the service in the
same run. Progress goes to stderr, tables to stdout.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import cold_start, footprint, machine, prefilled, retrieving, storing, texts
from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, Table, ms, rendered, write_json
from benchmarks.http_client import Client
from benchmarks.prefilled import Prefilled
from benchmarks.service_process import ServiceProcess
from benchmarks.texts import Texts


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts that are measured.

    Attributes:
        sizes: numbers of memories held, ascending.
        embedded_max: most memories of a folder that get real vectors. The others get derived ones.
        starts: number of cold starts over each folder.
        import_runs: number of starts whose imports are timed. The cheapest counts.
        queries: number of queries for each row of the retrieve table.
        singles: number of texts stored one at a time.
        batches: number of batches.
        batch_texts: number of texts in a batch.

    """

    sizes: tuple[int, ...]
    embedded_max: int
    starts: int
    import_runs: int
    queries: int
    singles: int
    batches: int
    batch_texts: int

    @property
    def singles_size(self) -> int:
        """Return the size at which single stores are measured: the aims' size if it is planned, or else the largest."""
        return retrieving.AIM_SIZE if retrieving.AIM_SIZE in self.sizes else self.sizes[-1]

    @property
    def texts(self) -> int:
        """Return the number of distinct texts that the plan needs."""
        return self.sizes[-1] + self.queries + self.singles + self.batches * self.batch_texts


FULL_SIZES = (1_000, 10_000, 100_000)
QUICK = Plan((200, 1_000), 300, 2, 1, 50, 50, 2, 100)


def full(sizes: Sequence[int]) -> Plan:
    """Return the full plan. It takes some minutes on two cores, most of them in the model."""
    return Plan(tuple(sorted(sizes)), 10_000, 5, 3, 300, 300, 6, 1_000)


@dataclass(frozen=True, slots=True)
class Work:
    """The plan's texts, split by use. Nothing is stored twice or asked for verbatim."""

    stored: Sequence[str]
    queries: Sequence[str]
    singles: Sequence[str]
    batches: Sequence[str]


@dataclass(frozen=True, slots=True)
class Served:
    """The figures of one worker over prefilled memories."""

    footprint: footprint.Footprint
    retrieves: retrieving.Retrieving
    crowd: retrieving.Crowd
    singles: storing.Singles | None


@dataclass(frozen=True, slots=True)
class Fresh:
    """The figures of a worker that began empty."""

    footprint: footprint.Footprint
    client_overhead: Latencies
    batches: list[storing.Batch]


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of a run."""

    cold_starts: list[cold_start.ColdStart]
    imports: cold_start.Imports
    fresh: Fresh
    served: list[Served]


def main() -> None:
    """Measure, then print the tables."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else full(arguments.sizes)
    chosen = texts.from_file(arguments.texts, plan.texts) if arguments.texts else texts.synthetic(plan.texts)
    about = _about(chosen, plan)
    with tempfile.TemporaryDirectory(prefix="vector-memory-benchmark-") as folder:
        results = _measured(plan, _split(chosen, plan), Path(folder))
    about["load at the end"] = machine.load()
    print(_report(about, results))
    if arguments.json:
        write_json(arguments.json, {"run": about, **asdict(results)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.main_job", description=__doc__)
    parser.add_argument("--texts", type=Path, metavar="FILE[.gz]", help="texts to store, one a line")
    parser.add_argument("--sizes", type=_sizes, default=FULL_SIZES, help="memories held, such as 1000,10000,100000")
    parser.add_argument("--quick", action="store_true", help="everything at small sizes, in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _split(chosen: Texts, plan: Plan) -> Work:
    lines, at = chosen.lines, plan.sizes[-1]
    queries = [texts.query(line) for line in lines[at : at + plan.queries]]
    at += plan.queries
    return Work(lines[: plan.sizes[-1]], queries, lines[at : at + plan.singles], lines[at + plan.singles :])


def _measured(plan: Plan, work: Work, folder: Path) -> Results:
    model = BareModel()
    folders = list(_prefilled(plan, work, model, folder))
    cold_starts = [cold_start.measure(one, plan.starts) for one in folders]
    imports = cold_start.imports(folder / "imports", plan.import_runs)
    fresh = _fresh(plan, work, model, folder / "fresh")
    served = [_served(plan, work, model, one) for one in folders]
    return Results(cold_starts, imports, fresh, served)


def _prefilled(plan: Plan, work: Work, model: BareModel, folder: Path) -> Iterator[Prefilled]:
    embedded = model.embed_all(work.stored[: plan.embedded_max], progress="embedding what is stored")
    for size in plan.sizes:
        yield prefilled.write(folder / str(size), work.stored[:size], embedded[:size], model.fingerprint)


def _fresh(plan: Plan, work: Work, model: BareModel, folder: Path) -> Fresh:
    folder.mkdir()
    with ServiceProcess(folder) as service, Client(service.ready_port()) as client:
        begun = footprint.of_started(service, 0, 0)
        overhead = retrieving.client_overhead(client, plan.queries)
        batches = storing.batches(service, client, model, work.batches, plan.batch_texts)
        return Fresh(footprint.once_used(begun, service), overhead, batches)


def _served(plan: Plan, work: Work, model: BareModel, folder: Prefilled) -> Served:
    print(f"retrieve among {folder.count} memories", file=sys.stderr)
    with ServiceProcess(folder.path) as service, Client(port := service.ready_port()) as client:
        begun = footprint.of_started(service, folder.count, folder.text_bytes)
        retrieves = retrieving.measure(client, model, work.queries, folder.count)
        crowd = retrieving.crowd(port, model, work.queries, folder.count)
        used = footprint.once_used(begun, service)
        singles = None
        if folder.count == plan.singles_size:
            singles = storing.singles(client, model, work.singles, folder.count)
        return Served(used, retrieves, crowd, singles)


def _tables(results: Results) -> Iterator[Table]:
    yield cold_start.table(results.cold_starts)
    yield cold_start.imports_table(results.imports)
    yield from (storing.singles_table(served.singles) for served in results.served if served.singles)
    yield storing.batches_table(results.fresh.batches)
    yield retrieving.table([served.retrieves for served in results.served])
    yield retrieving.crowd_table([served.crowd for served in results.served])
    yield footprint.table([results.fresh.footprint, *(served.footprint for served in results.served)])


def _report(about: Mapping[str, str], results: Results) -> str:
    overhead = results.fresh.client_overhead
    head = [f"{name}: {value}" for name, value in about.items()]
    head.append(
        f"client: http.client, keep-alive; GET /health/live p50 {ms(overhead.p50_ms)} ms, "
        f"p99 {ms(overhead.p99_ms)} ms, which is in every figure over HTTP"
    )
    return "\n\n".join(["\n".join(head), *(rendered(table) for table in _tables(results))])


def _about(chosen: Texts, plan: Plan) -> dict[str, str]:
    real = min(plan.embedded_max, plan.sizes[-1])
    return {
        **machine.described(),
        "texts": chosen.source,
        "vectors": f"of the first {real} memories by the model; of further ones derived from those, not embedded",
        "load at the start": machine.load(),
    }


if __name__ == "__main__":
    main()
