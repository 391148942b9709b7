"""Which LLM answers, and within which bounds.

The values only: the root settings read the environment, as `LLM_` and the field's name in capitals, or as the
field's own `env` where it names one.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

_RUNPOD_OPENAI_URL = "https://api.runpod.ai/v2/{id}/openai/v1"

# The SDK refuses to start without a key, and a local server does not look at it.
_KEY_OF_A_KEYLESS_SERVER = "no-key-needed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server, and the key that it asks for."""

    base_url: str
    api_key: SecretStr


class LLMSettings(BaseModel):
    """The LLM behind research, and what happens without one."""

    # Hidden inputs, because a validation error would otherwise print the key that it complains about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    base_url: str | None = Field(
        default=None,
        description="OpenAI-compatible endpoint, such as http://localhost:8000/v1; wins over RUNPOD_VLLM_ENDPOINT_ID.",
    )
    api_key: SecretStr | None = Field(default=None, description="Key of LLM_BASE_URL; a local server may need none.")
    model: str = Field(
        default="meta-llama/Llama-3.1-8B-Instruct",
        min_length=1,
        max_length=300,
        description="Name under which the endpoint serves the model.",
    )
    timeout_s: float = Field(
        default=60.0, gt=0, le=600, description="Seconds for one completion in all, from connecting to the last word."
    )
    connect_timeout_s: float = Field(default=10.0, gt=0, le=60, description="Seconds to connect to the endpoint.")
    context_tokens: int = Field(
        default=8_192,
        ge=2_048,
        le=1_048_576,
        description="Tokens of the model's window, which instructions, passages, question and answer share.",
    )
    fallback: Literal["none", "extractive"] = Field(
        default="none",
        description="Without an LLM: none refuses to answer, extractive quotes the best sentences of the memories.",
    )
    runpod_api_key: SecretStr | None = Field(
        default=None,
        description="RunPod key, for the vLLM endpoint of RUNPOD_VLLM_ENDPOINT_ID.",
        json_schema_extra={"env": "RUNPOD_API_KEY"},
    )
    runpod_vllm_endpoint_id: str | None = Field(
        default=None,
        max_length=100,
        description="Id of a RunPod serverless endpoint that runs vLLM.",
        json_schema_extra={"env": "RUNPOD_VLLM_ENDPOINT_ID"},
    )

    @field_validator("base_url", "api_key", "runpod_api_key", "runpod_vllm_endpoint_id", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        """Compose files and secret files hand over empty variables and closing newlines."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return (text.strip() or None) if isinstance(text, str) else value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an http or https URL without query, such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError("must not carry a user or password; put the key into LLM_API_KEY")
        return value.rstrip("/")

    @field_validator("api_key", "runpod_api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        # Anything else cannot travel in a header, and the HTTP library's complaint would quote the key.
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("runpod_vllm_endpoint_id")
    @classmethod
    def _check_endpoint_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError("must be the endpoint's id (letters, digits, - and _), not its URL")
        return value

    @property
    def endpoint(self) -> Endpoint | None:
        """Where completions come from; None when nothing, or only half of the RunPod pair, is set."""
        if self.base_url is not None:
            return Endpoint(self.base_url, self.api_key or SecretStr(_KEY_OF_A_KEYLESS_SERVER))
        if self.runpod_api_key is not None and self.runpod_vllm_endpoint_id is not None:
            return Endpoint(_RUNPOD_OPENAI_URL.format(id=self.runpod_vllm_endpoint_id), self.runpod_api_key)
        return None
