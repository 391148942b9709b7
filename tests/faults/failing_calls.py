"""System calls that fail on demand, for the files of one folder, in this process or in a child.

The calls are replaced where Python makes them (`os`, `io.open`, and the files that it opens), so what C code does with
a descriptor of its own is out of reach: SQLite, which never works in the data folder, and `numpy.fromfile`.

A write that fails has written half of its bytes before, because nobody promises that it wrote none. A sync that fails
has lost what was written since the last one, as the kernel's dirty pages are when their disk refuses them.
"""

import builtins
import contextlib
import errno
import functools
import io
import json
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "write": ("write",),
    "read": ("read", "sendfile"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "replace"),
    "open": ("open",),
    "listdir": ("listdir", "scandir"),
    "unlink": ("unlink", "remove", "rmdir"),
    "mkdir": ("mkdir",),
    "stat": ("stat", "lstat"),
}
"""The names in `os` of each kind of call. Files opened by `io.open` count as well: opening, reading and writing."""

KINDS = tuple(FUNCTIONS)
OPEN_FOR_WRITING = "open for writing"
"""A part of `open`, for file systems that are read-only or full."""

EVERYTHING = frozenset(KINDS)
READ_ONLY = frozenset({"write", OPEN_FOR_WRITING, "rename", "unlink", "mkdir"})
FULL = frozenset({"write", OPEN_FOR_WRITING, "mkdir"})

_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FOLDER, _CONTROL = "FAULTS_FOLDER", "FAULTS_CONTROL"

Guard = Callable[[str, str, bool], None]
"""Told of a call before it is made: its kind, its path, whether it opens for writing. Raises the call's OSError."""


@dataclass(slots=True)
class Fault:
    """Which calls fail.

    Attributes:
        kinds: of `KINDS`, or `OPEN_FOR_WRITING`.
        error: their errno.
        first: the matching call that fails, counted from 1.
        is_lasting: whether all later ones fail, too.
        calls: matching calls so far.
    """

    kinds: Collection[str]
    error: int
    first: int = 1
    is_lasting: bool = True
    calls: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_reached(self) -> bool:
        """Whether there were so many matching calls that one failed."""
        return self.calls >= self.first

    def meet(self, kind: str, path: str, for_writing: bool) -> None:
        """The guard."""
        if kind not in self.kinds and not (for_writing and OPEN_FOR_WRITING in self.kinds):
            return
        with self._counting:
            self.calls += 1
            fails = self.calls == self.first or (self.is_lasting and self.is_reached)
        if fails:
            raise OSError(self.error, os.strerror(self.error), path)


@contextlib.contextmanager
def failing(folder: Path, kinds: Collection[str], error: int, n: int = 1, *, lasting: bool = True) -> Iterator[Fault]:
    """While inside, the n-th matching call under the folder fails, alone or with all later ones."""
    fault = Fault(kinds, error, n, lasting)
    with guarded(folder, fault.meet):
        yield fault


@contextlib.contextmanager
def guarded(folder: Path, guard: Guard) -> Iterator[None]:
    """While inside, every call under the folder is shown to the guard first."""
    replaced = _replace(_Guarding(str(folder.absolute()), guard))
    try:
        yield
    finally:
        for module, name, real in replaced:
            setattr(module, name, real)


def _replace(guarding: "_Guarding") -> list[tuple[Any, str, Any]]:
    """Put the replacements in place; (module, name, real function) of each."""
    replaced: list[tuple[Any, str, Any]] = [(io, "open", io.open), (builtins, "open", builtins.open)]
    io.open = builtins.open = guarding.opener(io.open)
    for kind, names in FUNCTIONS.items():
        for name in names:
            real = getattr(os, name)
            replaced.append((os, name, real))
            setattr(os, name, guarding.function(kind, real))
    return replaced


