"""Reads collections of BEIR: documents with queries whose relevant documents are known.

A person has to get the folders. A folder holds `corpus.jsonl`, `queries.jsonl` (`_id`, `title`, `text`) and judgements
(`qrels.tsv` or `qrels/test.tsv`: query, document, grade). The JSON lines may be compressed with gzip.
"""

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.texts import SEED


@dataclass(frozen=True, slots=True)
class Query:
    """A query with the grades of the documents that are relevant to it, by their ids. Grades are above 0."""

    text: str
    grades: dict[str, int]


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents and the queries about them.

    Attributes:
        documents: pairs of id and text, shuffled with a fixed seed. Files often put related documents side by side.

    """

    name: str
    documents: tuple[tuple[str, str], ...]
    queries: tuple[Query, ...]


def read(folder: Path) -> Collection:
    """Read the collection in a folder."""
    documents = [(row["_id"], f"{row.get('title', '')}. {row['text']}".lstrip(". ")) for row in _rows(folder, "corpus")]
    documents = [(id, text) for id, text in documents if text]
    random.Random(SEED).shuffle(documents)
    grades: dict[str, dict[str, int]] = {}
    known = {id for id, _ in documents}
    for query, document, grade in _judgements(folder):
        if document in known and grade > 0:
            grades.setdefault(query, {})[document] = grade
    texts = {row["_id"]: row["text"] for row in _rows(folder, "queries")}
    queries = tuple(Query(texts[id], graded) for id, graded in grades.items())
    return Collection(folder.name, tuple(documents), queries)


def _rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    packed = folder / f"{name}.jsonl.gz"
    with gzip.open(packed, "rt", encoding="utf-8") if packed.exists() else (folder / f"{name}.jsonl").open() as file:
        yield from (json.loads(line) for line in file)


def _judgements(folder: Path) -> Iterator[tuple[str, str, int]]:
    path = folder / "qrels.tsv"
    path = path if path.exists() else folder / "qrels" / "test.tsv"
    for line in path.read_text(encoding="utf-8").splitlines():
        query, document, grade = line.split()[:3]
        if grade.isdigit():  # the first line may name the columns
            yield query, document, int(grade)
