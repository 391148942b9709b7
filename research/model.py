"""The values of research: what is asked, and what is answered.

Times are ISO 8601 in UTC with milliseconds and a closing Z.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from memory_service import checks
from memory_service.errors import InvalidInput
from memory_service.model import DEFAULT_NAMESPACE, JSON, Metadata

QUERY_CHARS_MAX = 5_000
K_MAX = 50
DEFAULT_K = 8
MAX_TOKENS_MIN = 100
MAX_TOKENS_MAX = 4_000
TEMPERATURE_MAX = 2.0


Verdict = Literal["supported", "weak", "unsupported"]


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

    def __post_init__(self) -> None:
        checks.query(self.query, QUERY_CHARS_MAX)
        checks.namespace(self.namespace)
        checks.whole_number(self.k, "k", 1, K_MAX)
        checks.min_score(self.min_score)
        checks.whole_number(self.max_tokens, "max_tokens", MAX_TOKENS_MIN, MAX_TOKENS_MAX)
        checks.number(self.temperature, "temperature", 0, TEMPERATURE_MAX)
        if not isinstance(self.context_only, bool):
            raise InvalidInput("context_only must be true or false.", field="context_only")
        if not isinstance(self.strict, bool):
            raise InvalidInput("strict must be true or false.", field="strict")


@dataclass(frozen=True, slots=True)
class Passage:
    """A memory as it stands in the prompt.

    Attributes:
        n: its number in the prompt, from 1, the one that a citation names.
        content: the memory's text, or the beginning of it when `truncated`.
        score: cosine in [-1, 1], higher is better.
        date: when it happened, as the memory's `event_time` says; else when it was stored.
        truncated: the text did not fit and was cut at a sentence or a word.
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
        omitted: memories that were retrieved and did not fit into the model's window.
        abstained: no memory matched, so nothing was asked of the LLM.
        truncated: the answer stopped at `max_tokens`.
        prompt: the messages ready for an LLM; only with `context_only`.
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
    omitted: int
    abstained: bool
    truncated: bool
    prompt: tuple[ChatMessage, ...] | None