class Switch:
    """Turns faults of a child process on and off, by a file that the child looks at before every call."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """Args:
        folder: whose calls fail.
        scratch: an existing folder for the switch itself, outside of the other.
        """
        self._folder = folder
        self._scratch = scratch
        self._control = scratch / "fault.json"

    def environment(self) -> dict[str, str]:
        """Variables with which any Python process has its calls guarded from its first moment."""
        (self._scratch / "sitecustomize.py").write_text(
            "from tests.faults.failing_calls import guard_this_process\n\nguard_this_process()\n"
        )
        found = os.pathsep.join([str(self._scratch), str(Path(__file__).parents[2])])
        return {"PYTHONPATH": found, _FOLDER: str(self._folder), _CONTROL: str(self._control)}

    @contextlib.contextmanager
    def on(self, kinds: Collection[str], error: int) -> Iterator[None]:
        """While inside, all matching calls of the child fail."""
        partial = self._control.with_suffix(".partial")
        partial.write_text(json.dumps({"kinds": sorted(kinds), "error": error}))
        partial.rename(self._control)
        try:
            yield
        finally:
            self._control.unlink()


def guard_this_process() -> None:
    """Obey the `Switch` that the environment names, until the process ends."""
    control = os.environ[_CONTROL]
    read, opened, closed = os.read, os.open, os.close

    def obey(kind: str, path: str, for_writing: bool) -> None:
        try:
            descriptor = opened(control, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            told = json.loads(read(descriptor, 4096))
        finally:
            closed(descriptor)
        Fault(told["kinds"], told["error"]).meet(kind, path, for_writing)

    _replace(_Guarding(os.environ[_FOLDER], obey))


class _Guarding:
    """Makes the replacements for one folder and one guard."""

    def __init__(self, folder: str, guard: Guard) -> None:
        self._folder = folder
        self._guard = guard
        self._synced: dict[str, int] = {}

    def function(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `os` that shows its call first."""

        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            at = 1 if real.__name__ == "sendfile" else 0  # it reads from its second argument
            target = args[at] if len(args) > at else kwargs.get("path", kwargs.get("src", "."))
            path = path_of(target, kwargs.get("dir_fd", kwargs.get("src_dir_fd")))
            if self._is_inside(path):
                flags = args[1] if kind == "open" and len(args) > 1 else kwargs.get("flags", 0)
                try:
                    self._guard(kind, path, kind == "open" and bool(flags & _WRITING_FLAGS))
                except OSError:
                    self._fail(kind, path, real, args)
                    raise
                if kind == "fsync":
                    self._synced[path] = os.fstat(args[0]).st_size
            return real(*args, **kwargs)

        return call

    def _fail(self, kind: str, path: str, real: Callable[..., Any], args: Sequence[Any]) -> None:
        """What a failing call does besides."""
        if kind == "write":
            real(args[0], bytes(args[1])[: len(args[1]) // 2])
        if kind == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
            os.ftruncate(args[0], self._synced.get(path, 0))

    def opener(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`io.open` that shows its call, and whose files show theirs."""

        @functools.wraps(real)
        def call(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            path = path_of(file, None)
            if isinstance(file, int) or not self._is_inside(path):
                return real(file, mode, buffering, *args, **kwargs)
            self._guard("open", path, not set(mode).isdisjoint("wxa+"))
            return _file(path, mode, buffering, self._guard, *args, **kwargs)

        return call

    def _is_inside(self, path: str) -> bool:
        return path == self._folder or path.startswith(f"{self._folder}/")


class _File(io.FileIO):
    """A file whose reads and writes are shown to the guard."""

    def __init__(self, path: str, mode: str, guard: Guard) -> None:
        super().__init__(path, mode)
        self._path = path
        self._guard = guard

    def write(self, data: Any, /) -> int:
        try:
            self._guard("write", self._path, False)
        except OSError:
            super().write(memoryview(data)[: len(data) // 2])
            raise
        return super().write(data)

    def readinto(self, buffer: Any, /) -> int:
        self._guard("read", self._path, False)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._guard("read", self._path, False)
        return super().readall()


def _file(
    path: str,
    mode: str,
    buffering: int,
    guard: Guard,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    """What `io.open` would return, over a `_File`."""
    raw = _File(path, mode.replace("b", "").replace("t", ""), guard)
    if buffering == 0:
        return raw
    if "+" in mode:
        buffered: Any = io.BufferedRandom(raw)
    else:
        buffered = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


def path_of(target: Any, folder_descriptor: int | None) -> str:
    """The absolute path of a path or of an open descriptor, found without any call that is replaced."""
    if isinstance(target, int):
        return _path_of_descriptor(target)
    path = os.fsdecode(target)
    if folder_descriptor is not None and not os.path.isabs(path):
        return os.path.join(_path_of_descriptor(folder_descriptor), path)
    return os.path.abspath(path)


def _path_of_descriptor(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def named(error: int) -> str:
    """An errno's name, such as EIO."""
    return errno.errorcode[error]
