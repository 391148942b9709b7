"""The one table from errors to exit codes, and the sentences that a person reads."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from vector_memory import errors
from vector_memory.errors import ServiceError, StartupError, look_up

FAILED, USAGE, NOT_FOUND, OUT_OF_REACH, INTERRUPTED = 1, 2, 3, 4, 130

EXIT_CODES: dict[type[ServiceError], int] = {
    errors.ServiceError: FAILED,
    errors.NotFound: NOT_FOUND,
    errors.RateLimited: OUT_OF_REACH,
    errors.Unavailable: OUT_OF_REACH,
}
"""Exit codes of errors. A class that is not listed has the code of its nearest base class."""


class Commands(TyperGroup):
    """The group of all commands. None of them ends in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and end with the exit code of its error."""
        _open_streams()
        with _exit_codes():
            return super().invoke(ctx)


def say(line: str) -> None:
    """Print a sentence for a person on stderr; stdout is for the answer."""
    sentence = f"vector-memory: {line}"
    if sys.stderr.isatty():
        from rich.text import Text

        from gateway.cli.showing import console, safe

        console(stderr=True).print(Text(safe(sentence)))
    else:
        print(sentence, file=sys.stderr)


def usage(line: str) -> typer.Exit:
    """Say what is wrong with the command line, and return the exception to raise."""
    say(line)
    return typer.Exit(USAGE)


def _open_streams() -> None:
    """Open a null device for each standard stream that the parent process closed.

    Otherwise the next file that is opened gets the stream's number, and output goes into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open as long as the process


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except ServiceError as error:
        at = f" ({error.request_id})" if error.code == "internal" and error.request_id else ""
        say(f"{error.message}{at}")
        raise typer.Exit(look_up(EXIT_CODES, error)) from error
    except StartupError as error:
        say(str(error))
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as interrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from interrupt
    except OSError as error:  # from now on output is dropped; otherwise flushing it at exit fails again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as `head` does
            raise typer.Exit(0) from error
        say(f"{error.strerror or error}.")
        raise typer.Exit(FAILED) from error
