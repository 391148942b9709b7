"""What goes out comes in again as it was, and what other programs keep comes in with nothing silently dropped."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import texts
from gateway.exchange.exporting import header, lines
from gateway.exchange.formats import Format, read
from gateway.exchange.importing import import_items
from gateway.exchange.items import Item, Problem
from vector_memory import Client, NewMemory
from vector_memory.errors import InvalidInput, NotFound


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client.local(tmp_path_factory.mktemp("exchange") / "memory") as client:
        yield client


def exported(client: Client, path: Path, *namespaces: str, vectors: bool = True) -> Path:
    text = [header(client.stats()), *lines(client, namespaces, vectors=vectors)]
    path.write_text("".join(json.dumps(line) + "\n" for line in text))
    return path


def items(path: Path, format: Format = Format.AUTO, namespace: str | None = None) -> list[Item | Problem]:
    return list(read(path, format, namespace))


def all_read(found: Iterable[Item | Problem]) -> list[Item]:
    """The items of a source in which there is no problem."""
    read_well = []
    for each in found:
        assert isinstance(each, Item), each
        read_well.append(each)
    return read_well


def written(tmp_path: Path, name: str, text: object) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


# -- our own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [True, False])
def test_an_export_is_imported_whole_and_a_second_time_changes_nothing(
    client: Client, tmp_path: Path, vectors: bool
) -> None:
    source, target = f"from-{vectors}", f"to-{vectors}"
    client.store_batch(
        [
            NewMemory(content=f"Note {n} on oats.\nÄ\u2028日", key=f"k/{n}", namespace=source, metadata={"n": n})
            for n in range(7)
        ]
    )
    client.store("It ends.", key="ends", namespace=source, ttl_seconds=3_600)
    client.store("Long. " * 2_000, key="long", namespace=source)
    path = exported(client, tmp_path / "export.jsonl", source, vectors=vectors)

    outcome = import_items(client, items(path, namespace=target))
    assert (outcome.stored, outcome.problems) == (9, [])
    before = {memory.key: memory for memory in client.list(namespace=target)}
    for memory in client.list(namespace=source):
        there = before[memory.key]
        assert (there.content, there.metadata) == (memory.content, memory.metadata)
        assert (there.created_at_ms, there.expires_at_ms) == (memory.created_at_ms, memory.expires_at_ms)
    shared = client.page(namespace=source, embeddings=True)
    assert len(shared.memories) == 9
    if vectors:
        copied = client.page(namespace=target, embeddings=True)
        assert {m.key: m.embedding for m in copied.memories} == {m.key: m.embedding for m in shared.memories}

    again = import_items(client, items(path, namespace=target))
    assert (again.unchanged, again.stored, again.updated) == (9, 0, 0)
    assert {memory.key: memory for memory in client.list(namespace=target)} == before


def test_an_import_that_was_broken_off_is_begun_again(client: Client, tmp_path: Path) -> None:
    client.store_batch([NewMemory(content=f"Part {n}.", key=f"{n}", namespace="broken") for n in range(5)])
    path = exported(client, tmp_path / "export.jsonl", "broken")
    import_items(client, items(path, namespace="broken-2")[:3])
    outcome = import_items(client, items(path, namespace="broken-2"))
    assert (outcome.unchanged, outcome.stored) == (3, 2)


def test_lines_that_are_none_are_reported_with_their_number_and_the_others_imported(
    client: Client, tmp_path: Path
) -> None:
    text = "\n".join(
        [
            '{"content": "good", "key": "1"}',
            "{broken",
            "",
            "[1, 2]",
            '{"no": "content"}',
            '{"content": "x", "colour": 5}',
            '{"content": 5, "key": "six"}',
            '{"content": "gone", "expires_at": "2001-01-01"}',
            '{"format": "vector-memory", "version": 99}',
            '{"content": "also good", "key": "2"}',
        ]
    )
    outcome = import_items(client, items(written(tmp_path, "mixed.jsonl", text), namespace="mixed"))
    assert (outcome.stored, outcome.expired) == (2, 1)
    assert sorted(problem.where for problem in outcome.problems) == [f"mixed.jsonl:{n}" for n in (2, 4, 5, 6, 7, 9)]


def test_a_first_line_longer_than_any_buffer_is_a_line(client: Client, tmp_path: Path) -> None:
    text = json.dumps({"content": "x" * 90_000}) + "\n" + json.dumps({"content": "y"}) + "\n"
    assert [len(item.memory.content) for item in all_read(items(written(tmp_path, "long.json", text)))] == [90_000, 1]


@pytest.mark.parametrize("text", ["", "nonsense", "{", '{"a": 1', "\x00\x01"])
def test_what_has_no_format_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput):
        items(written(tmp_path, "x.json", text))


def test_what_is_not_there_is_said(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        items(tmp_path / "nothing")
    with pytest.raises(InvalidInput):
        items(tmp_path)
    with pytest.raises(NotFound):
        list(lines(client, ["no such namespace"]))


# -- texts ---------------------------------------------------------------------------------------------------------


def test_a_paragraph_of_a_text_is_a_memory(tmp_path: Path) -> None:
    found = all_read(items(written(tmp_path, "notes.txt", "\ufeffFirst line\nsecond line\n\n\n  \nNext.\n")))
    assert [(item.where, item.memory.content) for item in found] == [
        ("notes.txt:1", "First line\nsecond line"),
        ("notes.txt:6", "Next."),
    ]
    assert found[0].memory.metadata == {"source": "notes.txt"}


MARKDOWN = """Before all.

