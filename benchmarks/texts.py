"""Chooses the texts that are stored and asked for, from a file or from the project's example memories.

All choices have fixed seeds, so two runs on the same lines measure the same work.
"""

import gzip
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from research.grounding.sentences import spans

SEED = 20_261_121
EXAMPLES = Path(__file__).parents[1] / "examples" / "leads.jsonl"

SENTENCE_CHARS_MAX = 300
QUERY_WORDS = 8
"""Words of a query. Questions to a memory are about this long, and short ones leave less embedding to hide the rest."""

LEADS = 100
KINDS = 10


@dataclass(frozen=True, slots=True)
class Texts:
    """Distinct texts, and a description of where they come from."""

    source: str
    lines: tuple[str, ...]


def from_file(path: Path, count: int) -> Texts:
    """Choose distinct lines of a text file, which may be compressed with gzip.

    Raises:
        SystemExit: the file has too few distinct lines.

    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        lines = list(dict.fromkeys(line.strip() for line in file if line.strip()))
    if len(lines) < count:
        sys.exit(f"{path} has {len(lines)} distinct lines; this run needs {count}.")
    chosen = random.Random(SEED).sample(lines, count)
    return Texts(f"{count} lines chosen from a file of {len(lines)} distinct ones", tuple(chosen))


def synthetic(count: int) -> Texts:
    """Make distinct texts, each of one to three sentences from the example memories."""
    sentences = list(dict.fromkeys(_example_sentences()))
    chooser = random.Random(SEED)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(chooser.sample(sentences, chooser.randint(1, 3)))] = None
    return Texts(f"synthetic: {count} recombinations of {len(sentences)} sentences of the examples", tuple(made))


def _example_sentences() -> Iterator[str]:
    for line in EXAMPLES.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)["content"]
        for span in spans(content, SENTENCE_CHARS_MAX):
            yield content[span.start : span.stop]


def metadata(number: int) -> dict[str, str | int | float]:
    """Return the metadata of a stored text: one of 100 leads, one of 10 kinds, and two fields that no filter uses."""
    return {
        "lead": f"lead-{number % LEADS}",
        "kind": f"kind-{number // LEADS % KINDS}",
        "importance": number % 7 / 10,
        "session_id": f"session-{number // 20}",
    }


ONE_PERCENT = {"lead": "lead-42"}
THIRTY_PERCENT = {"kind": {"$in": ["kind-1", "kind-4", "kind-7"]}}
"""Filters over `metadata`. The names say the share of memories that they match."""


def query(line: str) -> str:
    """Return the first `QUERY_WORDS` words of a text."""
    return " ".join(line.split()[:QUERY_WORDS])
