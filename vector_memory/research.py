"""Research: a question, its answer with verified citations, the steps of a streamed answer, traces and replays."""

from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

from pydantic import Field
from typing_extensions import TypedDict

from vector_memory.errors import Code
from vector_memory.fields import BoundedText, Number, Request, Value, WholeNumber, is_none
from vector_memory.memories import DEFAULT_NAMESPACE, ErrorBody, Filter, Namespace
from vector_memory.retrieval import COSINE, SHARE, Explanation, Hit, Mode, Relevance, Scores

QUERY = BoundedText(5_000, "ask for less at once", blank="say what to look for")
K = WholeNumber(1, 50)
DEFAULT_K = 8
MAX_TOKENS = WholeNumber(100, 4_000)
TEMPERATURE = Number(0, 2)
CONTEXT_TOKENS = WholeNumber(1_024, 1_048_576)
TIMEOUT_S = Number(1, 300)
"""Bounds of a timeout in seconds. RunPod ends a request to a load balancer after 330 s, and a job after 600 s."""

Verdict = Literal["supported", "weak", "unsupported"]
Provenance = Literal["user", "agent", "tool", "document", "model"]
PROVENANCES: Final[tuple[Provenance, ...]] = get_args(Provenance)
"""Values of the metadata `provenance`, which says where a memory comes from. Any other value counts as none."""

NotRemembered = Literal["context_only", "abstained", "degraded", "quoted", "truncated", "unsupported", "not stored"]
"""Why an answer did not become a memory: `quoted` if no LLM wrote it, `not stored` if the service took no writes."""

Span: TypeAlias = tuple[int, int]
"""A range of characters in a text, as [start, end)."""


class ChatMessage(TypedDict):
    """One message of a prompt, as every OpenAI-compatible server takes it."""

    role: Literal["system", "user"]
    content: str


class ResearchRequest(Request):
    """A question to the memories of one namespace."""

    query: Annotated[str, QUERY] = Field(description="The question.", examples=["Why did the deal with Acme stall?"])
    namespace: Namespace = DEFAULT_NAMESPACE
    k: Annotated[int, K] = Field(default=DEFAULT_K, description="Memories to retrieve.")
    filter: Filter | None = None
    min_score: Annotated[float, COSINE] | None = Field(
        default=None, description="Leave out memories with a lower score."
    )
    max_tokens: Annotated[int, MAX_TOKENS] = Field(default=2_000, description="Most tokens of the answer.")
    temperature: Annotated[float, TEMPERATURE] = Field(default=0.7, description="Sampling temperature of the LLM.")
    context_only: bool = Field(default=False, description="Return passages and the ready prompt; call no LLM.")
    strict: bool = Field(
        default=False, description="Leave out of the answer what no cited memory supports; `removed` lists it."
    )
    min_relevance: Annotated[float, SHARE] | None = Field(
        default=None,
        description="Abstain, with `nearest`, when no memory is at least this likely to answer; default: the "
        "operator's setting.",
    )
    context_tokens: Annotated[int, CONTEXT_TOKENS] | None = Field(
        default=None, description="Most tokens of prompt and answer together; default: the model's context window."
    )
    passages: Annotated[int, K] | None = Field(
        default=None, description="Most passages in the prompt; default: as many as fit."
    )
    timeout_s: Annotated[float, TIMEOUT_S] | None = Field(
        default=None, description="Seconds for the whole request; default: the operator's setting."
    )
    on_llm_error: Literal["fail", "context"] = Field(
        default="fail",
        description="`context`: when the LLM fails, answer with the passages, `degraded` and `llm_error`.",
    )
    remember: bool = Field(
        default=False, description="Store the answer as a memory if the memories support it; `remembered` is its key."
    )
    include_model: bool = Field(
        default=False, description="Also read memories that a language model wrote (`provenance` is `model`)."
    )
    trace: bool = Field(
        default=False, description="Keep for an hour how the answer came about, under the answer's `trace_id`."
    )
    stream: bool = Field(
        default=False,
        description="Answer with server-sent events: `context`, then `token` for each piece of text and `citation` for "
        "each verified citation, then `answer` or `error`.",
    )


