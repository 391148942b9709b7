"""All settings: one frozen section for each package, read once, here and nowhere else.

A variable is named by the section's prefix and the field's name in capitals, or by the field's own `env`. Values come
from flags, then the environment, then a `.env` file in the working folder, then the defaults. The sections do not read
the environment themselves (as those of pydantic-settings do), so a test or a program can make one from values alone.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from vector_memory.errors import StartupError


class GatewaySettings(BaseModel):
    """How callers reach the worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on; 0 picks a free one.")
    service_mode: Literal["queue", "load_balancing"] = Field(
        default="queue",
        description="What handler.py runs on RunPod: jobs of a queue endpoint, or HTTP for a load-balancing one.",
    )
    runpod_port: int = Field(
        default=80,
        ge=1,
        le=65_535,
        description="Port of handler.py in load-balancing mode; RunPod's own variable.",
        json_schema_extra={"env": "PORT"},
    )
    run_as_uid: int | None = Field(
        default=None,
        ge=1,
        description="User id that handler.py goes on as when it is started as root; the image sets it.",
    )
    job_concurrency: int = Field(default=30, ge=1, le=300, description="RunPod jobs that run side by side.")
    job_streaming: bool = Field(
        default=False,
        description="Let research and OpenAI's chat stream as a queue endpoint; every job's output is then a list.",
    )
    request_bytes_max: int = Field(
        default=10_485_760, ge=1_024, le=104_857_600, description="Largest request body; RunPod's /run takes 10 MB."
    )
    cache_ttl_s: float = Field(
        default=300.0,
        ge=0,
        le=86_400,
        description="Seconds for which the same read of an unchanged namespace is answered from a cache; 0 keeps none.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis server that keeps the cache of several workers, such as redis://host:6379/0 (extra: redis).",
        json_schema_extra={"env": "REDIS_URL"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines to write."
    )


class McpSettings(BaseModel):
    """What MCP clients may reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_hosts: str = Field(
        default="",
        description="Host names under which /mcp is reached, separated by commas, besides localhost; * admits any, "
        "which leaves browsers' pages free to call it (DNS rebinding).",
    )
    search_fetch: bool = Field(
        default=False, description="Also offer the tools search and fetch, which ChatGPT's connectors call."
    )

    libraries: bool = Field(
        default=False, description="Also offer the tools resolve_library and get_docs, which read kept documents."
    )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host names as a tuple."""
        return tuple(name for part in self.allowed_hosts.split(",") if (name := part.strip()))


class Settings(BaseModel):
    """The settings of one process, by section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: MemorySettings
    gateway: GatewaySettings
    llm: LLMSettings
    mcp: McpSettings = McpSettings()


SECTIONS: Mapping[str, tuple[type[BaseModel], str]] = {
    "memory": (MemorySettings, "MEMORY_"),
    "gateway": (GatewaySettings, "MEMORY_"),
    "llm": (LLMSettings, "LLM_"),
    "mcp": (McpSettings, "MCP_"),
}

SIMILARITY_MIN = 0.8
"""From this similarity on an unknown LLM_ or MCP_ variable counts as misspelt. Other programs use the prefixes too."""


def variables() -> dict[str, tuple[str, str]]:
    """Return every variable with the section and the field that it sets."""
    return {
        _variable(prefix, name, info.json_schema_extra): (section, name)
        for section, (model, prefix) in SECTIONS.items()
        for name, info in model.model_fields.items()
    }


def load(flags: Mapping[str, Any] | None = None, folder: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        flags: values by variable name, which win over all others; those that are None are ignored.
        folder: where to look for `.env`; default: the working folder.

    Raises:
        StartupError: a variable is unknown or its value is bad. The message is one line and never quotes a value.

    """
    values = {**_dotenv((folder or Path()) / ".env"), **os.environ}
    _refuse_misspelt(values)
    values = {name: value for name, value in values.items() if value.strip()}
    values |= {name: str(value) for name, value in (flags or {}).items() if value is not None}
    fields: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for variable, (section, name) in variables().items():
        if variable in values:
            fields[section][name] = values[variable]
    return Settings(**{section: _section(section, values) for section, values in fields.items()})


def refuse_misspelt(prefix: str, known: Iterable[str]) -> None:
    """Refuse variables of the environment whose name behind the prefix resembles a known one.

    Other names pass. Kubernetes, for example, sets VECTOR_MEMORY_PORT for a service of that name.

    Raises:
        StartupError: a variable is misspelt.
    """
    endings = [name.removeprefix(prefix) for name in known]
    for name in os.environ:
        ending = name.removeprefix(prefix)
        if ending == name or ending in endings:
            continue
        if close := difflib.get_close_matches(ending, endings, n=1):
            raise StartupError(f"Unknown variable {name}; did you mean {prefix}{close[0]}?")


def keep_runpod_quiet() -> None:
    """Keep RunPod's SDK from logging outputs, which hold memories. It reads its log level when it is imported."""
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")


def _variable(prefix: str, name: str, extra: object) -> str:
    own = extra.get("env") if isinstance(extra, Mapping) else None
    return str(own) if own else prefix + name.upper()


def _dotenv(path: Path) -> dict[str, str]:
    try:
        return {name: value or "" for name, value in dotenv_values(path).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} cannot be read: {error}.") from error


def _refuse_misspelt(names: Iterable[str]) -> None:
    known = list(variables())
    for name in names:
        if name in known or not name.startswith(("MEMORY_", "LLM_", "MCP_")):
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=SIMILARITY_MIN)
        if close or name.startswith("MEMORY_"):
            hint = f"; did you mean {close[0]}?" if close else "; .env.example lists all of them."
            raise StartupError(f"Unknown setting {name}{hint}")


def _section(section: str, values: Mapping[str, str]) -> BaseModel:
    model, _ = SECTIONS[section]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else section
        variable = next((name for name, place in variables().items() if place == (section, field)), field)
        inside = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:])
        raise StartupError(f"{variable}{inside}: {first['msg']}.") from error
