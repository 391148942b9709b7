"""Defines what the measures ask of the service and of each peer, and asks it of a peer's process."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from benchmarks.peers.environments import ROOT
from benchmarks.peers.runner import Memory


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers to some queries.

    Attributes:
        found: ids for each query, best first.
        took_s: seconds of each query.
        wall_s: seconds of all queries together.

    """

    found: tuple[tuple[str, ...], ...]
    took_s: tuple[float, ...]
    wall_s: float


class Contender(Protocol):
    """A store that runs as long as its `with` block. Opened again over its folder, it has what it kept."""

    def __enter__(self) -> Self:
        """Start, and return when it is ready to answer."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def fill(self, collection: str, memories: Sequence[Memory], vectors: Path) -> None:
        """Store memories. A contender that accepts vectors takes them from the folder `vectors`."""
        ...

    def store(self, collection: str, memories: Sequence[Memory]) -> float:
        """Embed and store memories at once, and return the seconds."""
        ...

    def store_each(self, collection: str, memories: Sequence[Memory]) -> list[float]:
        """Embed and store memories one by one, and return the seconds of each."""
        ...

    def retrieve(
        self, collection: str, queries: Sequence[str], k: int, equal: Mapping[str, str], clients: int = 1
    ) -> Asked:
        """Ask every query, with `clients` concurrent clients, and return the answers."""
        ...

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are stored."""
        ...

    def resident_bytes(self) -> int:
        """Return the memory of the processes that hold the store and the model."""
        ...

    def kill(self) -> None:
        """End these processes at once, as `kill -9` does."""
        ...


class PeerProcess:
    """A peer that runs as a process in its own environment.

    Raises:
        RuntimeError: the peer did not start, or an order failed. The message ends with the peer's last output.

    """

    def __init__(self, interpreter: Path, name: str, folder: Path) -> None:
        self._command: list[str | Path] = [interpreter, "-m", f"benchmarks.peers.{name}_store", folder]
        self._folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True, parents=True)
        own = {"PYTHONPATH": str(ROOT), "ANONYMIZED_TELEMETRY": "False", "RUST_LOG": "error"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | own,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that a server that it starts is killed with it
            )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def fill(self, collection: str, memories: Sequence[Memory], vectors: Path) -> None:
        """Store memories with their vectors, which every peer accepts."""
        self._ordered("fill", collection=collection, memories=memories, vectors=str(vectors))

    def store(self, collection: str, memories: Sequence[Memory]) -> float:
        """Embed and store memories at once, and return the seconds by the clock of the peer's process."""
        return float(self._ordered("store", collection=collection, memories=memories))

    def store_each(self, collection: str, memories: Sequence[Memory]) -> list[float]:
        """Embed and store memories one by one, and return the seconds by the clock of the peer's process."""
        return [float(took) for took in self._ordered("store_each", collection=collection, memories=memories)]

    def retrieve(
        self, collection: str, queries: Sequence[str], k: int, equal: Mapping[str, str], clients: int = 1
    ) -> Asked:
        """Ask every query in `clients` threads of the peer's process, and return the answers."""
        given = {"collection": collection, "queries": queries, "k": k, "equal": equal, "clients": clients}
        answer = self._ordered("retrieve", **given)
        return Asked(tuple(tuple(ids) for ids in answer["found"]), tuple(answer["took_s"]), answer["wall_s"])

    def held(self, collection: str, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that the peer's own look-up finds."""
        return list(self._ordered("held", collection=collection, ids=ids))

    def resident_bytes(self) -> int:
        """Return the memory of the process and of those that it started."""
        return sum(resident_bytes(pid) for pid in _family(self._require().pid))

    def kill(self) -> None:
        """End the process and those that it started at once."""
        process = self._require()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _ordered(self, order: str, **given: Any) -> Any:
        stdin = self._require().stdin
        assert stdin is not None, "it was asked for"
        try:
            stdin.write(json.dumps({"order": order, "with": given}) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self._answer()

    def _answer(self) -> Any:
        stdout = self._require().stdout
        assert stdout is not None, "it was asked for"
        line = stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._folder.name}: {answer['error']}")
        return answer["answer"]

    def _ended(self) -> RuntimeError:
        last = self._log.read_text(encoding="utf-8", errors="replace")[-1_000:]
        return RuntimeError(f"{self._folder.name} ended:\n{last}")

    def _require(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the peer was not started"
        return self._process


def resident_bytes(pid: int) -> int:
    """Return the memory of a process as the kernel counts it."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield from _family(int(child))
