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

    def __post_init__(self) -> None:
        checks.query(self.query, QUERY_CHARS_MAX)
        checks.namespace(self.namespace)
        checks.whole_number(self.k, "k", 1, K_MAX)
        checks.min_score(self.min_score)
        checks.whole_number(self.max_tokens, "max_tokens", MAX_TOKENS_MIN, MAX_TOKENS_MAX)
        checks.number(self.temperature, "temperature", 0, TEMPERATURE_MAX)
        if not isinstance(self.context_only, bool):
            raise InvalidInput("context_only must be true or false.", field="context_only")


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
    """A passage that the answer points to with [n]."""

    n: int
    key: str
    namespace: str
    score: float
    date: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What research found.

    Attributes:
        result: the answer's text with its [n] marks; empty with `context_only`.
        model: the model as its endpoint names it, `extractive` for quotations, None when nothing was generated.
        tokens_used: prompt and answer as the endpoint counted them; 0 when no LLM was called or none were reported.
        citations: the passages that the answer cites, in order of first appearance.
        unknown_citations: numbers that the answer cites and no passage has; their marks stay in the text.
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
    context: tuple[Passage, ...]
    omitted: int
    abstained: bool
    truncated: bool
    prompt: tuple[ChatMessage, ...] | None
