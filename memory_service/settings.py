"""The operator's settings of memories. `gateway/settings.py` reads them from the environment once."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class MemorySettings(BaseModel):
    """Where memories are kept and how they are embedded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(default=Path("data"), description="Folder of the memories; on RunPod /runpod-volume/memory.")
    ephemeral: bool = Field(
        default=False, description="Keep memories in a temporary folder that is removed at the end (for tests)."
    )
    cache_dir: Path | None = Field(
        default=None, description="Local folder for what can be rebuilt; default: the system's temporary folder."
    )
    embedder: str = Field(
        default="minilm",
        pattern=r"^(minilm|sentence-transformers:.+)$",
        description="minilm, or sentence-transformers:NAME with the optional extra (a model's name or folder).",
    )
    embedding_precision: Literal["fp32", "int8"] = Field(
        default="fp32",
        description="Of minilm: fp32, or int8 for more speed at a small loss; a data folder keeps the one it was made "
        "with.",
    )
    follow_interval_ms: int = Field(
        default=200,
        ge=0,
        le=60_000,
        description="How long a call may rely on what was last seen of other workers' writes.",
    )
    snapshot_records: int = Field(
        default=10_000,
        ge=100,
        description="Records after which a snapshot is taken, so that a start replays fewer; at least a tenth of all.",
    )
    snapshot_interval_s: float = Field(
        default=900.0,
        ge=1,
        description="Seconds after which a snapshot is taken for a quarter of those records; for fewer, after a day.",
    )
    versions_kept_days: float = Field(
        default=7.0,
        ge=0,
        le=3_650,
        description="How long a version that an update superseded can be looked back at; 0 keeps none.",
    )
    skip_damaged: bool = Field(
        default=False,
        description="Pass over damaged parts of journals at the start and go on with what is readable behind them; "
        "without it such a start is read-only.",
    )
    index_budget_mb: float = Field(
        default=1_024.0,
        ge=0,
        description="Megabytes of indexes in RAM; beyond, namespaces not used for long wait in MEMORY_CACHE_DIR. "
        "0: no limit.",
    )
    embedding_threads: int = Field(default=2, ge=1, le=64, description="Processor threads of one embedding run.")

    @field_validator("embedding_precision")
    @classmethod
    def _only_of_minilm(cls, precision: str, info: ValidationInfo) -> str:
        if precision != "fp32" and str(info.data.get("embedder", "minilm")) != "minilm":
            message = "int8 is for MEMORY_EMBEDDER=minilm; another model runs as it is stored, so leave this out"
            raise PydanticCustomError("precision", message)
        return precision
