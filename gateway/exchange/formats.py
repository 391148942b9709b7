"""Finds out the format of a file or folder to import, and reads its items.

A folder with a `chroma.sqlite3` is one of Chroma; any other is read as texts. The ending of a file tells its format.
Where that is `.json`, `.jsonl` or missing, the content does.
"""

import io
import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from gateway.exchange import chroma, mcp_memory, mem0, records, texts
from gateway.exchange.items import ItemOrProblem, Problem
from vector_memory.errors import InvalidInput
from vector_memory.memories import DEFAULT_NAMESPACE

STDIN = "-"


class Format(StrEnum):
    """The formats that can be imported; AUTO finds out which it is."""

    AUTO = "auto"
    JSONL = "jsonl"
    TEXT = "text"
    MARKDOWN = "markdown"
    MEM0 = "mem0"
    CHROMA = "chroma"
    MCP = "mcp"


_ENDINGS = {
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
    ".rst": Format.TEXT,
}


_OF_LINES = (Format.JSONL, Format.MCP)
_ENDINGS_OF_LINES = (".jsonl", ".ndjson")
_HEAD_BYTES = 1 << 16


def read(path: Path, format: Format, namespace: str | None, stdin: BinaryIO | None = None) -> Iterator[ItemOrProblem]:
    """Yield the items of a file or folder, in their order.

    Args:
        path: `-` reads `stdin`.
        format: AUTO finds out the format.
        namespace: for all items; with None an item keeps its own, or gets the default one.
        stdin: bytes to read for `-`.

    Raises:
        InvalidInput: the file or folder as a whole cannot be read.
    """
    target = namespace or DEFAULT_NAMESPACE
    if str(path) != STDIN and not path.exists():
        raise InvalidInput(f"{path} does not exist.", field="path")
    if path.is_dir():
        if (path / chroma.FILE).is_file() and format in (Format.AUTO, Format.CHROMA):
            return chroma.read_folder(path, namespace)
        return _folder(path, format, target)
    format = _ENDINGS.get(path.suffix.lower(), format) if format is Format.AUTO else format
    name = "stdin" if str(path) == STDIN else path.name
    match format:
        case Format.TEXT:
            return texts.paragraphs(name, _text(path, stdin), target)
        case Format.MARKDOWN:
            return texts.sections(name, _text(path, stdin), target)
    if path.name == chroma.FILE:
        return chroma.read_folder(path.parent, namespace)
    return _structured(path, name, format, namespace, stdin)


def _folder(path: Path, format: Format, namespace: str) -> Iterator[ItemOrProblem]:
    if format not in (Format.AUTO, Format.TEXT, Format.MARKDOWN):
        raise InvalidInput(f"{path} is a folder; name a file of format {format}.", field="path")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in _ENDINGS)
    if not files:
        raise InvalidInput(f"{path} has no {', '.join(_ENDINGS)} files in it.", field="path")
    return _texts(path, files, namespace)


def _texts(folder: Path, files: Iterable[Path], namespace: str) -> Iterator[ItemOrProblem]:
    for file in files:
        name = str(file.relative_to(folder))
        try:
            text = _text(file, None)
        except InvalidInput as error:
            yield Problem(name, error.message)
            continue
        is_markdown = _ENDINGS[file.suffix.lower()] is Format.MARKDOWN
        yield from (texts.sections if is_markdown else texts.paragraphs)(name, text, namespace)


def _structured(
    path: Path, name: str, format: Format, namespace: str | None, stdin: BinaryIO | None
) -> Iterator[ItemOrProblem]:
    """Read JSON in one piece, or one JSON object per line."""
    source = _open(path, stdin)
    head = source.read(_HEAD_BYTES) + source.readline()
    is_lines = format in _OF_LINES or path.suffix.lower() in _ENDINGS_OF_LINES or _is_lines(head)
    rest = _Chained(head, source)
    if is_lines:
        return _lines(rest, name, format, namespace)
    try:
        whole = json.loads(rest.read())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{name} is neither JSON nor one JSON object per line; name its format with --format.", field="path"
        ) from error
    return _whole(whole, name, format, namespace)


def _is_lines(head: bytes) -> bool:
    """Return whether the first line is complete JSON. In a JSON text that spans several lines it is not."""
    lines = head.lstrip().split(b"\n", 1)
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict):
        return False
    has_more = len(lines) == 2 and bool(lines[1].strip())
    return has_more or (mem0.unpack(first) is None and not chroma.is_collection(first))


def _lines(source: "_Chained", name: str, format: Format, namespace: str | None) -> Iterator[ItemOrProblem]:
    with source:
        for number, line in enumerate(source, 1):
            where = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield Problem(where, "This line is not JSON.")
                continue
            yield from _one(value, where, format, namespace)


def _whole(value: Any, name: str, format: Format, namespace: str | None) -> Iterator[ItemOrProblem]:
    if format in (Format.AUTO, Format.CHROMA) and chroma.is_collection(value):
        yield from chroma.read_collection(value, name, namespace or DEFAULT_NAMESPACE)
        return
    values = value if isinstance(value, list) else mem0.unpack(value)
    for at, each in enumerate([value] if values is None else values):
        yield from _one(each, f"{name}[{at}]", format, namespace)


def _one(value: Any, where: str, format: Format, namespace: str | None) -> Iterator[ItemOrProblem]:
    """Read the items of one JSON value. Its fields tell its format."""
    target = namespace or DEFAULT_NAMESPACE
    if not isinstance(value, dict):
        yield Problem(where, "This is not a JSON object.")
    elif format in (Format.AUTO, Format.MCP) and mcp_memory.is_graph_line(value):
        yield from mcp_memory.items(value, where, target)
    elif format in (Format.AUTO, Format.MEM0) and mem0.is_memory(value):
        yield mem0.item(value, where, target)
    elif format in (Format.AUTO, Format.JSONL):
        yield from records.items(value, where, namespace)
    else:
        yield Problem(where, f"This is not of format {format}.")


def _open(path: Path, stdin: BinaryIO | None) -> BinaryIO:
    if str(path) == STDIN:
        assert stdin is not None, "a caller that allows - passes its stdin"
        return stdin
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", field="path") from error


def _text(path: Path, stdin: BinaryIO | None) -> str:
    with _open(path, stdin) as source:
        try:
            return source.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path} is not UTF-8 text.", field="path") from error


class _Chained(io.RawIOBase):
    """A file whose beginning has been read already."""

    def __init__(self, head: bytes, source: BinaryIO) -> None:
        self._head = head
        self._source = source

    def readable(self) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        *lines, last = self._head.split(b"\n")
        yield from lines
        yield last + self._source.readline()
        yield from self._source

    def read(self, size: int = -1) -> bytes:
        return self._head + self._source.read(size)

    def close(self) -> None:
        self._source.close()
        super().close()