# Acme ##
Intro.

## Prices

They asked for 10 %.

```sh
# no heading

echo
```

### Deep
Deep text.
## People
#no heading
# Last

"""


def test_a_section_of_markdown_is_a_memory_with_the_headings_above_it(tmp_path: Path) -> None:
    found = all_read(items(written(tmp_path, "notes.md", MARKDOWN)))
    assert [((item.memory.metadata or {}).get("headings"), item.memory.content, item.where) for item in found] == [
        (None, "Before all.", "notes.md:1"),
        (["Acme"], "Intro.", "notes.md:4"),
        (["Acme", "Prices"], "They asked for 10 %.\n\n```sh\n# no heading\n\necho\n```", "notes.md:8"),
        (["Acme", "Prices", "Deep"], "Deep text.", "notes.md:17"),
        (["Acme", "People"], "#no heading", "notes.md:19"),
    ]


def test_long_sections_are_cut_between_paragraphs_and_keys_stay_when_lines_move(tmp_path: Path) -> None:
    text = "# H\n" + "\n\n".join(f"Paragraph {n}. " + "word " * 100 for n in range(10))
    found = all_read(items(written(tmp_path, "a.md", text)))
    assert len(found) == 4
    moved = all_read(items(written(tmp_path, "a.md", "# New\nNew.\n" + text)))
    assert {item.memory.key for item in found} < {item.memory.key for item in moved}


MARKS = ["", " ", "text", "# A", "## B", "#", "```", "~~~~", "    code", "a\x0bb", "* x"]


@given(st.lists(st.sampled_from(MARKS), max_size=30))
def test_no_line_of_a_text_is_silently_dropped(given_lines: list[str]) -> None:
    """Every line that is not blank is in a memory or is a heading, also where fences are left open."""
    text = "\n".join(given_lines)
    for found in (texts.paragraphs("x", text, "n"), texts.sections("x", text, "n")):
        kept = "\n".join(
            "\n".join([*(item.memory.metadata or {}).get("headings", []), item.memory.content])
            for item in all_read(found)
        ).split("\n")
        for line in given_lines:
            assert not line.strip() or line.rstrip() in kept or line.startswith("#")


def test_a_folder_of_texts_is_read_whole(tmp_path: Path) -> None:
    written(tmp_path, "docs/b.md", "# B\nb")
    written(tmp_path, "docs/sub/a.txt", "a")
    written(tmp_path, "docs/ignored.bin", "x")
    (tmp_path / "docs" / "bad.txt").write_bytes(b"\xff\xfe")
    found = items(tmp_path / "docs")
    assert [item.where for item in found] == ["b.md:2", "bad.txt", "sub/a.txt:1"]
    assert isinstance(found[1], Problem)


# -- other programs ------------------------------------------------------------------------------------------------

MEM0 = {
    "id": "8b0f",
    "memory": "Prefers window seats",
    "hash": "x",
    "metadata": {"category": "travel"},
    "created_at": "2025-03-01T10:00:00.123456-08:00",
    "updated_at": None,
    "user_id": "dana",
}


@pytest.mark.parametrize("shape", [[MEM0], {"results": [MEM0]}, {"memories": [MEM0]}, MEM0])
@pytest.mark.parametrize("indent", [None, 2])
def test_memories_of_mem0_keep_id_owner_and_time(
    client: Client, tmp_path: Path, shape: object, indent: int | None
) -> None:
    [item] = items(written(tmp_path, "mem0.json", json.dumps(shape, indent=indent)))
    assert isinstance(item, Item)
    memory = item.memory
    assert (memory.key, memory.content) == ("mem0/8b0f", "Prefers window seats")
    assert memory.metadata == {"user_id": "dana", "category": "travel"}
    assert import_items(client, items(tmp_path / "mem0.json", namespace="mem0")).problems == []
    assert client.get("mem0/8b0f", namespace="mem0").created_at_ms == 1_740_852_000_123


def test_a_memory_of_mem0_without_an_id_or_with_nonsense_is_reported(tmp_path: Path) -> None:
    bad = [{"memory": "x"}, {**MEM0, "metadata": 5}, {**MEM0, "created_at": "yesterday"}, 7]
    assert all(isinstance(each, Problem) for each in items(written(tmp_path, "m.json", bad)))


GRAPH = """{"type": "entity", "name": "Dana", "entityType": "person", "observations": ["Drinks oat", "Lives in Oslo"]}
{"type": "entity", "name": "Acme", "entityType": "company", "observations": []}
{"type": "relation", "from": "Dana", "to": "Acme", "relationType": "works_at"}
{"type": "entity", "name": "Broken"}
{"type": "other"}
"""


def test_a_knowledge_graph_becomes_sentences(tmp_path: Path) -> None:
    found = items(written(tmp_path, "memory.json", GRAPH))
    assert [item.memory.content for item in found if isinstance(item, Item)] == [
        "Dana: Drinks oat",
        "Dana: Lives in Oslo",
        "Acme: is known as company",
        "Dana works at Acme",
    ]
    first = found[0]
    assert isinstance(first, Item)
    assert first.memory.metadata == {"kind": "observation", "entity": "Dana", "entity_type": "person"}
    assert [item.where for item in found if isinstance(item, Problem)] == ["memory.json:4", "memory.json:5"]


def test_a_collection_of_chroma_as_json(tmp_path: Path) -> None:
    got = {
        "ids": ["a", "b", 3],
        "embeddings": None,
        "documents": ["Dana drinks oat flat white.", None, "x"],
        "metadatas": [{"lead": "acme"}, None, None],
    }
    first, *others = items(written(tmp_path, "chroma.json", got))
    assert isinstance(first, Item)
    assert (first.memory.key, first.memory.metadata) == ("a", {"lead": "acme"})
    assert all(isinstance(each, Problem) for each in others)
    assert len(others) == 2


def chroma_folder(path: Path, *, has_lists: bool) -> Path:
    """The tables that Chroma 1.5.9 writes, as far as texts and metadata are in them."""
    path.mkdir()
    with closing(sqlite3.connect(path / "chroma.sqlite3")) as db:
        typed = "id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER"
        db.executescript(
            "CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT);"
            "CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT, scope TEXT, collection TEXT);"
            "CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id BLOB);"
            f"CREATE TABLE embedding_metadata ({typed});"
        )
        db.execute("INSERT INTO collections VALUES ('c', 'notes')")
        db.execute("INSERT INTO segments VALUES ('m', 't', 'METADATA', 'c'), ('v', 't', 'VECTOR', 'c')")
        db.execute("INSERT INTO embeddings VALUES (1, 'm', 'a', 1), (2, 'm', 'only a vector', 2)")
        rows = [
            (1, "chroma:document", "Dana drinks oat flat white.", None, None, None),
            (1, "n", None, 1, None, None),
            (1, "f", None, None, 0.5, None),
            (1, "ok", None, None, None, 1),
        ]
        db.executemany("INSERT INTO embedding_metadata VALUES (?, ?, ?, ?, ?, ?)", rows)
        if has_lists:
            db.execute(f"CREATE TABLE embedding_metadata_array ({typed})")
            parts = [(1, "tags", "x", None, None, None), (1, "tags", "y", None, None, None)]
            db.executemany("INSERT INTO embedding_metadata_array VALUES (?, ?, ?, ?, ?, ?)", parts)
        db.commit()
    return path


@pytest.mark.parametrize("has_lists", [True, False])
def test_a_folder_of_chroma_is_read_with_its_collections_as_namespaces(tmp_path: Path, has_lists: bool) -> None:
    entry, problem = items(chroma_folder(tmp_path / "chroma", has_lists=has_lists))
    tags = {"tags": ["x", "y"]} if has_lists else {}
    assert isinstance(entry, Item)
    assert entry.memory == NewMemory(
        content="Dana drinks oat flat white.",
        key="a",
        namespace="notes",
        metadata={"n": 1, "f": 0.5, "ok": True, **tags},
    )
    assert isinstance(problem, Problem)
    assert "no document" in problem.reason
    assert [each.name for each in (tmp_path / "chroma").iterdir()] == ["chroma.sqlite3"], "nothing was written"


def test_a_database_that_is_not_chromas_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database at all, but long enough to look at" * 40)
    with pytest.raises(InvalidInput):
        items(tmp_path)


@pytest.mark.parametrize(
    "bad",
    ['{"content": "x", "metadata": {"n": NaN}}', '{"content": "x", "metadata": {"n": 1e999}}']
    + [f'{{"content": "x", "metadata": {{"n": {"[" * depth}{"]" * depth}}}}}' for depth in (966, 976, 982)]
    + ['{"content": "' + "x" * 11_000_000 + '"}', '{"content": "x", "key": "\\ud800"}']
    + ['{"content": "x", "namespace": "\\ud800"}'],
    ids=["NaN", "infinity", "deep", "deeper", "deepest", "larger than a request", "half a key", "half a namespace"],
)
def test_one_line_that_cannot_even_be_sent_holds_no_other_up(
    client: Client, tmp_path: Path, request: pytest.FixtureRequest, bad: str
) -> None:
    """Such a line once ended the whole import, with all that stood behind it not imported."""
    name = request.node.callspec.id
    good = [json.dumps({"content": f"Note {n}.", "key": f"{name}/{n}"}) for n in range(5)]
    path = written(tmp_path, "some.jsonl", "\n".join([*good[:2], bad, *good[2:]]))
    outcome = import_items(client, items(path))
    assert outcome.stored == 5
    assert [problem.where for problem in outcome.problems] == ["some.jsonl:3"]
