"""Finds libraries by name and reads them within a budget of tokens. A library is a set of documents under one name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service import checks
from memory_service.documents import names
from memory_service.documents.ordering import GAP
from memory_service.service import MemoryService
from memory_service.tokens import estimate_tokens
from vector_memory.documents import LIBRARIES_MAX, LIBRARY, Docs, DocsChunk, Library
from vector_memory.errors import NotFound
from vector_memory.fields import JSON, BoundedText, WholeNumber
from vector_memory.memories import DEFAULT_NAMESPACE, LIMIT, Consistency, Memory
from vector_memory.retrieval import MAX_TOKENS, Hit, Retrieval

NAME_CHARS_MAX = 200
KNOWN_MAX = 10_000
"""Most libraries whose names are compared with the wanted one. Comparing a thousand takes ten milliseconds."""

TOPICS_MAX = 50
"""Most topics that an answer lists for a library."""

CANDIDATES_MAX = 200
"""Most chunks considered for a topic. They are more than a usual budget of 5,000 tokens holds."""

BEGINNING_CHUNKS = 3
"""Chunks read from each document if no topic is given. They are about a page."""

_NEAR = 0.6
"""Least similarity of two spellings that match closely. It is difflib's own default."""


class LibraryService:
    """Finds and reads the libraries among one service's memories."""

    def __init__(self, memories: MemoryService) -> None:
        self._memories = memories

    def resolve(
        self,
        name: str | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        limit: int = LIBRARIES_MAX,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> list[Library]:
        """Return the libraries that a name may mean, best first: equal, by prefix, by spelling, or by meaning.

        Args:
            name: as a person would say it; None returns all libraries, in order of id.
            namespace: the namespace to search.
            limit: most libraries to return, 1 to 10.
            consistency: what the call sees of other workers' writes.
        """
        checks.namespace(namespace)
        WholeNumber(1, LIBRARIES_MAX).check(limit, "limit")
        if name is not None:
            BoundedText(NAME_CHARS_MAX, "use a shorter one").check(name, "name")
        known = [id for id, _ in self._values("document.library", namespace, KNOWN_MAX, None, consistency)]
        if name is None:
            return [self._library(id, namespace, "all") for id in known[:limit]]
        wanted = names.library_id(name)
        matches = {wanted: "exact"} if wanted in known else {}
        if wanted:
            matches |= {id: "prefix" for id in known if _begins_with(id, wanted) and id not in matches}
            near = difflib.get_close_matches(wanted, known, n=limit, cutoff=_NEAR)
            # People often leave out what comes before the slash, as in `react` for `facebook/react`.
            last = {id.rpartition("/")[2]: id for id in known}
            near += [last[part] for part in difflib.get_close_matches(wanted, last, n=limit, cutoff=_NEAR)]
            matches |= {id: "near" for id in near if id not in matches}
        # Meaning is the last resort, because it finds something for almost any name.
        if not matches and name.strip():
            matches = dict.fromkeys(self._by_meaning(name, namespace), "meaning")
        return [self._library(id, namespace, match) for id, match in list(matches.items())[:limit]]

    def docs(
        self,
        id: str,
        *,
        topic: str | None = None,
        tokens: int = 5_000,
        namespace: str = DEFAULT_NAMESPACE,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> Docs:
        """Return what a library says about a topic; without a topic, the first chunks of its documents.

        Args:
            id: the library's id (`Library.id`).
            topic: a question or some words.
            tokens: budget of the answer, 1 to 1,000,000. The estimate of a text's tokens is rather too high.
            namespace: the namespace to search.
            consistency: what the call sees of other workers' writes.

        Raises:
            NotFound: there is no such library.
        """
        LIBRARY.check(id, "library")
        MAX_TOKENS.check(tokens, "tokens")
        checks.namespace(namespace)
        library = names.library_id(id)
        if not self._values("library", namespace, 1, {"library": library}, consistency):
            raise NotFound(f"There is no library {id!r} in namespace {namespace!r}; GET /v1/libraries finds names.")
        if topic is None:
            return self._beginnings(library, tokens, namespace)
        held: dict[str, JSON] = {**names.is_any_chunk(), "library": library}
        query = Retrieval(query=topic, k=CANDIDATES_MAX, namespace=namespace, filter=held, max_tokens=tokens)
        result = self._memories.retrieve(query)
        return _docs(library, _in_reading_order(result.hits), result.tokens or 0, truncated=bool(result.truncated))

    def _beginnings(self, library: str, tokens: int, namespace: str) -> Docs:
        first: dict[str, JSON] = {**names.is_any_chunk(), "library": library, "chunk": {"$lte": BEGINNING_CHUNKS * GAP}}
        page = self._memories.list(namespace=namespace, filter=first, limit=LIMIT.most)
        waiting: dict[str, list[Memory]] = {}
        for memory in sorted(page.memories, key=_place):
            waiting.setdefault(_place(memory)[0], []).append(memory)
        # The first chunks of all documents come before the second chunk of any document.
        rounds = [chunks[turn] for turn in range(BEGINNING_CHUNKS) for chunks in waiting.values() if turn < len(chunks)]
        chosen: list[Hit] = []
        spent = 0
        for memory in rounds:
            cost = estimate_tokens(memory.content)
            if spent + cost > tokens:
                break  # a later chunk that is shorter would be out of turn
            spent += cost
            chosen.append(Hit.of(memory, 0.0))
        hits = tuple(sorted(chosen, key=lambda hit: _place(hit.memory)))
        truncated = len(chosen) < len(rounds) or page.cursor is not None
        return _docs(library, hits, spent, truncated=truncated)

    def _by_meaning(self, name: str, namespace: str) -> list[str]:
        """Return the libraries of the chunks that are nearest to the name in meaning."""
        held: dict[str, JSON] = {**names.is_any_chunk(), "library": {"$exists": True}}
        query = Retrieval(query=name, k=50, namespace=namespace, filter=held)
        return list(dict.fromkeys(str(hit.memory.metadata["library"]) for hit in self._memories.retrieve(query).hits))

    def _library(self, id: str, namespace: str, match: str) -> Library:
        heads = {"document.library": id}
        spelt = self._values("document.library_name", namespace, 2, heads)
        topics = tuple(topic for topic, _ in self._values("topic", namespace, TOPICS_MAX, heads))
        documents = sum(count for _, count in self._values("document.library", namespace, 1, heads))
        chunks = sum(count for _, count in self._values("library", namespace, 1, {"library": id}))
        name = spelt[0][0] if spelt else id
        return Library(id=id, name=name, documents=documents, chunks=chunks, topics=topics, match=match)

    def _values(
        self,
        field: str,
        namespace: str,
        limit: int,
        filter: dict[str, str] | None,
        consistency: Consistency = Consistency.EVENTUAL,
    ) -> list[tuple[str, int]]:
        return self._memories.values(field, namespace=namespace, filter=filter, limit=limit, consistency=consistency)


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    # Other memories may have metadata under the same names, and of any type.
    value = metadata.get(name)
    return value if isinstance(value, str) else None


def headings_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the headings of the sections that a chunk stands in, outermost first."""
    headings = metadata.get("headings")
    return tuple(each for each in headings if isinstance(each, str)) if isinstance(headings, list) else ()


def _docs(library: str, hits: Sequence[Hit], tokens: int, *, truncated: bool) -> Docs:
    chunks = tuple(
        DocsChunk(
            key=hit.key,
            document_id=_text(hit.metadata, "document_id"),
            title=_text(hit.metadata, "title"),
            headings=headings_of(hit.metadata),
            content=hit.content,
            score=hit.score,
        )
        for hit in hits
    )
    return Docs(library=library, chunks=chunks, tokens=tokens, truncated=truncated)


def _begins_with(id: str, wanted: str) -> bool:
    """Return whether an id, or its part after the last slash, begins with a text."""
    return id.startswith(wanted) or id.rpartition("/")[2].startswith(wanted)


def _place(memory: Memory) -> tuple[str, int]:
    number = memory.metadata.get("chunk")
    return str(memory.metadata.get("document_id")), number if isinstance(number, int) else 0


def _in_reading_order(hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """Return the hits with the document of the best hit first, and each document in its own order."""
    rank: dict[str, int] = {}
    for hit in hits:
        rank.setdefault(_place(hit.memory)[0], len(rank))
    return tuple(sorted(hits, key=lambda hit: (rank[_place(hit.memory)[0]], _place(hit.memory)[1])))
