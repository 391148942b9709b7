"""Measures a contender's daily work: bulk and single stores, retrieves alone, filtered and from many clients, kills."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import texts
from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, latencies
from benchmarks.peers.contender import Contender
from benchmarks.peers.runner import Memory
from benchmarks.storing import timed_embedding_s

COLLECTION = "main"
K = 10
CLIENTS = 8
WARM_UP = 20

FILTERED_K = 20
FILTERS: tuple[Mapping[str, str], ...] = (
    {"kind": "kind-4"},
    {"lead": "lead-42"},
    {"lead": "lead-42", "kind": "kind-4"},
)
"""Filters that match a tenth, a hundredth and a thousandth of the memories. The last one matches fewer than
`FILTERED_K` memories."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts that are measured.

    Attributes:
        memories: number of memories held, `bulk` included.
        bulk: number of these memories that are embedded and stored at once, for the rate.
        singles: number of texts stored one at a time.
        queries: number of queries for each row.
        kills: number of rounds, each with single stores and a kill.
        killed: number of stores in a round.

    """

    memories: int
    bulk: int
    singles: int
    queries: int
    kills: int
    killed: int

    @property
    def texts(self) -> int:
        """Return the number of distinct texts that the plan needs."""
        return self.memories + self.singles + self.queries + self.kills * self.killed


FULL = Plan(10_000, 1_000, 100, 200, 3, 20)
QUICK = Plan(1_000, 200, 20, 40, 1, 10)


@dataclass(frozen=True, slots=True)
class Work:
    """The plan's texts, split by use. Nothing is stored twice or asked for verbatim."""

    filled: Sequence[Memory]
    bulk: Sequence[Memory]
    singles: Sequence[Memory]
    queries: Sequence[str]
    killed: Sequence[Sequence[Memory]]


@dataclass(frozen=True, slots=True)
class Filtered:
    """The results of queries under one filter.

    Attributes:
        matches: number of memories that match the filter.
        queries: number of queries.
        due: number of ids that all queries together should return.
        returned: number of returned ids that match.
        wrong: number of returned ids that do not match, or were returned twice.
        short: number of queries that returned fewer ids than are due.
        took: latencies of the queries.

    """

    matches: int
    queries: int
    due: int
    returned: int
    wrong: int
    short: int
    took: Latencies


@dataclass(frozen=True, slots=True)
class Kill:
    """Memories whose store was acknowledged just before the processes were killed.

    Attributes:
        acknowledged: number of these memories.
        lost: number of them that were not there afterwards; None if the contender did not open again.

    """

    acknowledged: int
    lost: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """All figures of one contender.

    Attributes:
        bare_p50_ms: milliseconds to embed a query with the bare model, measured in between. They show the machine's
            speed while this contender was measured.
        bulk_per_s: texts embedded and stored in a second.
        started_s: seconds from the start of the process to the first answer, over all memories.
        crowd_per_s: queries of concurrent clients answered in a second.

    """

    bare_p50_ms: float
    bulk_per_s: float
    single: Latencies
    started_s: float
    retrieve: Latencies
    crowd: Latencies
    crowd_per_s: float
    filtered: tuple[Filtered, ...]
    resident_bytes: int
    kills: tuple[Kill, ...]


def split(lines: Sequence[str], plan: Plan) -> Work:
    """Split `plan.texts` lines by their use."""
    numbered = [_memory(number, line) for number, line in enumerate(lines)]
    singles, queries = plan.memories + plan.singles, plan.memories + plan.singles + plan.queries
    return Work(
        numbered[: plan.memories - plan.bulk],
        numbered[plan.memories - plan.bulk : plan.memories],
        numbered[plan.memories : singles],
        [texts.query(line) for line in lines[singles:queries]],
        [numbered[queries:][at :: plan.kills] for at in range(plan.kills)],
    )


def _memory(number: int, line: str) -> Memory:
    labels = texts.metadata(number)
    return {"id": f"m{number}", "text": line, "metadata": {name: str(labels[name]) for name in ("lead", "kind")}}


def measure(opened: Callable[[], Contender], work: Work, vectors: Path, model: BareModel) -> Done:
    """Measure everything about one contender, over one folder.

    Args:
        opened: opens the contender over its folder. It is called several times.
        work: the memories to store and the queries to ask.
        vectors: folder with the vectors of the memories that `fill` stores, for peers.
        model: the bare model, which shows how fast the machine is during the run.

    """
    with opened() as contender:
        contender.fill(COLLECTION, work.filled, vectors)
        bulk_s = contender.store(COLLECTION, work.bulk)
        single_s = contender.store_each(COLLECTION, work.singles)
    bare_s = _bare_s(model, work.queries)
    began = time.perf_counter()
    with opened() as contender:
        contender.retrieve(COLLECTION, work.queries[:1], K, {})
        started_s = time.perf_counter() - began
        contender.retrieve(COLLECTION, work.queries[:WARM_UP], K, {})
        alone = contender.retrieve(COLLECTION, work.queries, K, {})
        crowd = contender.retrieve(COLLECTION, work.queries, K, {}, CLIENTS)
        stored = [*work.filled, *work.bulk, *work.singles]
        bare_s += _bare_s(model, work.queries)
        filtered = tuple(_filtered(contender, work.queries, stored, equal) for equal in FILTERS)
        resident = contender.resident_bytes()
    return Done(
        latencies(bare_s).p50_ms,
        len(work.bulk) / bulk_s,
        latencies(single_s),
        started_s,
        latencies(alone.took_s),
        latencies(crowd.took_s),
        len(work.queries) / crowd.wall_s,
        filtered,
        resident,
        tuple(_killed(opened, work.killed)),
    )


def _bare_s(model: BareModel, queries: Sequence[str]) -> list[float]:
    return [timed_embedding_s(model, query) for query in queries]


def _filtered(
    contender: Contender, queries: Sequence[str], stored: Sequence[Memory], equal: Mapping[str, str]
) -> Filtered:
    matching = {one["id"] for one in stored if equal.items() <= one["metadata"].items()}
    asked = contender.retrieve(COLLECTION, queries, FILTERED_K, equal)
    return judged(asked.found, matching, FILTERED_K, latencies(asked.took_s))


def judged(found: Sequence[Sequence[str]], matching: set[str], k: int, took: Latencies) -> Filtered:
    """Compare the returned ids with the matching ones. For each query min(k, number of matches) ids are due."""
    # A set counts an id once, so an id that is returned twice is wrong once.
    due = min(k, len(matching))
    right = [len(set(ids) & matching) for ids in found]
    wrong = sum(len(ids) for ids in found) - sum(right)
    short = sum(count < due for count in right)
    return Filtered(len(matching), len(found), due * len(found), sum(right), wrong, short, took)


def _killed(opened: Callable[[], Contender], rounds: Sequence[Sequence[Memory]]) -> list[Kill]:
    kills: list[Kill] = []
    for memories in rounds:
        try:
            with opened() as contender:
                contender.store_each(COLLECTION, memories)
                contender.kill()
            with opened() as contender:
                held = contender.held(COLLECTION, [one["id"] for one in memories])
        # A contender that fails or does not open again ends the rounds, since further ones would tell nothing.
        except RuntimeError as error:
            print(error, file=sys.stderr)
            kills.append(Kill(len(memories), None))
            break
        kills.append(Kill(len(memories), len(memories) - len(held)))
    return kills
