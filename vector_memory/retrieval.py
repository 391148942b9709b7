"""Retrieval: the request and the answer of retrieve, with its explanation."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer

from vector_memory.errors import InvalidInput
from vector_memory.fields import BoundedText, Items, Number, Request, Value, WholeNumber, is_none
from vector_memory.memories import (
    DEFAULT_NAMESPACE,
    KEY,
    AsOf,
    Consistency,
    ConsistencyWord,
    Filter,
    Memory,
    Namespace,
    either,
)
from vector_memory.times import time_ms

QUERY = BoundedText(10_000, "ask for less at once", blank="say what to look for")
K = WholeNumber(1, 1_000)
HALF_LIFE_DAYS = Number(0.01, 36_500)
SHARE = Number(0, 1)
COSINE = Number(-1, 1)
PER_SESSION = WholeNumber(1, 1_000)
MAX_TOKENS = WholeNumber(1, 1_000_000)
RETRIEVALS = Items(100)
"""Bounds of a batch of retrievals. Embedding 100 queries takes half a second on two cores."""


class Mode(StrEnum):
    """What retrieve ranks by: meaning, words, or both together with a memory's surroundings."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Retrieval(Request):
    """What to look for: a `query`, or what is `like` a memory."""

    query: Annotated[str, QUERY] | None = Field(
        default=None, description="What to look for, in words.", examples=["what does Dana drink?"]
    )
    like: Annotated[str, KEY] | None = Field(
        default=None, description="Instead of a query: find what is like the memory with this key."
    )
    k: Annotated[int, K] = Field(default=5, description="Memories to return; all that match if they are fewer.")
    namespace: Namespace = DEFAULT_NAMESPACE
    filter: Filter | None = None
    after: str | None = Field(
        default=None,
        description="Only what happened then or later (ISO 8601): by `event_time`, otherwise by when it was stored.",
        examples=["2026-09-01"],
    )
    before: str | None = Field(default=None, description="Only what happened earlier than then (ISO 8601).")
    mode: Annotated[Mode, Field(strict=False)] | None = Field(
        default=None,
        description="Rank by meaning, by words, or by both and a memory's surroundings. Default: hybrid; dense with "
        "`like` and `as_of`.",
    )
    recency_half_life_days: Annotated[float, HALF_LIFE_DAYS] | None = Field(
        default=None, description="A score falls by half for each such span of age."
    )
    importance_weight: Annotated[float, SHARE] = Field(
        default=0.0, description="Share of the metadata `importance` (0 to 1) that is added to a score."
    )
    diversity: Annotated[float, SHARE] = Field(
        default=0.0,
        description="How strongly a hit that resembles better hits is ranked down (maximal marginal relevance).",
    )
    per_session: Annotated[int, PER_SESSION] | None = Field(
        default=None, description="Most memories of one session; memories without session and time are not limited."
    )
    min_score: Annotated[float, COSINE] | None = Field(
        default=None, description="Leave out memories with a lower score."
    )
    min_relevance: Annotated[float, SHARE] | None = Field(
        default=None,
        description="Leave out memories that are less likely to answer the query. If none is left, `abstained` is true "
        "and `nearest` shows the closest ones. In hybrid mode.",
    )
    max_tokens: Annotated[int, MAX_TOKENS] | None = Field(
        default=None,
        description="Return as many whole memories as fit, by an estimate that errs on the high side; `truncated` "
        "tells whether some did not.",
    )
    as_of: AsOf | None = None
    consistency: ConsistencyWord = Consistency.EVENTUAL
    explain: bool = Field(default=False, description="Also report how the answer came about.")
    why_not: Annotated[str, KEY] | None = Field(
        default=None, description="Also report why the memory with this key did not come back."
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Check the fields against each other."""
        either(self.query, self.like, ("query", "like"))
        after_ms, before_ms = self.span_ms
        if after_ms is not None and before_ms is not None and after_ms >= before_ms:
            raise InvalidInput("before must be later than after; no memory is in between.", field="before")
        if self.as_of is not None:
            self._check_looking_back()
        if self.min_relevance is not None and self.ranked_by is not Mode.HYBRID:
            raise InvalidInput("min_relevance works in hybrid mode only; leave it out here.", field="min_relevance")

    def _check_looking_back(self) -> None:
        # Words, sessions and times are indexed only for the present, so the past is searched by meaning alone.
        if self.mode not in (None, Mode.DENSE):
            raise InvalidInput(
                f"mode {self.mode} cannot be used with as_of; leave it out, or send dense.", field="mode"
            )
        fields = ("like", "after", "before", "recency_half_life_days", "per_session", "why_not")
        for field in (*fields, "importance_weight", "diversity", "explain"):
            if getattr(self, field) not in (None, 0, False):
                raise InvalidInput(f"{field} cannot be used with as_of; leave one of them out.", field=field)

    @property
    def ranked_by(self) -> Mode:
        """The mode, or its default."""
        if self.mode is not None:
            return self.mode
        return Mode.HYBRID if self.like is None and self.as_of is None else Mode.DENSE

    @property
    def is_selective(self) -> bool:
        """Whether hits depend on each other, so that more candidates than k must be ranked."""
        return self.diversity > 0 or self.per_session is not None

    @property
    def span_ms(self) -> tuple[int | None, int | None]:
        """`after` and `before` in milliseconds since the Unix epoch.

        Raises:
            InvalidInput: one of them is not a time.
        """
        after_ms = None if self.after is None else time_ms(self.after, "after")
        return after_ms, None if self.before is None else time_ms(self.before, "before")


def _each_read(queries: Any) -> Any:
    if not isinstance(queries, list | tuple):
        return queries
    read = []
    for position, query in enumerate(queries):
        try:
            read.append(query if isinstance(query, Retrieval) else Retrieval.read(query))
        except InvalidInput as error:
            field = f"queries[{position}]" if error.field is None else f"queries[{position}].{error.field}"
            raise InvalidInput(error.message, field=field) from error
    return read


class RetrievalBatch(Request):
    """Several things to look for, whose queries are embedded together."""

    queries: Annotated[list[Retrieval], RETRIEVALS, BeforeValidator(_each_read)]


class Scores(Value):
    """The signals of a hit; a signal that was not used is absent."""

    dense: float | None = Field(default=None, exclude_if=is_none, description="Cosine of its best window.")
    lexical: float | None = Field(
        default=None, exclude_if=is_none, description="Share of the query's words that it has, weighted by rarity."
    )


Relevance = Annotated[float, PlainSerializer(lambda value: round(value, 4), return_type=float)]


class Hit(Memory):
    """A memory that retrieve found."""

    score: float = Field(
        description="What it is ranked by, higher is better: a cosine in dense mode, the weighted share of the query's "
        "words in lexical mode, a combination of both in hybrid mode."
    )
    scores: Scores = Scores()
    relevance: Relevance | None = Field(
        default=None, exclude_if=is_none, description="How likely it answers the query, 0 to 1, in hybrid mode."
    )

    @classmethod
    def of(
        cls,
        memory: Memory,
        score: float,
        dense: float | None = None,
        lexical: float | None = None,
        relevance: float | None = None,
    ) -> Self:
        """Build the hit of a memory from its score and its signals."""
        return cls(**dict(memory), score=score, scores=Scores(dense=dense, lexical=lexical), relevance=relevance)

    @property
    def dense(self) -> float | None:
        """The cosine of its best window, if meaning was used."""
        return self.scores.dense

    @property
    def lexical(self) -> float | None:
        """The share of the query's words that it has, weighted by their rarity, if words were used."""
        return self.scores.lexical


class Condition(Value):
    """A part of a filter and how many memories of the namespace match it."""

    shown: str = Field(alias="condition", description="The condition, or the operator that joins the parts.")
    matches: int
    parts: "tuple[Condition, ...]" = Field(default=(), exclude_if=lambda parts: not parts)


class WhyNot(Value):
    """Why a memory did not come back."""

    key: str
    reason: str = Field(
        description="`missing`, `filter`, `time`, `rank`, `per_session`, `diversity`, `min_score`, `min_relevance`, "
        "`max_tokens`, `is_itself` or `came_back`."
    )
    message: str = Field(description="The reason in a sentence.")
    rank: int | None = Field(
        default=None, description="Its place among all candidates, from 1, before any was left out; null: not one."
    )
    signals: dict[str, float] | None = Field(default=None, description="Its signals, if it was a candidate.")


class Explanation(Value):
    """How an answer came about."""

    meaning: str | None = Field(description="The text that was embedded; null if none was.")
    terms: tuple[str, ...] = Field(description="The stems that were looked for.")
    speakers: tuple[str, ...] = Field(description="The speakers whom the query names.")
    is_about_when: bool = Field(description="Whether the query asks for a time.")
    coherence: float = Field(description="How much neighbours count where no session was given, 0 to 1.")
    memories: int = Field(description="Memories in the namespace.")
    candidates: int = Field(description="Memories that matched filter and time.")
    filter: Condition | None = Field(description="The parts of the filter; null without one.")
    signals: tuple[dict[str, Any], ...] = Field(
        description="For each hit its `key` and the signals that its score is made of."
    )
    why_not: WhyNot | None = None


class Retrieved(Value):
    """What retrieve found."""

    hits: tuple[Hit, ...] = Field(
        alias="memories",
        description="Best first: min(k, candidates) of them, fewer where `min_score`, `min_relevance`, `per_session` "
        "or `max_tokens` leave some out.",
    )
    mode: Mode = Field(description="What they are ranked by.")
    abstained: bool | None = Field(
        default=None, exclude_if=is_none, description="With `min_relevance`: whether no memory was relevant enough."
    )
    nearest: tuple[Hit, ...] | None = Field(
        default=None, exclude_if=is_none, description="With `min_relevance`: the closest ones when none was left."
    )
    tokens: int | None = Field(
        default=None, exclude_if=is_none, description="With `max_tokens`: an estimate of the tokens of all contents."
    )
    truncated: bool | None = Field(
        default=None, exclude_if=is_none, description="With `max_tokens`: whether hits were left out for lack of room."
    )
    explanation: Explanation | None = Field(default=None, exclude_if=is_none, description="With `explain`.")
    cached: bool | None = Field(default=None, exclude_if=is_none, description="Whether the response cache answered.")
    latency_ms: float | None = Field(default=None, exclude_if=is_none)


class RetrievedBatch(Value):
    """What each query of a batch found, in the order of the request."""

    results: tuple[Retrieved, ...]
    latency_ms: float | None = Field(default=None, exclude_if=is_none)
