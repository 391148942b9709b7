"""Measures cold starts, from the start of the process to its first correct retrieve, and compares the bare model's."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import Table, ratio_of_medians, times
from benchmarks.http_client import Client, retrieve
from benchmarks.prefilled import Prefilled
from benchmarks.service_process import DATA, START_S_MAX, ServiceProcess
from memory_service.journal.data_folder import SNAPSHOT_FOLDER

POLL_S = 0.01
"""Pause between two tries of the retrieve. Each try takes about a millisecond from the service that is loading."""

SCORE_MIN = 0.999
"""Least cosine of a stored text that is asked for verbatim. It is 1 except for rounding."""

PACKAGES_SHOWN = 8
STANDARD_LIBRARY = "(standard library)"


@dataclass(frozen=True, slots=True)
class Start:
    """The durations of one start, in seconds since the process began.

    Attributes:
        listening_s: time until the port was open.
        recovered_at_s: time until the memories were read.
        recovered_s: duration of reading the memories, by the service's own log.
        retrieved_s: time until the first correct retrieve.

    """

    listening_s: float
    recovered_at_s: float
    recovered_s: float
    retrieved_s: float


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Starts over one folder.

    Attributes:
        memories: number of memories in the folder.
        from_journals: starts without a snapshot, which apply every record again.
        from_snapshot: starts as they usually are, with nothing left to replay.
        bare_s: seconds from the start of a process to the bare model's first embedding, once for each pair of starts.
        snapshots_s: seconds that taking each snapshot took.

    """

    memories: int
    from_journals: tuple[Start, ...]
    from_snapshot: tuple[Start, ...]
    bare_s: tuple[float, ...]
    snapshots_s: tuple[float, ...]


def measure(prefilled: Prefilled, runs: int) -> ColdStart:
    """Start the bare model, the service from its journals, and the service from a snapshot, in turns.

    The last snapshot stays in the folder.
    """
    from_journals: list[Start] = []
    from_snapshot: list[Start] = []
    bare_s: list[float] = []
    snapshots_s: list[float] = []
    for run in range(runs):
        print(f"cold start over {prefilled.count} memories: {run + 1} of {runs}", file=sys.stderr)
        # The three kinds take turns, so that all of them meet the same load of the machine.
        bare_s.append(bare_start_s())
        shutil.rmtree(prefilled.path / DATA / SNAPSHOT_FOLDER, ignore_errors=True)
        with ServiceProcess(prefilled.path) as service:
            from_journals.append(timed_start(service, prefilled))
            with Client(service.port()) as client:
                taken = client.post("/v1/admin/snapshot", {})
                taken.json()
                snapshots_s.append(taken.took_s)
        with ServiceProcess(prefilled.path) as service:
            from_snapshot.append(timed_start(service, prefilled))
    return ColdStart(prefilled.count, tuple(from_journals), tuple(from_snapshot), tuple(bare_s), tuple(snapshots_s))


def timed_start(service: ServiceProcess, prefilled: Prefilled) -> Start:
    """Time a service that was just started until it finds a memory of the folder."""
    with Client(service.port()) as client:
        _await_correct_retrieve(client, prefilled)
    retrieved_s = time.time() - service.started_s
    recovered_s = service.event("memories.recovered")["ms"] / 1000
    at_s = service.since_start_s("http.listening"), service.since_start_s("memories.recovered")
    return Start(*at_s, recovered_s, retrieved_s)


def _await_correct_retrieve(client: Client, prefilled: Prefilled) -> None:
    """Ask until the service answers. The first answer must be right.

    Raises:
        RuntimeError: the first answer is wrong, or none comes in time.

    """
    deadline = time.monotonic() + START_S_MAX
    while (answer := retrieve(client, prefilled.probe, k=1)).status == 503:
        if time.monotonic() > deadline:
            raise RuntimeError("The service answers, but never loaded.")
        time.sleep(POLL_S)
    best = answer.json()["memories"][0]
    if best["key"] != prefilled.probe_key or best["scores"]["dense"] < SCORE_MIN:
        raise RuntimeError(f"{prefilled.probe_key} was asked for by its own text, and {best['key']} came back.")