class Passage(Value):
    """A memory as it stands in the prompt."""

    n: int = Field(description="Its number in the prompt, from 1; a citation names it.")
    key: str
    namespace: str
    content: str = Field(description="The memory's text, or the beginning of it when `truncated`.")
    metadata: dict[str, Any]
    score: float
    date: str = Field(description="When it happened, as `event_time` says, otherwise when it was stored.")
    created_at: str
    truncated: bool = Field(description="The text did not fit and was cut at a sentence or a word.")
    speaker: str | None = None
    provenance: Provenance | None = None


class Omitted(Value):
    """A memory that was retrieved and is not among the passages."""

    key: str
    reason: Literal["no room", "passages", "duplicate"] = Field(
        description="`no room` in the window, `passages` when the request wanted no more of them, or `duplicate` when "
        "it says nearly what another passage says and there was no room for both."
    )


class Miss(Value):
    """A memory that came close to answering a question, and not close enough."""

    key: str
    namespace: str
    content: str
    score: float
    relevance: float | None = Field(description="How likely it answers, 0 to 1.")


class LLMFailure(Value):
    """Why an answer has passages only."""

    code: Code
    message: str


class Citation(Value):
    """A sentence of the answer that cites a passage with [n], and whether the passage supports it."""

    n: int
    key: str
    namespace: str
    score: float
    date: str
    created_at: str
    verdict: Verdict = Field(
        description="`supported`; `weak` when the passage says something like it or a part of it; `unsupported`."
    )
    answer_span: Span = Field(description="Characters [start, end) of the answer: the sentence with its marks.")
    memory_span: Span | None = Field(
        description="Characters [start, end) of the memory's content that come nearest; null when unsupported."
    )
    quote: str | None = Field(description="The text of `memory_span`.")


class Answer(Value):
    """What research found."""

    result: str = Field(description="The answer with its [n] marks; empty with `context_only`.")
    model: str | None = Field(
        description="The model as its endpoint names it, `extractive` for quotations, null when nothing was generated."
    )
    tokens_used: int = Field(
        description="Tokens of prompt and answer as the endpoint counted them; 0 when no LLM was called."
    )
    latency_ms: int
    timestamp: str
    citations: tuple[Citation, ...] = Field(description="In the order of the answer.")
    unknown_citations: tuple[int, ...] = Field(
        description="Numbers that the answer cited and no passage has; their marks are taken out of the text."
    )
    uncited: tuple[Span, ...] = Field(description="Each sentence that states something and cites nothing.")
    removed: tuple[str, ...] = Field(description="What `strict` left out.")
    context: tuple[Passage, ...] = Field(description="The passages that the answer was made from, best first.")
    omitted: tuple[Omitted, ...] = Field(description="Memories that were retrieved and are no passages, at most 50.")
    abstained: bool = Field(description="No memory matched or none was relevant enough, so no LLM was asked.")
    nearest: tuple[Miss, ...] = Field(description="The closest memories, when none was relevant enough.")
    truncated: bool = Field(description="The answer stopped at `max_tokens` or at the end of the model's window.")
    prompt: tuple[ChatMessage, ...] | None = Field(
        default=None, exclude_if=is_none, description="The messages ready for an LLM; only with `context_only`."
    )
    endpoint: str | None = Field(
        default=None, description="The endpoint that answered: `primary`, `fallback 1` ...; null when no LLM did."
    )
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_counted: Literal["server", "estimate"] = Field(
        default="estimate", description="Who measured the prompt before it was sent."
    )
    cost: float | None = Field(
        default=None, description="By the configured prices; null without them or when no tokens were reported."
    )
    degraded: bool = Field(default=False, description="The LLM failed, so there are passages and no text.")
    llm_error: LLMFailure | None = None
    remembered: str | None = Field(default=None, description="Key of the memory that `remember` made of the answer.")
    not_remembered: NotRemembered | None = Field(default=None, description="Why `remember` made none.")
    trace_id: str | None = Field(default=None, description="Id of the trace, if it was asked for and kept.")
    cached: bool | None = Field(default=None, exclude_if=is_none, description="Whether the response cache answered.")


# -- steps of a streamed answer ----------------------------------------------------------------------------------------


