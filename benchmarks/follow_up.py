"""Measures whether a second retrieval, without any language model, finds evidence that the first one missed.

The method is pseudo-relevance feedback: the best passages of the first retrieval give the words of further queries, and
the hits of these queries take some of the ten places. The conversations have known evidence.
`python -m benchmarks.follow_up --locomo FILE --realtalk FOLDER` takes two minutes.
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from benchmarks import conversations
from benchmarks.conversations import Dialogue, Question
from benchmarks.figures import Table, rendered
from memory_service.embedding.minilm import MiniLM
from memory_service.journal.data_folder import DataFolder
from memory_service.namespaces.words import STOP_WORDS, stems, words
from memory_service.service import MemoryService
from vector_memory.memories import NewMemory
from vector_memory.retrieval import Retrieval

K = 10
FIRST_KEPT = 8
FEEDBACK_PASSAGES = 2
RARE_WORDS = 3
_RANK_OFFSET = 60
"""Constant of reciprocal rank fusion, as in Cormack et al. 2009."""

Follow = Callable[[str, str, Mapping[str, int]], str]


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
    """Return evidence recall at ten in percent, by category and way of asking; "twice the places" is at twenty."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for dialogue in dialogues:
        _store(service, dialogue)
        rarity = Counter(stem for turn in dialogue.turns for stem in set(stems(words(turn.text))))
        for question in dialogue.questions:
            for name, keys in _ways(service, dialogue, question, rarity).items():
                found[question.category, dialogue.part][name].append(
                    len(question.evidence & set(keys)) / len(question.evidence)
                )
    names = list(next(iter(found.values())))
    rows = tuple(
        (*group, str(len(shares[names[0]])), *(f"{100 * np.mean(shares[name]):.1f}" for name in names))
        for group, shares in sorted(found.items())
    )
    return Table(f"{dialogues[0].source}: evidence recall@{K}, %", ("category", "part", "questions", *names), rows)


def _ways(
    service: MemoryService, dialogue: Dialogue, question: Question, rarity: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return the keys that each way of asking ends with."""

    def retrieved(query: str) -> list[tuple[str, str]]:
        hits = service.retrieve(Retrieval(query=query, namespace=dialogue.name, k=2 * K)).hits
        return [(hit.memory.key, hit.memory.content) for hit in hits]

    first = retrieved(question.text)
    keys = [key for key, _ in first]
    ways = {"one retrieval": keys[:K], "twice the places": keys}
    for name, follow in FOLLOW.items():
        queries = [follow(question.text, text, rarity) for _, text in first[:FEEDBACK_PASSAGES]]
        further = [[key for key, _ in retrieved(query)] for query in queries]
        ways[f"{name}, two places"] = _places(keys, further)
        # The first retrieval counts twice, so that further ones do not push its best hits out.
        ways[f"{name}, fused"] = _fused([keys, keys, *further])
    return ways


def _rare(question: str, text: str, rarity: Mapping[str, int]) -> str:
    """Return the question followed by the rarest words of a passage that are not in the question."""
    asked = set(stems(words(question)))
    fresh = [word for word in dict.fromkeys(words(text)) if word not in STOP_WORDS and stems([word])[0] not in asked]
    return " ".join([question, *sorted(fresh, key=lambda word: rarity[stems([word])[0]])[:RARE_WORDS]])


FOLLOW: Mapping[str, Follow] = {
    "rare words": _rare,
    "question and passage": lambda question, text, _: f"{question} {text}",
    "passage": lambda _question, text, _: text,
}


def _places(first: Sequence[str], further: Sequence[Sequence[str]]) -> list[str]:
    """Return the best keys of the first retrieval, followed by new keys of the others in the last places."""
    # Take the best of each further list, then the second of each, and so on.
    fresh = chain.from_iterable(zip_longest(*further))
    return list(dict.fromkeys(key for key in chain(first[:FIRST_KEPT], fresh) if key is not None))[:K]


def _fused(lists: Sequence[Sequence[str]]) -> list[str]:
    scores: dict[str, float] = defaultdict(float)
    for keys in lists:
        for rank, key in enumerate(keys):
            scores[key] += 1 / (_RANK_OFFSET + rank)
    return sorted(scores, key=lambda key: -scores[key])[:K]


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


if __name__ == "__main__":
    main()
