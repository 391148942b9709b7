"""Makes tables that compare the service with its peers, and lists where the service loses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Table, ms, times
from benchmarks.judging import Judged, mean
from benchmarks.peers.work import FILTERED_K, Done, Filtered

OURS = "vector-memory"
QUALITY = ("any@1", "any@5", "any@10", "recall@10", "nDCG@10", "MRR")


@dataclass(frozen=True, slots=True)
class Answers:
    """A contender's judged answers for one way to store."""

    contender: str
    content: str
    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of `Done`.

    Attributes:
        is_rate: whether a larger figure is better.

    """

    name: str
    of: Callable[[Done], float]
    shown: Callable[[float], str]
    is_rate: bool = False


def _whole(value: float) -> str:
    return f"{value:.0f}"


MEASURES = (
    Measure("store in bulk, texts/s", lambda done: done.bulk_per_s, _whole, is_rate=True),
    Measure("store one, durable, p50 ms", lambda done: done.single.p50_ms, ms),
    Measure("retrieve, p50 ms", lambda done: done.retrieve.p50_ms, ms),
    Measure("retrieve, p50 / bare embedding meanwhile", lambda done: done.retrieve.p50_ms / done.bare_p50_ms, times),
    Measure("retrieve, p99 ms", lambda done: done.retrieve.p99_ms, ms),
    Measure("retrieve, 8 clients, requests/s", lambda done: done.crowd_per_s, _whole, is_rate=True),
    Measure("retrieve, 8 clients, p99 ms", lambda done: done.crowd.p99_ms, ms),
    Measure("start to first answer, s", lambda done: done.started_s, lambda value: f"{value:.2f}"),
    Measure("resident memory, MB", lambda done: done.resident_bytes / 1e6, _whole),
)


def tables(answers: Sequence[Answers], done: Mapping[str, Done]) -> Iterator[Table]:
    """Yield all tables."""
    for source in dict.fromkeys(one.source for group in answers for one in group.judged):
        yield _quality_table(source, answers)
    if done:
        yield _work_table(done)
        yield _filters_table(done)
        yield _kills_table(done)


def _quality_table(source: str, answers: Sequence[Answers]) -> Table:
    rows = []
    for group in answers:
        judged = [one for one in group.judged if one.source == source]
        held_out = [one for one in judged if one.part == "held out"]
        figures = [f"{mean(judged, name):.1f}" for name in QUALITY]
        rows.append((group.contender, group.content, *figures, f"{mean(held_out, 'any@10'):.1f}" if held_out else ""))
    count = len([one for one in answers[0].judged if one.source == source])
    return Table(
        f"{source}: {count} questions", ("", "stored as", *QUALITY, "any@10, held-out conversations"), tuple(rows)
    )


def _work_table(done: Mapping[str, Done]) -> Table:
    ours, *_ = done.values()
    peers = list(done)[1:]
    rows = []
    for measure in MEASURES:
        cells = [measure.shown(measure.of(ours))]
        for name in peers:
            cells += [measure.shown(measure.of(done[name])), times(ratio(measure, ours, done[name]))]
        rows.append((measure.name, *cells))
    bare = [ms(ours.bare_p50_ms)]
    for name in peers:
        bare += [ms(done[name].bare_p50_ms), times(ours.bare_p50_ms / done[name].bare_p50_ms)]
    rows.append(("(bare embedding of a query meanwhile, p50 ms)", *bare))
    columns = [column for name in peers for column in (name, "ours / theirs")]
    return Table("Work", ("", OURS, *columns), tuple(rows), tuple(losses(done)))


def ratio(measure: Measure, ours: Done, theirs: Done) -> float:
    """Return our figure divided by theirs. We are better above 1 for rates, and below 1 for everything else."""
    return measure.of(ours) / measure.of(theirs)


def losses(done: Mapping[str, Done]) -> list[str]:
    """Return a sentence for each measure in which a peer is better than the service, the first contender."""
    ours, *_ = done.values()
    lost = []
    for measure in MEASURES:
        found = {name: ratio(measure, ours, theirs) for name, theirs in list(done.items())[1:]}
        better = [f"{name} ({times(one)})" for name, one in found.items() if (one < 1) == measure.is_rate and one != 1]
        if better:
            lost.append(f"We lose to {', '.join(better)}: {measure.name}.")
    return lost or ["No peer is better in any row."]


def _filters_table(done: Mapping[str, Done]) -> Table:
    rows = [(name, *_filter_cells(one)) for name, each in done.items() for one in each.filtered]
    return Table(
        f"Filtered retrieves, k = {FILTERED_K}",
        ("", "memories that match", "due", "came back", "share", "short answers", "do not match", "p50 ms"),
        tuple(rows),
        (f"Due: min({FILTERED_K}, memories that match) for each query. Short: answers with fewer than are due.",),
    )


def _filter_cells(one: Filtered) -> tuple[str, ...]:
    share = f"{one.returned / one.due:.1%}"
    counts = (str(one.matches), str(one.due), str(one.returned), share, f"{one.short} of {one.queries}", str(one.wrong))
    return (*counts, ms(one.took.p50_ms))


def _kills_table(done: Mapping[str, Done]) -> Table:
    rows = []
    for name, each in done.items():
        acknowledged = sum(kill.acknowledged for kill in each.kills)
        if any(kill.lost is None for kill in each.kills):
            lost = "did not open again"
        else:
            lost = str(sum(kill.lost or 0 for kill in each.kills))
        rows.append((name, str(len(each.kills)), str(acknowledged), lost))
    return Table("kill -9 right after an acknowledged store", ("", "kills", "stores acknowledged", "lost"), tuple(rows))
