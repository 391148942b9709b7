"""Measures how often research would abstain, by the least relevance that the best memory must have.

Each question is asked of its own conversation, which answers it, and of another conversation, which does not.
`python -m benchmarks.abstaining --locomo FILE --realtalk FOLDER` takes a minute or two.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import conversations
from benchmarks.conversations import Dialogue
from benchmarks.figures import Table, rendered
from memory_service.embedding.minilm import MiniLM
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from vector_memory.memories import NewMemory
from vector_memory.research import DEFAULT_K
from vector_memory.retrieval import Retrieval

THRESHOLDS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2)


def main() -> None:
    """Measure and print a table for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--locomo", type=Path, metavar="FILE", help="LoCoMo's locomo10.json, gzipped or not")
    parser.add_argument("--realtalk", type=Path, metavar="FOLDER", help="REALTALK's JSON files")
    arguments = parser.parse_args()
    dialogues = conversations.locomo(arguments.locomo) if arguments.locomo else []
    dialogues += conversations.realtalk(arguments.realtalk) if arguments.realtalk else []
    if not dialogues:
        parser.error("name --locomo or --realtalk")
    with tempfile.TemporaryDirectory() as folder:
        service = MemoryService(DataFolder(Path(folder) / "memory"), MiniLM.load())
        for source in dict.fromkeys(one.source for one in dialogues):
            print(rendered(measured(service, [one for one in dialogues if one.source == source])), end="\n\n")
        service.close()


def measured(service: MemoryService, dialogues: Sequence[Dialogue]) -> Table:
    """Return the shares of questions that would be answered, by threshold."""
    for dialogue in dialogues:
        _store(service, dialogue)
    own, found, other = [], [], []
    for at, dialogue in enumerate(dialogues):
        for question in dialogue.questions:
            relevance, keys = _best(service, question.text, dialogue.name)
            own.append(relevance)
            found.append(relevance if keys & question.evidence else -1.0)
            other.append(_best(service, question.text, dialogues[at - 1].name)[0])
    # Each list has one relevance for each question; a row has the shares of the three lists that reach a threshold.
    rows = tuple(
        (f"{least:g}", *(f"{100 * np.mean(np.array(values) >= least):.1f}" for values in (own, found, other)))
        for least in THRESHOLDS
    )
    return Table(
        f"{dialogues[0].source}: questions that are answered, of {len(own)}, in percent",
        ("least relevance", "answerable", f"and evidence is among the {DEFAULT_K}", "of another conversation"),
        rows,
    )


def _store(service: MemoryService, dialogue: Dialogue) -> None:
    memories = [
        NewMemory(
            content=turn.text,
            key=turn.key,
            namespace=dialogue.name,
            metadata={"session_id": turn.session, "speaker": turn.speaker, "event_time": turn.time},
        )
        for turn in dialogue.turns
    ]
    for begin in range(0, len(memories), 500):
        service.store_batch(memories[begin : begin + 500])


def _best(service: MemoryService, query: str, namespace: str) -> tuple[float, set[str]]:
    """Return the relevance of the best memory, and the keys of all memories that research would read."""
    hits = service.retrieve(Retrieval(query=query, namespace=namespace, k=DEFAULT_K)).hits
    return max((hit.relevance or 0.0 for hit in hits), default=0.0), {hit.memory.key for hit in hits}


if __name__ == "__main__":
    main()
