"""What a command shows: JSON for programs, and for people text that fits the terminal and cannot steer it."""

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from vector_memory.memories import Memory

_STEERING = {
    code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), 127, *range(128, 160)] if chr(code) not in "\n\t"
}
"""Control characters: a memory that holds some could move the cursor, or worse."""

_UNENCODABLE = "backslashreplace"


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    print(json.dumps(value, ensure_ascii=not _is_utf8()))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


@cache
def console(*, stderr: bool = False) -> "Console":
    """Of stdout, or of stderr. Plain and never wrapped when it is no terminal; NO_COLOR is respected."""
    from rich.console import Console

    class Plain(Console):
        """Leaves it to the command's end what a reader that has gone means; its own end has another exit code."""

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
    """Text without control characters and half surrogates."""
    return text.translate(_STEERING).encode("utf-8", "replace").decode()


def show_memory(memory: "Memory", note: str = "") -> None:
    """A memory: its key, its text, and what else is known."""
    from vector_memory.times import iso_time

    show_line((memory.key, "bold cyan"), (note, "dim"))
    show(memory.content, indent=2)
    known = [iso_time(memory.created_at_ms)[:16].replace("T", " ")]
    if memory.metadata:
        known.append(json.dumps(memory.metadata, ensure_ascii=False))
    if memory.expires_at_ms is not None:
        known.append(f"until {iso_time(memory.expires_at_ms)[:16].replace('T', ' ')}")
    show("  ".join(known), "dim", indent=2)


def show_line(*parts: tuple[str, str]) -> None:
    """One line of parts in their styles; empty parts are left out."""
    from rich.text import Text

    text = Text("  ").join(Text(safe(part), style=style) for part, style in parts if part)
    console().print(text, soft_wrap=not console().is_terminal)


def counted(count: int, one: str, many: str | None = None) -> str:
    """Such as `1 memory` and `2,000 memories`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