class Context(Value):
    """The passages that the answer is going to be made from; the fields are those of `Answer`."""

    context: tuple[Passage, ...]
    omitted: tuple[Omitted, ...]
    tokens_counted: Literal["server", "estimate"]


class Token(Value):
    """The next piece of the answer's text, not empty.

    All pieces together are the text from which `Answer.result` is made. The result leaves out the marks of unknown
    passages. With `strict` it also leaves out unsupported sentences.
    """

    text: str


class Cited(Value):
    """A citation in a sentence that is complete; `answer_span` refers to the text as it was streamed."""

    citation: Citation


class Failed(Value):
    """The research failed: no answer follows, and what came before is not one."""

    error: ErrorBody


Step: TypeAlias = Context | Token | Cited | Answer | Failed
"""A step of a streamed research: Context once, then Token and Cited in any number, then Answer or Failed."""


def step_event(step: Step) -> tuple[str, dict[str, Any]]:
    """Return the name and the data of the server-sent event that carries a step."""
    match step:
        case Cited():
            return "citation", step.citation.body()
        case Context() | Token() | Answer() | Failed():
            return type(step).__name__.lower().replace("failed", "error"), step.body()


def read_step(name: str, data: Any) -> Step | None:
    """Return the step that a server-sent event carries, or None for an event that only a newer service sends."""
    match name:
        case "context":
            return Context.read(data)
        case "token":
            return Token.read(data)
        case "citation":
            return Cited(citation=Citation.read(data))
        case "answer":
            return Answer.read(data)
        case "error":
            return Failed.read(data)
    return None


# -- traces ------------------------------------------------------------------------------------------------------------

Fate = Literal["unchanged", "updated", "deleted", "expired"]
"""What happened to a memory since it was used."""


class GetTrace(Request):
    """Which trace to read."""

    trace_id: str = Field(description="`trace_id` of an answer to a question with `trace`.")
    namespace: Namespace = DEFAULT_NAMESPACE


class ReplayRequest(GetTrace):
    """Which trace's question to retrieve for again."""


class TracedHit(Value):
    """A memory that came for a question, without its text."""

    key: str
    score: float
    scores: Scores = Scores()
    relevance: Relevance | None = Field(default=None, exclude_if=is_none)
    now: Fate | None = Field(default=None, exclude_if=is_none, description="What became of it since.")

    @classmethod
    def of(cls, hit: Hit) -> Self:
        """Build the candidate of a hit."""
        return cls(key=hit.key, score=hit.score, scores=hit.scores, relevance=hit.relevance)


class TraceShown(Value):
    """How an answer came about, without any text of memories that are gone or changed since."""

    trace_id: str
    request: dict[str, Any] = Field(description="The question as it was asked.")
    asked_at: str
    mode: Mode
    candidates: tuple[TracedHit, ...]
    explanation: Explanation | None
    prompt: tuple[ChatMessage, ...] | None = Field(description="Null if a memory in it is gone or changed.")
    answer: dict[str, Any] = Field(description="The answer; `withheld` marks parts whose text is left out.")
    timings_ms: dict[str, float] = Field(description="Milliseconds of each step.")
    withheld: tuple[str, ...] = Field(description="Keys of memories that are gone or changed.")


class VanishedHit(Value):
    """A memory that came then and does not come now."""

    key: str
    reason: Literal["deleted", "updated", "expired", "outranked"] = Field(
        description="`outranked` when the memory itself is unchanged."
    )
    message: str = Field(description="The reason in a sentence.")
    rank: int | None = Field(default=None, description="Its place among today's candidates, from 1; null: not one.")


class NewHit(Value):
    """A memory that comes now and did not come then."""

    key: str
    reason: Literal["stored", "updated", "risen"] = Field(
        description="`stored` or `updated` since then, or `risen` when the memory itself is unchanged."
    )


class Replay(Value):
    """What came for a question then and what comes now, both best first."""

    trace_id: str
    mode: Mode
    then: tuple[str, ...] = Field(description="Keys that came then.")
    now: tuple[TracedHit, ...] = Field(description="What comes now.")
    kept: tuple[str, ...] = Field(description="Keys that come in both and say the same.")
    changed: tuple[str, ...] = Field(description="Keys that come in both and say something else now.")
    vanished: tuple[VanishedHit, ...]
    new: tuple[NewHit, ...]
