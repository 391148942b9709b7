"""The values of research: what is asked, and what is answered.

Times are ISO 8601 in UTC with milliseconds and a closing Z.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, get_args

from memory_service import checks
from memory_service.model import DEFAULT_NAMESPACE, JSON, Metadata
from vector_memory.errors import Code, InvalidInput

QUERY_CHARS_MAX = 5_000
K_MAX = 50
DEFAULT_K = 8
MAX_TOKENS_MIN = 100
MAX_TOKENS_MAX = 4_000
TEMPERATURE_MAX = 2.0
CONTEXT_TOKENS_MIN = 1_024
CONTEXT_TOKENS_MAX = 1_048_576
TIMEOUT_S_MIN = 1.0

TIMEOUT_S_MAX = 300.0
"""Below what RunPod lets a request run: 5.5 minutes behind a load balancer, 10 as a job."""


Verdict = Literal["supported", "weak", "unsupported"]

Provenance = Literal["user", "agent", "tool", "document", "model"]
PROVENANCES: Final[tuple[Provenance, ...]] = get_args(Provenance)
"""Where a memory may come from, as its metadata `provenance` says; any other value there counts as none."""


NotRemembered = Literal["context_only", "abstained", "degraded", "quoted", "truncated", "unsupported", "not stored"]
"""Why an answer was not made a memory: `quoted` when no LLM wrote it, `not stored` when the memories took no writes."""


class ChatMessage(TypedDict):
    """One message of a prompt, as every OpenAI-compatible server takes it."""

    role: Literal["system", "user"]
    content: str


@dataclass(frozen=True, slots=True)
class ResearchRequest:
    """A question to the memories of one namespace. Making one checks it.

    Attributes:
        query: the question, 1 to 5,000 characters.
        k: memories to retrieve, 1 to 50.
        filter: restricts the memories, in the grammar of retrieve.
        min_score: leaves out memories with a lower score, -1 to 1.
        max_tokens: tokens the answer may have, 100 to 4,000.
        temperature: 0 to 2.
        context_only: prepare passages and prompt, and call no LLM.
        strict: leave out of the answer what no passage supports.
        min_relevance: abstain when no memory is at least so likely to answer the question, 0 to 1; None takes the
            setting.
        context_tokens: tokens that prompt and answer may have together, 1,024 to 1,048,576 and at most the model's
            window; None takes the whole window.
        passages: passages that the prompt may hold, 1 to 50; None takes as many as fit.
        timeout_s: seconds for everything, 1 to 300; None takes the setting.
        on_llm_error: `context` answers with the passages alone when the LLM fails.
        remember: store the answer as a memory, if the memories support it.
        include_model: let memories that a language model wrote (`provenance` is `model`) be passages too.
        trace: keep for some time how the answer came about.

    Raises:
        InvalidInput: a value is of the wrong type or out of bounds.
    """

    query: str
    namespace: str = DEFAULT_NAMESPACE
    k: int = DEFAULT_K
    filter: Mapping[str, JSON] | None = None
    min_score: float | None = None
    max_tokens: int = 2_000
    temperature: float = 0.7
    context_only: bool = False
    strict: bool = False
    min_relevance: float | None = None
    context_tokens: int | None = None
    passages: int | None = None
    timeout_s: float | None = None
    on_llm_error: Literal["fail", "context"] = "fail"
    remember: bool = False
    include_model: bool = False
    trace: bool = False

    def __post_init__(self) -> None:
        checks.query(self.query, QUERY_CHARS_MAX)
        checks.namespace(self.namespace)
        checks.whole_number(self.k, "k", 1, K_MAX)
        checks.min_score(self.min_score)
        checks.whole_number(self.max_tokens, "max_tokens", MAX_TOKENS_MIN, MAX_TOKENS_MAX)
        checks.number(self.temperature, "temperature", 0, TEMPERATURE_MAX)
        for field in ("context_only", "strict", "remember", "include_model", "trace"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidInput(f"{field} must be true or false.", field=field)
        if self.min_relevance is not None:
            checks.number(self.min_relevance, "min_relevance", 0, 1)
        if self.context_tokens is not None:
            checks.whole_number(self.context_tokens, "context_tokens", CONTEXT_TOKENS_MIN, CONTEXT_TOKENS_MAX)
        if self.passages is not None:
            checks.whole_number(self.passages, "passages", 1, K_MAX)
        if self.timeout_s is not None:
            checks.number(self.timeout_s, "timeout_s", TIMEOUT_S_MIN, TIMEOUT_S_MAX)
        if self.on_llm_error not in ("fail", "context"):
            raise InvalidInput("on_llm_error must be fail or context.", field="on_llm_error")


@dataclass(frozen=True, slots=True)
class Passage:
    """A memory as it stands in the prompt.

    Attributes:
        n: its number in the prompt, from 1, the one that a citation names.
        content: the memory's text, or the beginning of it when `truncated`.
        score: cosine in [-1, 1], higher is better.
        date: when it happened, as the memory's `event_time` says; else when it was stored.
        truncated: the text did not fit and was cut at a sentence or a word.
        speaker: the memory's `speaker`, if that is a text of up to 80 characters.
        provenance: the memory's `provenance`, if it is one of the known ones.
    """

    n: int
    key: str
    namespace: str
    content: str
    metadata: Metadata
    score: float
    date: str
    created_at: str
    truncated: bool
    speaker: str | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class Omitted:
    """A memory that was retrieved and is not among the passages.

    Attributes:
        reason: `no room` in the window, `passages` when the request wanted no more of them, or `duplicate`: it says
            nearly what another passage says, and for both there was no room.
    """

    key: str
    reason: Literal["no room", "passages", "duplicate"]


@dataclass(frozen=True, slots=True)
class Miss:
    """A memory that came close to answering a question, and not close enough.

    Attributes:
        relevance: 0 to 1, how likely it answers.
    """

    key: str
    namespace: str
    content: str
    score: float
    relevance: float | None


@dataclass(frozen=True, slots=True)
class LLMFailure:
    """Why an answer has passages only."""

    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of the answer that points to a passage with [n], and whether the passage says so.

    Attributes:
        verdict: `supported`; `weak` when it says something like it or a part of it; `unsupported`.
        answer_span: characters [start, end) of the answer: the sentence with its marks.
        memory_span: characters [start, end) of the memory's content that come nearest; None when unsupported.
        quote: what stands there.
    """

    n: int
    key: str
    namespace: str
    score: float
    date: str
    created_at: str
    verdict: Verdict
    answer_span: tuple[int, int]
    memory_span: tuple[int, int] | None
    quote: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What research found.

    Attributes:
        result: the answer's text with its [n] marks; empty with `context_only`.
        model: the model as its endpoint names it, `extractive` for quotations, None when nothing was generated.
        tokens_used: prompt and answer as the endpoint counted them; 0 when no LLM was called or none were reported.
        citations: what the answer cites, in its order; a passage as often as sentences cite it.
        unknown_citations: numbers that the answer cited and no passage has; their marks are taken out of the text.
        uncited: characters [start, end) of each sentence that states something and cites nothing.
        removed: what `strict` left out, as it stood there.
        context: the passages that the answer was made from, best first.
        omitted: memories that were retrieved and are not among them, at most 50, in the order of retrieval.
        abstained: no memory matched, or none was relevant enough, so nothing was asked of the LLM.
        nearest: in the latter case, what came closest.
        truncated: the answer stopped at `max_tokens`, or before it at the end of the model's window.
        prompt: the messages ready for an LLM; only with `context_only`.
        endpoint: the one that answered: `primary`, `fallback 1` ...; None when no LLM did.
        prompt_tokens: of `tokens_used`, those of the prompt.
        completion_tokens: of `tokens_used`, those of the answer.
        tokens_counted: by whom the prompt was measured before it was sent.
        cost: of this answer by the configured prices; None without them, or when no tokens were reported.
        degraded: the LLM failed, so there are passages and no text.
        llm_error: how it failed.
        remembered: the key of the memory that `remember` made of the answer.
        not_remembered: why it made none.
        trace_id: by which `trace` can be looked up; None without it, or when it could not be kept.
    """

    result: str
    model: str | None
    tokens_used: int
    latency_ms: int
    timestamp: str
    citations: tuple[Citation, ...]
    unknown_citations: tuple[int, ...]
    uncited: tuple[tuple[int, int], ...]
    removed: tuple[str, ...]
    context: tuple[Passage, ...]
    omitted: tuple[Omitted, ...]
    abstained: bool
    nearest: tuple[Miss, ...]
    truncated: bool
    prompt: tuple[ChatMessage, ...] | None
    endpoint: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_counted: Literal["server", "estimate"] = "estimate"
    cost: float | None = None
    degraded: bool = False
    llm_error: LLMFailure | None = None
    remembered: str | None = None
    not_remembered: NotRemembered | None = None
    trace_id: str | None = None