def bare_start_s() -> float:
    """Return the seconds from the start of a process to its first embedding by the bare model."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.bare_model"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it was asked for"
        if not process.stdout.readline():
            raise RuntimeError("The bare model did not start.")
        return time.perf_counter() - started


def table(results: Sequence[ColdStart]) -> Table:
    """Return a table of medians with two rows for each folder."""
    rows = [
        row
        for result in results
        for row in (
            _row(result, "a snapshot", result.from_snapshot),
            _row(result, "journals alone", result.from_journals),
        )
    ]
    return Table(
        "Cold start: process start to first correct retrieve (median)",
        ("memories", "from", "runs", "port open s", "recovery s", "first retrieve s", "slowest s", "bare s", "ratio"),
        tuple(rows),
        (
            "Bare: a Python process that loads the model and embeds one text. Recovery: reading the memories alone.",
            f"The retrieve is tried every {POLL_S * 1000:.0f} ms from the moment that the port is open. "
            "Files are in the page cache, as they are after a first start.",
            *(
                f"Taking a snapshot of {result.memories} memories: {median(result.snapshots_s):.2f} s."
                for result in results
            ),
        ),
    )


def _row(result: ColdStart, origin: str, starts: Sequence[Start]) -> tuple[str, ...]:
    retrieved = [start.retrieved_s for start in starts]
    stages = [median(start.listening_s for start in starts), median(start.recovered_s for start in starts)]
    shown = (f"{figure:.2f}" for figure in [*stages, median(retrieved), max(retrieved), median(result.bare_s)])
    return (str(result.memories), origin, str(len(starts)), *shown, times(ratio_of_medians(retrieved, result.bare_s)))


# -- imports -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imports:
    """What `python -X importtime` reports of one start.

    The time that a package spends in the imports of another package is not part of its own.

    Attributes:
        runs: number of starts. The figures are those of the cheapest, because only noise makes a start dearer.
        by_package_ms: milliseconds by top-level package, largest first. The standard library is one entry.

    """

    runs: int
    by_package_ms: tuple[tuple[str, float], ...]

    @property
    def total_ms(self) -> float:
        """Return the milliseconds of all packages together."""
        return sum(package_ms for _, package_ms in self.by_package_ms)


def imports(folder: Path, runs: int) -> Imports:
    """Time the imports of some starts on an empty data folder, and return the cheapest start's."""
    folder.mkdir()
    found = (_spent_us(folder) for _ in range(runs))
    cheapest = min(found, key=lambda packages: packages.total())
    return Imports(runs, tuple((package, us / 1000) for package, us in cheapest.most_common()))


def _spent_us(folder: Path) -> Counter[str]:
    with ServiceProcess(folder, ["-X", "importtime"]) as service:
        service.ready_port()
        lines = service.log_lines()
    spent_us: Counter[str] = Counter()
    for line in lines:
        match line.removeprefix("import time:").split("|"):
            case [own, _, name] if own.strip().isdecimal():
                spent_us[_package(name.strip())] += int(own)
    return spent_us


def _package(module: str) -> str:
    top = module.partition(".")[0]
    return STANDARD_LIBRARY if top in sys.stdlib_module_names else top


def imports_table(found: Imports) -> Table:
    """Return a table of the packages that cost most."""
    rows = [(name, f"{spent_ms:.0f}", f"{spent_ms / found.total_ms:.0%}") for name, spent_ms in found.by_package_ms]
    rows = [*rows[:PACKAGES_SHOWN], ("all", f"{found.total_ms:.0f}", "100%")]
    return Table(
        "Imports of the serve command until it is ready",
        ("package", "own time ms", "share"),
        tuple(rows),
        (f"By python -X importtime, which itself slows imports down; the cheapest of {found.runs} starts.",),
    )
