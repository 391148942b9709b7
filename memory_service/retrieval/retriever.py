"""The retriever: from what is asked to hits, and why they are what they are.

Below: the embedding queue and `searching.py`. Thread-safe; it changes nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from memory_service import checks
from memory_service.clock import HybridClock
from memory_service.embedding.queue import EmbeddingQueue, mean_direction
from memory_service.filters.grammar import parse
from memory_service.model import Hit, Mode
from memory_service.namespaces.index import NamespaceIndex
from memory_service.namespaces.words import frequencies
from memory_service.projection.applying import Projection
from memory_service.retrieval import explaining, ranking
from memory_service.retrieval.ranking import AnalyzedQuery, Boosts
from memory_service.retrieval.request import Retrieval, Retrieved
from memory_service.retrieval.searching import PreparedQuery, SearchResult, look
from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from vector_memory.errors import NotFound

LIKE_TERMS_MAX = 32
"""Of the memory that others are to be like, so many of its rarest words are looked for."""


class Retriever:
    """Finds memories."""

    def __init__(self, projection: Projection, embedding: EmbeddingQueue, clock: HybridClock) -> None:
        self._projection = projection
        self._embedding = embedding
        self._clock = clock

    def understood(self, retrieval: Retrieval) -> PreparedQuery:
        """What is asked, by what the namespace holds; not embedded yet.

        Raises:
            InvalidInput: the filter is none, or `as_of` is out of bounds.
            NotFound: there is no memory with the key of `like`.
        """
        wanted = parse(retrieval.filter)
        now_ms = self._clock.now_ms()
        as_of_ms = checks.as_of(retrieval.as_of, now_ms, self._projection.superseded_kept_ms)
        half_life = retrieval.recency_half_life_days
        boosts = Boosts(now_ms, None if half_life is None else half_life * checks.DAY_MS, retrieval.importance_weight)
        index = self._projection.index(retrieval.namespace)
        if retrieval.query is not None:
            question = ranking.prepared(retrieval.query, index)
            return PreparedQuery(
                retrieval=retrieval, wanted=wanted, question=question, vector=None, as_of_ms=as_of_ms, boosts=boosts
            )
        assert retrieval.like is not None, "a retrieval has a query or is like a memory"
        return self._like(
            PreparedQuery(
                retrieval=retrieval, wanted=wanted, question=_NO_QUESTION, vector=None, as_of_ms=as_of_ms, boosts=boosts
            ),
            retrieval.like,
            index,
        )

    def embedded(self, searches: Sequence[PreparedQuery]) -> list[PreparedQuery]:
        """Begin to embed what needs a vector; all queries share the model's runs."""
        is_asked = [it.vector is None and it.retrieval.ranked_by is not Mode.LEXICAL for it in searches]
        meanings = [it.question.meaning for it, asked in zip(searches, is_asked, strict=True) if asked]
        vectors = iter(self._embedding.awaited(meanings))
        return [
            replace(it, vector=next(vectors)) if asked else it for it, asked in zip(searches, is_asked, strict=True)
        ]

    def retrieve(self, search: PreparedQuery) -> Retrieved:
        """PreparedQuery, then fetch; should a writer have changed something in between, once more without writers."""
        found, is_whole = look(self._projection, search)
        if not is_whole:
            with self._projection.undisturbed():
                found, _ = look(self._projection, search)
        return self._retrieved(search, found)

    def _like(self, search: PreparedQuery, key: str, index: NamespaceIndex | None) -> PreparedQuery:
        """What is like a memory has its vectors' mean direction and its rarest words; neither names nor times."""
        namespace = search.retrieval.namespace
        found = self._projection.catalog.find(namespace, key)
        windows = None if found is None or index is None else index.dense.vectors(found[0])
        if found is None or index is None or windows is None or not len(windows):
            raise NotFound(f"There is no memory with key {key!r} in namespace {namespace!r} to be like.", field="like")
        id, memory = found
        terms = sorted(frequencies(memory.content, None), key=index.texts.lexical.frequency)[:LIKE_TERMS_MAX]
        question = replace(_NO_QUESTION, terms=tuple(terms))
        direction = mean_direction(windows)
        return replace(search, question=question, vector=lambda: direction, itself=id)

    def _retrieved(self, search: PreparedQuery, found: SearchResult) -> Retrieved:
        retrieval = search.retrieval
        hits = found.hits(found.chosen)
        places, tokens = list(range(len(hits))), None
        if retrieval.max_tokens is not None:
            places, tokens = _fitting(hits, retrieval.max_tokens)
        explanation = None
        if retrieval.explain or retrieval.why_not is not None:
            returned = [found.chosen[at] for at in places]
            explanation = explaining.explain(self._projection, search, found, returned)
        return Retrieved(
            hits=tuple(hits[at] for at in places),
            mode=retrieval.ranked_by,
            nearest=tuple(found.hits(found.nearest)),
            truncated=len(places) < len(hits),
            tokens=tokens,
            explanation=explanation,
        )


_NO_QUESTION = AnalyzedQuery(meaning="", terms=(), speakers=frozenset(), is_about_when=False)


def _fitting(hits: Sequence[Hit], max_tokens: int) -> tuple[list[int], int]:
    """The places of the hits that fit, each as long as there is room for it, and how many tokens these have."""
    places, used = [], 0
    for at, hit in enumerate(hits):
        least = len(hit.memory.content) // CHARS_PER_TOKEN_MAX
        if used + least > max_tokens:  # counting a long text takes a while
            continue
        cost = estimate_tokens(hit.memory.content)
        if used + cost <= max_tokens:
            places.append(at)
            used += cost
    return places, used
