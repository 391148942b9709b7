"""The operator's operations and the tools: sizes, health, snapshots, compaction, and calls of tools by name."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from vector_memory.fields import Request, Value, is_none


class Nothing(Request):
    """A request without fields."""


def _by_name(sizes: Any) -> Any:
    if isinstance(sizes, Mapping):
        return sizes
    return {size["namespace"]: size["memories"] for size in sizes}


NamespaceSizes = Annotated[
    Mapping[str, int],
    BeforeValidator(_by_name),
    PlainSerializer(lambda sizes: [{"namespace": name, "memories": count} for name, count in sizes.items()]),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["namespace", "memories"],
                "properties": {"namespace": {"type": "string"}, "memories": {"type": "integer"}},
            },
        }
    ),
]
"""The number of memories by namespace. It is a mapping in Python and a list of objects in JSON."""


class EmbedderShown(Value):
    """The model that makes the vectors; vectors of equal revisions can be exchanged."""

    model: str
    revision: str = Field(description="sha256 of its weights, in hex.")
    dim: int = Field(description="Components of a vector.")
    pooling: str = Field(default="mean", description="How token vectors become one vector.")


class Stats(Value):
    """How many memories there are, in each namespace."""

    memories: int
    namespaces: NamespaceSizes
    embedder: EmbedderShown

    @property
    def revision(self) -> str:
        """The revision of the embedder's weights. Equal revisions make equal vectors."""
        return self.embedder.revision


class SnapshotTaken(Value):
    """A snapshot that was written."""

    snapshot: str = Field(description="Its name.")
    latency_ms: float | None = Field(default=None, exclude_if=is_none)


class KeptJournal(Value):
    """A journal that a compaction left, and why."""

    journal: str
    reason: str


class Compacted(Value):
    """What a compaction removed and what it left."""

    removed: tuple[str, ...] = Field(description="Journals that are gone.")
    removed_bytes: int
    kept: tuple[KeptJournal, ...] = Field(
        description="Journals that still hold bytes which a later compaction may remove."
    )


class HealthEmbedder(Value):
    """The model that makes the vectors."""

    model: str
    dim: int = 0


class Health(Value):
    """State and size of the service."""

    status: Literal["healthy", "degraded"] = Field(
        description="`degraded` when not everything that was written can be read."
    )
    problems: tuple[str, ...] = Field(description="Why it is degraded.")
    service: str = "vector-memory"
    version: str
    timestamp: str = ""
    memories: int
    namespaces: int
    embedder: HealthEmbedder
    vllm_configured: bool = Field(description="Whether an LLM endpoint is configured.")
    llm_fallback: str = "none"


class ToolCall(Request):
    """A tool to call."""

    name: str = Field(description="Name of the tool, such as retrieve_memory.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="As the tool's `input_schema` says.")


class ToolDescription(Value):
    """A tool that can be called."""

    name: str
    description: str
    input_schema: dict[str, Any] = Field(description="JSON Schema of its parameters.")
    hints: dict[str, bool] = Field(description="`read_only`, `destructive`, `idempotent`, `open_world`.")
    output_schema: dict[str, Any] | None = Field(
        default=None, exclude_if=is_none, description="JSON Schema of its result, where there is one."
    )


class ToolList(Value):
    """The tools that can be called."""

    tools: tuple[ToolDescription, ...]


class ToolsAnswer(Value):
    """The list of tools in the envelope that all answers about tools share."""

    success: Literal[True] = True
    result: ToolList
    latency_ms: float | None = None


class ToolAnswer(Value):
    """The result of a tool in the envelope that all answers about tools share."""

    success: Literal[True] = True
    result: dict[str, Any]
    latency_ms: float | None = None
