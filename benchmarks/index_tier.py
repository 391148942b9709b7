"""Measures the index alone, without embedding and HTTP: recall and latency of searches, cost of adding, and memory.

`python -m benchmarks.index_tier --texts FILE` embeds lines of a file. `--vectors FILE.npy` takes unit vectors that were
embedded before. Recall is always measured against a comparison of every row.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks import machine, texts
from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, Table, latencies, ms, rendered, write_json
from benchmarks.prefilled import derived
from benchmarks.texts import SEED
from indexes.group_index import GroupIndex, Groups, Vectors
from memory_service.embedding.minilm import MODEL

K = 10
QUERIES = 200
ROUND_QUERIES = 20
"""Queries after which the next lane takes its turn. Short turns let all lanes meet the same load of the machine."""

SIZES = (2_000, 25_000)
EMBEDDED_MAX = 5_000
"""Most texts that are embedded. The other vectors are derived from theirs."""

BATCH = 1_000
SINGLES = 2_000
"""Vectors added at once (`BATCH`), and vectors added one by one at the end (`SINGLES`)."""

SHARES = {"1 %": 0.01, "30 %": 0.3}


@dataclass(frozen=True, slots=True)
class Lane:
    """Searches of one kind.

    Attributes:
        recall: share of the K best rows that was found. Brute force in single precision finds the best; ties count.
        error_max: largest difference between a returned score and the exact one.

    """

    name: str
    took: Latencies
    recall: float
    error_max: float


@dataclass(frozen=True, slots=True)
class Tier:
    """An index of one size.

    Attributes:
        rows: number of vectors.
        brute_force: latencies of comparing every row with numpy.
        batches: latencies of adding `BATCH` vectors at once.
        singles: latencies of adding one vector.
        worst_ms: the slowest of all these additions.
        made_s: seconds to make another index of the same rows, as a start does.
        row_bytes: growth of the process's resident memory for each vector.

    """

    rows: int
    lanes: tuple[Lane, ...]
    brute_force: Latencies
    batches: Latencies
    singles: Latencies
    worst_ms: float
    made_s: float
    row_bytes: float


def measure(rows: Vectors, queries: Vectors) -> Tier:
    """Fill an index and search it."""
    before = _resident_bytes()
    index, (batches_s, singles_s) = _filled(rows)
    held_bytes = _resident_bytes() - before
    filters = _filters(rows)
    lanes, brute_force_s = _searched(index, rows, queries, filters)
    started = time.perf_counter()
    GroupIndex.of_rows(rows.shape[1], index.freeze().rows(), len(rows))
    made_s = time.perf_counter() - started
    return Tier(
        len(rows),
        lanes,
        latencies(brute_force_s),
        latencies(batches_s),
        latencies(singles_s),
        max(batches_s + singles_s) * 1000,
        made_s,
        held_bytes / len(rows),
    )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _filled(rows: Vectors) -> tuple[GroupIndex, tuple[list[float], list[float]]]:
    index = GroupIndex(rows.shape[1])
    # Batches fill the index up to here, and single vectors do the rest.
    begin_singles = max(len(rows) // 2, len(rows) - SINGLES)
    steps = [*range(0, begin_singles, BATCH), *range(begin_singles, len(rows) + 1)]
    batches_s: list[float] = []
    singles_s: list[float] = []
    for begin, end in pairwise(steps):
        groups, vectors = np.arange(begin, end), rows[begin:end]
        started = time.perf_counter()
        index.add(groups, vectors)
        (batches_s if begin < begin_singles else singles_s).append(time.perf_counter() - started)
    return index, (batches_s, singles_s)


def _filters(rows: Vectors) -> Mapping[str, Groups | None]:
    """Return what searches are restricted to: nothing, a random share, or the share nearest to some direction."""
    # A share of one subject is the hard case for an index, because its rows lie close together.
    chooser = np.random.default_rng(SEED)
    direction = rows[chooser.integers(len(rows))]
    # (n,) the rows by their cosine to the direction, nearest first.
    by_nearness = np.argsort(-(rows @ direction))
    found: dict[str, Groups | None] = {"all": None}
    for name, share in SHARES.items():
        count = round(len(rows) * share)
        found[f"{name}, random"] = np.sort(chooser.permutation(len(rows))[:count])
        found[f"{name}, of one subject"] = np.sort(by_nearness[:count])
    return found


def _searched(
    index: GroupIndex, rows: Vectors, queries: Vectors, filters: Mapping[str, Groups | None]
) -> tuple[tuple[Lane, ...], list[float]]:
    took_s: dict[str, list[float]] = {name: [] for name in filters}
    recalls: dict[str, list[float]] = {name: [] for name in filters}
    errors: dict[str, list[float]] = {name: [] for name in filters}
    brute_force_s: list[float] = []
    for begin in range(0, len(queries), ROUND_QUERIES):
        some = queries[begin : begin + ROUND_QUERIES]
        expected = []
        for query in some:
            started = time.perf_counter()
            # (n,) the exact score of every row.
            expected.append(rows @ query)
            brute_force_s.append(time.perf_counter() - started)
        for name, among in filters.items():
            for query, scores in zip(some, expected, strict=True):
                started = time.perf_counter()
                groups, found = index.search(query, K, among)
                took_s[name].append(time.perf_counter() - started)
                recalls[name].append(_recall(scores[groups], scores if among is None else scores[among]))
                errors[name].append(float(np.abs(found - scores[groups]).max()))
    lanes = (Lane(n, latencies(took_s[n]), float(np.mean(recalls[n])), max(errors[n])) for n in filters)
    return tuple(lanes), brute_force_s


def _recall(found: Vectors, scores: Vectors) -> float:
    """Return the share of the K best that was found.

    Args:
        found: (k,) exact scores of the rows that were found.
        scores: (n,) exact scores of all rows that a search may find.
    """
    count = min(K, len(scores))
    # The K-th best score. A row as good as that counts; sums in another order may differ by a rounding error.
    worst = np.partition(scores, -count)[-count]
    return float(np.count_nonzero(found >= worst - 1e-6)) / count


def tables(tiers: Sequence[Tier]) -> list[Table]:
    """Return the table of searches and the table of additions."""
    searching = tuple(
        (
            str(tier.rows),
            lane.name,
            ms(lane.took.p50_ms),
            ms(lane.took.p99_ms),
            f"{lane.recall:.4f}",
            f"{lane.error_max:.1e}",
        )
        for tier in tiers
        for lane in (*tier.lanes, Lane("(brute force, numpy)", tier.brute_force, 1.0, 0.0))
    )
    filling = tuple(
        (
            str(tier.rows),
            ms(tier.batches.p50_ms),
            ms(tier.singles.p50_ms),
            ms(tier.worst_ms),
            f"{tier.made_s:.2f}",
            f"{tier.row_bytes:.0f}",
        )
        for tier in tiers
    )
    return [
        Table("Search", ("vectors", "among", "p50 ms", "p99 ms", f"recall@{K}", "largest error"), searching),
        Table(
            "Filling",
            (
                "vectors",
                f"add {BATCH}, p50 ms",
                "add 1, p50 ms",
                "slowest add ms",
                "made of its rows s",
                "resident bytes/vector",
            ),
            filling,
        ),
    ]


def _vectors(arguments: argparse.Namespace, count: int) -> tuple[str, Vectors]:
    """Return a description of where the vectors come from, and the vectors (count, dim), shuffled."""
    chooser = np.random.default_rng(SEED)
    if arguments.vectors:
        real = np.load(arguments.vectors, mmap_mode="r")
        real = np.asarray(real[np.sort(chooser.permutation(len(real))[:count])], dtype=np.float32)
        source = f"{len(real)} embedded vectors of a file"
    else:
        embedded = min(count, arguments.embedded)
        chosen = texts.from_file(arguments.texts, embedded) if arguments.texts else texts.synthetic(embedded)
        real = np.concatenate(BareModel().embed_all(chosen.lines, progress="embedding"))[:count]
        source = f"{len(real)} embedded, {chosen.source}"
    lacking = count - len(real)
    if lacking:
        source += f"; {lacking} derived from them"
        real = np.concatenate([real, derived(chooser, real, lacking)])
    return source, np.ascontiguousarray(real[chooser.permutation(count)])


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, help="lines to embed, may be .gz; default: the examples, recombined")
    parser.add_argument("--vectors", type=Path, help="a .npy of float32 unit vectors, instead of texts")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="of the index")
    parser.add_argument("--embedded", type=int, default=EMBEDDED_MAX, help="texts that are embedded")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    arguments = parser.parse_args()
    source, vectors = _vectors(arguments, max(arguments.sizes) + QUERIES)
    queries, rows = vectors[:QUERIES], vectors[QUERIES:]
    about = {**machine.described(), "vectors": source}
    print(f"{', '.join(machine.described().values())}\n\nVectors of {MODEL}: {source}.\n")
    tiers = []
    for size in sorted(arguments.sizes):
        print(f"{size} vectors", file=sys.stderr)
        tiers.append(measure(rows[:size], queries))
    print("\n\n".join(rendered(table) for table in tables(tiers)))
    if arguments.json:
        write_json(arguments.json, {"run": about, "tiers": [asdict(tier) for tier in tiers]})


if __name__ == "__main__":
    main()
