"""Measures retrieves over HTTP against the bare embedding of the same queries: alone, filtered, from many clients."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, Table, latencies, ms, ratio_of_medians, times, verdict
from benchmarks.http_client import Client, retrieve
from benchmarks.storing import blocks, timed_embedding_s
from benchmarks.texts import ONE_PERCENT, THIRTY_PERCENT

K = 5
"""Hits of a retrieve. It is the service's own default."""

WARM_UP = 20
CLIENTS = 8

AIM_SIZE = 10_000
AIM_RATIO = 1.5
"""Aim: a retrieve's median over this many memories stays within this ratio to the embedding of its query."""

LANES: Mapping[str, Mapping[str, Any] | None] = {"all": None, "30 %": THIRTY_PERCENT, "1 %": ONE_PERCENT}
"""Filter of each lane: None searches everything, the others search the memories that match."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The latencies of one kind of retrieve.

    Attributes:
        searched: name of the lane in `LANES`.
        over_http: latencies that a client sees.
        inside_p50_ms: median of the service's own `latency_ms`, without HTTP and the client.
        ratio: median of `over_http` divided by the median of the bare embeddings that alternated with them.

    """

    searched: str
    over_http: Latencies
    inside_p50_ms: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Retrieving:
    """The figures of one client that sends one retrieve after the other."""

    memories: int
    bare: Latencies
    lanes: tuple[Lane, ...]


def measure(client: Client, model: BareModel, queries: Sequence[str], memories: int) -> Retrieving:
    """Send every query to every lane and to the bare model, in alternating blocks.

    The order of the lanes rotates, because the first one finds the processor's caches full of the bare model.
    """
    _warm_up(client, model, queries)
    bare_s: list[float] = []
    http_s: dict[str, list[float]] = {lane: [] for lane in LANES}
    inside_ms: dict[str, list[float]] = {lane: [] for lane in LANES}
    order = deque(LANES)
    for block in blocks(queries):
        bare_s += [timed_embedding_s(model, query) for query in block]
        for lane in order:
            for query in block:
                answer = retrieve(client, query, K, LANES[lane])
                http_s[lane].append(answer.took_s)
                inside_ms[lane].append(_checked_latency_ms(answer.json(), lane))
        order.rotate()
    lanes = tuple(
        Lane(lane, latencies(http_s[lane]), median(inside_ms[lane]), ratio_of_medians(http_s[lane], bare_s))
        for lane in LANES
    )
    return Retrieving(memories, latencies(bare_s), lanes)


def _warm_up(client: Client, model: BareModel, queries: Sequence[str]) -> None:
    for query in queries[:WARM_UP]:
        timed_embedding_s(model, query)
        for filter in LANES.values():
            retrieve(client, query, K, filter).json()


def _checked_latency_ms(body: Mapping[str, Any], lane: str) -> float:
    """Return the service's own latency from an answer that is plausible. The tests judge the contents of answers.

    Raises:
        RuntimeError: the answer is empty, or breaks the filter.

    """
    found = [memory["metadata"] for memory in body["memories"]]
    if not found or (lane == "1 %" and any(labels["lead"] != ONE_PERCENT["lead"] for labels in found)):
        raise RuntimeError(f"A retrieve among {lane} came back with {found}.")
    return float(body["latency_ms"])


def table(results: Sequence[Retrieving]) -> Table:
    """Return a table with a row for each size and lane."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        bare = result.bare
        rows.append((str(result.memories), "bare embedding", ms(bare.p50_ms), ms(bare.p99_ms), "", times(1)))
        for lane in result.lanes:
            http = lane.over_http
            cells = (ms(http.p50_ms), ms(http.p99_ms), ms(lane.inside_p50_ms), times(lane.ratio))
            rows.append((str(result.memories), f"retrieve among {lane.searched}", *cells))
    notes = [
        f"Aim at {result.memories} memories, no filter: at most {AIM_RATIO}x; {times(result.lanes[0].ratio)}: "
        f"{verdict(is_met=result.lanes[0].ratio <= AIM_RATIO)}."
        for result in results
        if result.memories == AIM_SIZE
    ]
    count = results[0].bare.count
    return Table(
        f"Retrieve, one client ({count} queries a row, k = {K})",
        ("memories", "", "p50 ms", "p99 ms", "inside the service p50 ms", "ratio of p50"),
        tuple(rows),
        tuple(notes),
    )


# -- many clients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crowd:
    """The figures of concurrent clients.

    Attributes:
        per_s: requests answered in a second.
        bare_per_s: bare embeddings of the same queries in a second, one after the other. They ran before the clients
            and after them.

    """

    memories: int
    clients: int
    per_s: float
    latencies: Latencies
    bare_per_s: float


def crowd(port: int, model: BareModel, queries: Sequence[str], memories: int) -> Crowd:
    """Let concurrent clients send their shares of the queries, each on a connection of its own."""
    # The bare model runs before and after the clients, never at the same time.
    bare_s = [timed_embedding_s(model, query) for query in queries]
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = list(pool.map(lambda at: _asked_s(port, queries[at::CLIENTS]), range(CLIENTS)))
    wall_s = time.perf_counter() - started
    bare_s += [timed_embedding_s(model, query) for query in queries]
    took_s = [one for share in shares for one in share]
    return Crowd(memories, CLIENTS, len(took_s) / wall_s, latencies(took_s), 1 / median(bare_s))


def _asked_s(port: int, queries: Sequence[str]) -> list[float]:
    took_s: list[float] = []
    with Client(port) as client:
        for query in queries:
            answer = retrieve(client, query, K)
            answer.json()
            took_s.append(answer.took_s)
    return took_s


def crowd_table(results: Sequence[Crowd]) -> Table:
    """Return a table of throughput and latency by size."""
    rows = tuple(
        (
            str(result.memories),
            f"{result.per_s:.0f}",
            ms(result.latencies.p50_ms),
            ms(result.latencies.p99_ms),
            f"{result.bare_per_s:.0f}",
            times(result.per_s / result.bare_per_s),
        )
        for result in results
    )
    return Table(
        f"Retrieve, {CLIENTS} clients at once",
        ("memories", "requests/s", "p50 ms", "p99 ms", "bare embeddings/s, one by one", "ratio of rates"),
        rows,
        ("The clients run on the same cores as the service.",),
    )


# -- the client itself -------------------------------------------------------------------------------------------------


def client_overhead(client: Client, count: int) -> Latencies:
    """Return the latencies of an empty request: the client, the connection and the service's HTTP layer."""
    return latencies([client.get("/health/live").took_s for _ in range(count)])
