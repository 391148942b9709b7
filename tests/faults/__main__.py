"""The fault matrix: every scenario at full size, its table written into the document. `python -m tests.faults`."""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.rows import Row

SCENARIOS = ("kills", "sharing", "releases", "frozen", "calls", "damage", "volume", "delayed")
"""Modules of this package; each has `full(folder) -> list[Row]` for the table, and small sizes that the tests run."""

DOCUMENT = Path(__file__).parents[2] / "docs" / "durability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> None:
    """Run, print and write the table; a broken promise ends it with a traceback and writes nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], help="default: all, and the table is written")
    chosen = parser.parse_args().scenarios
    rows: list[Row] = []
    for name in chosen or SCENARIOS:
        print(f"{name} ...", file=sys.stderr)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"faults-{name}-") as folder:
            rows += importlib.import_module(f"tests.faults.{name}").full(Path(folder))
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    table = rendered(rows)
    print(table)
    if not chosen:
        write(table)


def rendered(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| fault | what was run | what was seen |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.fault} | {row.ran} | {row.seen} |" for row in rows)])


def write(table: str) -> None:
    """Put the table between its marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
