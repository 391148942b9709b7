"""Which LLM answers, and within which bounds.

The values only: the root settings read the environment, as `LLM_` and the field's name in capitals, or as the
field's own `env` where it names one.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from research.llm.cost import Prices
from vector_memory.research import TIMEOUT_S

_RUNPOD_OPENAI_URL = "https://api.runpod.ai/v2/{id}/openai/v1"

# The SDK refuses to start without a key, and a local server does not look at it.
_KEY_OF_A_KEYLESS_SERVER = "no-key-needed"


# A RunPod queue endpoint, whichever host fronts it: what stands before /openai takes /health, /run and /status.
_RUNPOD_QUEUE_URL = re.compile(r"(https?://[^/]+/v2/[A-Za-z0-9_-]+)/openai(?:/v1)?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server, the key that it asks for, and the model that it is asked for.

    Attributes:
        name: what errors, logs and answers call it: `primary`, `fallback 1` ... Neither host nor key is for callers.
    """

    name: str
    base_url: str
    api_key: SecretStr
    model: str
    prices: Prices = field(default_factory=Prices)

    @property
    def root_url(self) -> str:
        """Where the routes beside OpenAI's begin."""
        return self.base_url.removesuffix("/v1")

    @property
    def runpod_url(self) -> str | None:
        """Where RunPod's own routes begin; None for any other server."""
        match = _RUNPOD_QUEUE_URL.fullmatch(self.base_url)
        return match[1] if match else None


class _EndpointSettings(BaseModel):
    """What every endpoint has of its own."""

    # Hidden inputs, because a validation error would otherwise print the key that it complains about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    base_url: str | None = Field(
        default=None,
        description="OpenAI-compatible endpoint, such as http://localhost:8000/v1; wins over RUNPOD_VLLM_ENDPOINT_ID.",
    )
    api_key: SecretStr | None = Field(default=None, description="Key of LLM_BASE_URL; a local server may need none.")
    input_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a million tokens of prompt, for `cost` in answers."
    )
    output_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a million tokens of answer, in the same currency."
    )
    second_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a second in which the endpoint works for one question."
    )

    @field_validator("base_url", "api_key", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return _blank_to_none(value)

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an http or https URL without query, such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError("must not carry a user or password; put the key into LLM_API_KEY, or its own api_key")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        return _checked_key(value)

    @property
    def prices(self) -> Prices:
        """What it takes."""
        return Prices(self.input_price, self.output_price, self.second_price)

    def _endpoint_at(self, base_url: str, name: str, model: str) -> Endpoint:
        return Endpoint(name, base_url, self.api_key or SecretStr(_KEY_OF_A_KEYLESS_SERVER), model, self.prices)


class FallbackSettings(_EndpointSettings):
    """One further endpoint: `base_url`, and where they differ its `api_key`, `model` and prices."""

    model: str | None = Field(default=None, min_length=1, max_length=300)

    @model_validator(mode="after")
    def _has_url(self) -> Self:
        if self.base_url is None:
            raise ValueError("base_url is missing")
        return self

    def endpoint(self, name: str, model: str) -> Endpoint:
        """It, under a name; the model is the first endpoint's where it has none of its own."""
        assert self.base_url is not None, "checked above"
        return self._endpoint_at(self.base_url, name, self.model or model)


class LLMSettings(_EndpointSettings):
    """The LLM behind research, and what happens without one."""

    model: str = Field(
        default="meta-llama/Llama-3.1-8B-Instruct",
        min_length=1,
        max_length=300,
        description="Name under which the endpoint serves the model.",
    )
    fallback_endpoints: tuple[FallbackSettings, ...] = Field(
        default=(),
        max_length=8,
        repr=False,
        description="Endpoints to ask where the one above fails, in order; JSON, such as "
        '[{"base_url": "https://other.example/v1", "api_key": "...", "model": "..."}]; prices as below.',
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=TIMEOUT_S.most,
        description="Seconds for one question in all, from the search to the last word; a request may send its own.",
    )
    connect_timeout_s: float = Field(default=10.0, gt=0, le=60, description="Seconds to connect to the endpoint.")
    context_tokens: int = Field(
        default=8_192,
        ge=2_048,
        le=1_048_576,
        description="Tokens of the model's window, which instructions, passages, question and answer share.",
    )
    concurrency: int = Field(
        default=32, ge=1, le=1_000, description="Questions that the LLM answers at once; RunPod's vLLM worker takes 30."
    )
    queue_max: int = Field(
        default=64, ge=0, le=10_000, description="Questions that wait for their turn; beyond them: 503 at once."
    )
    min_relevance: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Research abstains when no memory is at least so likely to answer; 0 never abstains for that.",
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

    @field_validator("fallback_endpoints", mode="before")
    @classmethod
    def _of_json(cls, value: object) -> object:
        """A variable holds text."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value.strip() else ()
        except (ValueError, RecursionError) as error:
            raise ValueError('must be JSON, such as [{"base_url": "https://other.example/v1"}]') from error

    @field_validator("runpod_api_key", "runpod_vllm_endpoint_id", mode="before")
    @classmethod
    def _blank_runpod_is_unset(cls, value: object) -> object:
        return _blank_to_none(value)

    @field_validator("runpod_api_key")
    @classmethod
    def _check_runpod_key(cls, value: SecretStr | None) -> SecretStr | None:
        return _checked_key(value)

    @field_validator("runpod_vllm_endpoint_id")
    @classmethod
    def _check_endpoint_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError("must be the endpoint's id (letters, digits, - and _), not its URL")
        return value

    @property
    def endpoint(self) -> Endpoint | None:
        """The first one to ask; None when nothing, or only half of the RunPod pair, is set."""
        if self.base_url is not None:
            return self._endpoint_at(self.base_url, "primary", self.model)
        if self.runpod_api_key is not None and self.runpod_vllm_endpoint_id is not None:
            url = _RUNPOD_OPENAI_URL.format(id=self.runpod_vllm_endpoint_id)
            return Endpoint("primary", url, self.runpod_api_key, self.model, self.prices)
        return None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint in the order of asking; empty when none is configured."""
        first = () if self.endpoint is None else (self.endpoint,)
        further = (
            fallback.endpoint(f"fallback {number}", self.model)
            for number, fallback in enumerate(self.fallback_endpoints, start=1)
        )
        return (*first, *further)


def _blank_to_none(value: object) -> object:
    """Compose files and secret files hand over empty variables and closing newlines."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (text.strip() or None) if isinstance(text, str) else value


def _checked_key(value: SecretStr | None) -> SecretStr | None:
    # Anything else cannot travel in a header, and the HTTP library's complaint would quote the key.
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces")
    return value
