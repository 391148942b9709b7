"""The retriever turns a retrieval into hits and their explanation.

    queries = [retriever.prepare(retrieval) for retrieval in retrievals]
    answers = [retriever.retrieve(query) for query in retriever.embed(queries)]

It stands above the embedding queue and `searching.py`. It is thread-safe and changes nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from memory_service import checks
from memory_service.clock import HybridClock
from memory_service.embedding.queue import EmbeddingQueue, mean_direction
from memory_service.filters.grammar import parse
from memory_service.namespaces.index import NamespaceIndex
from memory_service.namespaces.words import frequencies
from memory_service.projection.applying import Projection
from memory_service.retrieval import explaining
from memory_service.retrieval.analyzing import AnalyzedQuery, analyze_query
from memory_service.retrieval.ranking import Boosts
from memory_service.retrieval.searching import PreparedQuery, SearchResult, search
from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from vector_memory.errors import NotFound
from vector_memory.retrieval import Hit, Mode, Retrieval, Retrieved

LIKE_TERMS_MAX = 32
"""Words looked for when hits are to be like a memory: its rarest ones. Further words are common ones and cost time."""


class Retriever:
    """Finds the memories that answer a retrieval."""

    def __init__(self, projection: Projection, embedding: EmbeddingQueue, clock: HybridClock) -> None:
        self._projection = projection
        self._embedding = embedding
        self._clock = clock

    def prepare(self, retrieval: Retrieval) -> PreparedQuery:
        """Parse the filter and analyze the query for its namespace; nothing is embedded yet.

        Raises:
            InvalidInput: the filter is not valid, or `as_of` is out of bounds.
            NotFound: there is no memory with the key of `like`.
        """
        wanted = parse(retrieval.filter)
        now_ms = self._clock.now_ms()
        as_of_ms = checks.as_of(retrieval.as_of, now_ms, self._projection.superseded_kept_ms)
        half_life = retrieval.recency_half_life_days
        boosts = Boosts(now_ms, None if half_life is None else half_life * checks.DAY_MS, retrieval.importance_weight)
        index = self._projection.index(retrieval.namespace)
        analyzed = _NO_QUERY if retrieval.query is None else analyze_query(retrieval.query, index)
        query = PreparedQuery(retrieval=retrieval, wanted=wanted, query=analyzed, as_of_ms=as_of_ms, boosts=boosts)
        return self._with_memory(query, index) if retrieval.query is None else query

    def embed(self, queries: Sequence[PreparedQuery]) -> list[PreparedQuery]:
        """Start embedding the queries that need a vector. They share the model's runs.

        Raises:
            Unavailable: too many texts wait for the model.
        """
        needs_vector = [it.vector is None and it.retrieval.ranked_by is not Mode.LEXICAL for it in queries]
        meanings = [it.query.meaning for it, needed in zip(queries, needs_vector, strict=True) if needed]
        vectors = iter(self._embedding.start(meanings))
        return [
            replace(it, vector=next(vectors)) if needed else it
            for it, needed in zip(queries, needs_vector, strict=True)
        ]

    def retrieve(self, query: PreparedQuery) -> Retrieved:
        """Search and read the memories. If a writer comes in between, search again with the writers locked out."""
        result, is_complete = search(self._projection, query)
        if not is_complete:
            # No writer can come in between now, so the second result is complete.
            with self._projection.publish_lock:
                result, _ = search(self._projection, query)
        return self._answer(query, result)

    def _with_memory(self, query: PreparedQuery, index: NamespaceIndex | None) -> PreparedQuery:
        """Return a query by a memory instead of a text: the mean direction of its vectors, and its rarest words."""
        namespace, key = query.retrieval.namespace, query.retrieval.like
        assert key is not None, "a retrieval has a query or is like a memory"
        pair = self._projection.catalog.find(namespace, key)
        windows = None if pair is None or index is None else index.dense.vectors(pair[0])
        if pair is None or index is None or windows is None or not len(windows):
            raise NotFound(f"There is no memory with key {key!r} in namespace {namespace!r} to be like.", field="like")
        id, memory = pair
        # The rarest words first; `frequency` counts the memories that have a word.
        terms = sorted(frequencies(memory.content, None), key=index.texts.lexical.frequency)[:LIKE_TERMS_MAX]
        direction = mean_direction(windows)
        by_words = replace(_NO_QUERY, terms=tuple(terms))
        return replace(query, query=by_words, vector=lambda: direction, like_id=id)

    def _answer(self, query: PreparedQuery, result: SearchResult) -> Retrieved:
        retrieval = query.retrieval
        hits = result.hits(result.chosen)
        positions, tokens = list(range(len(hits))), None
        if retrieval.max_tokens is not None:
            positions, tokens = _fit(hits, retrieval.max_tokens)
        explanation = None
        if retrieval.explain or retrieval.why_not is not None:
            returned = [result.chosen[at] for at in positions]
            explanation = explaining.explain(self._projection, query, result, returned)
        return Retrieved(
            hits=tuple(hits[at] for at in positions),
            mode=retrieval.ranked_by,
            abstained=None if retrieval.min_relevance is None else not positions,
            nearest=None if retrieval.min_relevance is None else tuple(result.hits(result.nearest)),
            truncated=None if retrieval.max_tokens is None else len(positions) < len(hits),
            tokens=tokens,
            explanation=explanation,
        )


_NO_QUERY = AnalyzedQuery(meaning="", terms=())


def _fit(hits: Sequence[Hit], max_tokens: int) -> tuple[list[int], int]:
    """Return the positions of the hits that fit, taken in their order, and the sum of their tokens."""
    positions, used = [], 0
    for position, hit in enumerate(hits):
        # Estimating a long text takes a while, so a text that is too long by any count is left out first.
        tokens_min = len(hit.memory.content) // CHARS_PER_TOKEN_MAX
        if used + tokens_min > max_tokens:
            continue
        tokens = estimate_tokens(hit.memory.content)
        if used + tokens <= max_tokens:
            positions.append(position)
            used += tokens
    return positions, used
