"""What a retrieve is asked and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from memory_service import checks
from memory_service.filters.grammar import parse, time_ms
from memory_service.model import DEFAULT_NAMESPACE, JSON, Consistency, Hit, Mode
from vector_memory.errors import InvalidInput

HALF_LIFE_DAYS_MIN, HALF_LIFE_DAYS_MAX = 0.01, 36_500.0
PER_SESSION_MAX = 1_000
MAX_TOKENS_MAX = 1_000_000

RETRIEVALS_MAX = 100
"""Of one batch: half a second of embedding on two cores."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What to look for. Making one checks it.

    Attributes:
        query: 1 to 10,000 characters. One longer than the model reads at once is embedded window by window, and the
            mean direction is searched.
        like: a key, instead of a query: what is like that memory, without the memory itself.
        namespace: in which.
        k: 1 to 1,000.
        filter: in the grammar of `filters.py`; None admits all.
        after: only what happened then or later (ISO 8601): by `event_time`, or else by when it was stored.
        before: only what happened earlier than then.
        mode: what to rank by. Default: hybrid; dense with `like`, and with `as_of`, since words are indexed of the
            present only.
        recency_half_life_days: a score falls by half for every so many days of age, .01 to 36,500.
        importance_weight: so much of the metadata `importance` (a number, taken as 0 to 1) is added to a score, 0 to 1.
        diversity: 0 to 1: how much a hit that resembles those before it stands back (maximal marginal relevance).
        per_session: of one session at most so many, 1 to 1,000; memories without session and time are not limited.
        min_score: leave out hits with a lower score, -1 to 1.
        min_relevance: leave out hits that are less likely to answer the query, 0 to 1; in hybrid mode.
        max_tokens: as many whole hits as fit, by an estimate that is rather too high (`tokens.py`), 1 to 1,000,000.
        as_of: look at the memories of that time (ISO 8601), within the days that versions are kept.
        consistency: what is seen of other workers' writes.
        explain: also tell how the answer came about.
        why_not: also tell why the memory with this key did not come back.

    Raises:
        InvalidInput: naming the field, the bound and the remedy.
    """

    query: str | None = None
    like: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    k: int = 5
    filter: Mapping[str, JSON] | None = None
    after: str | None = None
    before: str | None = None
    mode: Mode | None = None
    recency_half_life_days: float | None = None
    importance_weight: float = 0.0
    diversity: float = 0.0
    per_session: int | None = None
    min_score: float | None = None
    min_relevance: float | None = None
    max_tokens: int | None = None
    as_of: str | None = None
    consistency: Consistency = Consistency.EVENTUAL
    explain: bool = False
    why_not: str | None = None

    def __post_init__(self) -> None:
        checks.namespace(self.namespace)
        if (self.query is None) == (self.like is None):
            raise InvalidInput("Send either query or like, and not both.", field="query")
        if self.query is not None:
            checks.query(self.query)
        parse(self.filter)
        for field in ("like", "why_not"):
            if getattr(self, field) is not None:
                checks.key(getattr(self, field), field)
        checks.whole_number(self.k, "k", 1, checks.K_MAX)
        self._check_controls()
        if self.as_of is not None:
            self._check_looking_back()
        if self.min_relevance is not None and self.ranked_by is not Mode.HYBRID:
            raise InvalidInput("min_relevance is known in hybrid mode only; leave it out here.", field="min_relevance")

    def _check_controls(self) -> None:
        for field, least, most in (
            ("recency_half_life_days", HALF_LIFE_DAYS_MIN, HALF_LIFE_DAYS_MAX),
            ("importance_weight", 0, 1),
            ("diversity", 0, 1),
            ("min_score", -1, 1),
            ("min_relevance", 0, 1),
        ):
            if getattr(self, field) is not None:
                checks.number(getattr(self, field), field, least, most)
        for field, bound in (("per_session", PER_SESSION_MAX), ("max_tokens", MAX_TOKENS_MAX)):
            if getattr(self, field) is not None:
                checks.whole_number(getattr(self, field), field, 1, bound)
        after_ms, before_ms = self.span_ms
        if after_ms is not None and before_ms is not None and after_ms >= before_ms:
            raise InvalidInput("before must be later than after; no memory is in between.", field="before")

    def _check_looking_back(self) -> None:
        """Looking back is by meaning alone: words, sessions and times are indexed of the present only."""
        if self.mode not in (None, Mode.DENSE):
            raise InvalidInput(
                f"mode {self.mode} cannot be used with as_of; leave it out, or send dense.", field="mode"
            )
        for field in ("like", "after", "before", "recency_half_life_days", "per_session", "why_not"):
            if getattr(self, field) is not None:
                raise InvalidInput(f"{field} cannot be used with as_of; leave one of them out.", field=field)
        for field in ("importance_weight", "diversity", "explain"):
            if getattr(self, field):
                raise InvalidInput(f"{field} cannot be used with as_of; leave one of them out.", field=field)

    @property
    def ranked_by(self) -> Mode:
        """The mode, with its default."""
        if self.mode is not None:
            return self.mode
        return Mode.HYBRID if self.like is None and self.as_of is None else Mode.DENSE

    @property
    def is_selective(self) -> bool:
        """Whether hits depend on each other, and so more must be looked at than are returned."""
        return self.diversity > 0 or self.per_session is not None

    @property
    def span_ms(self) -> tuple[int | None, int | None]:
        """`after` and `before` in milliseconds since the Unix epoch.

        Raises:
            InvalidInput: one of them is no time.
        """
        after_ms = None if self.after is None else time_ms(self.after, "after")
        return after_ms, None if self.before is None else time_ms(self.before, "before")


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of a filter and how many memories of the namespace match it.

    Attributes:
        shown: the condition as in a filter; for a combination of parts the operator that joins them.
    """

    shown: str
    matches: int
    parts: "tuple[Condition, ...]" = ()


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a memory did not come back.

    Attributes:
        reason: a word for it: `missing`, `filter`, `time`, `rank`, `per_session`, `diversity`, `min_score`,
            `min_relevance`, `max_tokens`, `is_itself`, or `came_back`.
        message: the same in a sentence.
        rank: its place among all candidates, from 1, before anything was left out; None if it was no candidate.
        signals: what speaks for it; empty if it was no candidate.
    """

    key: str
    reason: str
    message: str
    rank: int | None = None
    signals: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about.

    Attributes:
        meaning: the text that was embedded; None if none was.
        terms: the stems that were looked for.
        speakers: those of whom the query asks.
        is_about_when: whether it asks for a time.
        coherence: 0 to 1, how far neighbours count where no session was given.
        memories: how many there are in the namespace.
        candidates: how many of them matched filter and time.
        filter: the parts of the filter; None without one.
        signals: of each hit, what its score is made of, by name.
        why_not: what was asked of one memory.
    """

    meaning: str | None
    terms: tuple[str, ...]
    speakers: tuple[str, ...]
    is_about_when: bool
    coherence: float
    memories: int
    candidates: int
    filter: Condition | None
    signals: tuple[Mapping[str, float], ...]
    why_not: WhyNot | None = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What was found.

    Attributes:
        hits: best first; min(k, candidates) of them, fewer where `min_score`, `min_relevance`, `per_session` or
            `max_tokens` leave some out.
        mode: what they were ranked by.
        nearest: where `min_relevance` left nothing, the best of what it left out.
        truncated: hits were left out for want of `max_tokens`.
        tokens: an estimate of the tokens of all contents, where `max_tokens` was given.
    """

    hits: tuple[Hit, ...]
    mode: Mode
    nearest: tuple[Hit, ...] = ()
    truncated: bool = False
    tokens: int | None = None
    explanation: Explanation | None = None

    @property
    def abstained(self) -> bool:
        """Whether there were hits, but none relevant enough."""
        return not self.hits and bool(self.nearest)
