"""Printing: JSON for programs, and for people text that fits the terminal and cannot control it."""

import json
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from vector_memory.fields import Value
    from vector_memory.memories import Memory

_V = TypeVar("_V", bound="Value")

_CONTROL_CHARACTERS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), 127, *range(128, 160)] if chr(code) not in "\n\t"
}
"""A table that replaces control characters. A memory that holds some could move the cursor, or worse."""

_UNENCODABLE = "backslashreplace"


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    print(json.dumps(value, ensure_ascii=not _is_utf8()))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


@cache
def console(*, stderr: bool = False) -> "Console":
    """Return the console of stdout, or of stderr. It is plain when that is not a terminal, and respects NO_COLOR."""
    from rich.console import Console

    class Plain(Console):
        """A console that raises BrokenPipeError when its reader is gone; rich would end the process with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=_UNENCODABLE)
    return Plain(stderr=stderr, highlight=False, emoji=False, markup=False)


def show(text: str = "", style: str | None = None, *, indent: int = 0, end: str = "\n") -> None:
    """Print text for a person."""
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    text = safe(text)
    if out.is_terminal and indent:
        out.print(Padding(Text(text, style=style or ""), (0, 0, 0, indent)))
    else:
        blanks = " " * indent
        out.print(Text(blanks + text.replace("\n", "\n" + blanks), style=style or ""), end=end, soft_wrap=True)


def safe(text: str) -> str:
    """Return the text without control characters and half surrogates."""
    return text.translate(_CONTROL_CHARACTERS).encode("utf-8", "replace").decode()


def show_memory(memory: "Memory", note: str = "") -> None:
    """Show a memory: its key, its text, its times and its metadata."""
    from vector_memory.times import iso_time

    show_line((memory.key, "bold cyan"), (note, "dim"))
    show(memory.content, indent=2)
    details = [iso_time(memory.created_at_ms)[:16].replace("T", " ")]
    if memory.metadata:
        details.append(json.dumps(memory.metadata, ensure_ascii=False))
    if memory.expires_at_ms is not None:
        details.append(f"until {iso_time(memory.expires_at_ms)[:16].replace('T', ' ')}")
    show("  ".join(details), "dim", indent=2)


def show_line(*parts: tuple[str, str]) -> None:
    """Show the parts in their styles on one line; empty parts are left out."""
    from rich.text import Text

    text = Text("  ").join(Text(safe(part), style=style) for part, style in parts if part)
    console().print(text, soft_wrap=not console().is_terminal)


def show_each(values: Iterable[_V], show_one: Callable[[_V], None], *, as_json: bool) -> int:
    """Print each value as it comes, and return how many came."""
    count = 0
    for value in values:
        count += 1
        if as_json:
            print_json(value.body())
        else:
            show_one(value)
    return count


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun, such as `1 memory` and `2,000 memories`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
