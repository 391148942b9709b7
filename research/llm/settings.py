"""The settings of the LLM: its endpoints and its limits.

This module has the values only. The root settings read each of them from the environment, from `LLM_` and the field's
name in capitals, or from the field's own `env` if it names one.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator

from research.llm.cost import Prices
from vector_memory.research import TIMEOUT_S

_RUNPOD_OPENAI_URL = "https://api.runpod.ai/v2/{id}/openai/v1"

# The SDK refuses to start without a key. A local server ignores it.
_KEY_OF_A_KEYLESS_SERVER = "no-key-needed"

# The OpenAI route of a RunPod queue endpoint on any host. The URL before /openai takes /health, /run and /status.
_RUNPOD_QUEUE_URL = re.compile(r"(https?://[^/]+/v2/[A-Za-z0-9_-]+)/openai(?:/v1)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server, its key, and the model to ask it for.

    Attributes:
        name: the name in errors, logs and answers: `primary`, `fallback 1` ... Callers see neither host nor key.
    """

    name: str
    base_url: str
    api_key: SecretStr
    model: str
    prices: Prices = field(default_factory=Prices)

    @property
    def root_url(self) -> str:
        """The root of the routes that are not OpenAI's."""
        return self.base_url.removesuffix("/v1")

    @property
    def runpod_url(self) -> str | None:
        """The root of RunPod's own routes; None for any other server."""
        match = _RUNPOD_QUEUE_URL.fullmatch(self.base_url)
        return match[1] if match else None


def _blank_to_none(value: object) -> object:
    # Compose files pass empty variables, and secret files end in a newline.
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (text.strip() or None) if isinstance(text, str) else value


def _checked_key(value: SecretStr | None) -> SecretStr | None:
    # A header takes nothing else, and the HTTP library's error would quote the key.
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces")
    return value


_Blankable = Annotated[str | None, BeforeValidator(_blank_to_none)]
_Key = Annotated[SecretStr | None, BeforeValidator(_blank_to_none), AfterValidator(_checked_key)]


class _EndpointSettings(BaseModel):
    """The fields that every endpoint has."""

    # Inputs are hidden, because a validation error would otherwise print the key that it is about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    base_url: _Blankable = Field(
        default=None,
        description="OpenAI-compatible endpoint, such as http://localhost:8000/v1; wins over RUNPOD_VLLM_ENDPOINT_ID.",
    )
    api_key: _Key = Field(default=None, description="Key of LLM_BASE_URL; a local server may need none.")
    input_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a million tokens of prompt, for `cost` in answers."
    )
    output_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a million tokens of answer, in the same currency."
    )
    second_price: float | None = Field(
        default=None, ge=0, le=1_000_000, description="Price of a second in which the endpoint works for one question."
    )

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

    @property
    def prices(self) -> Prices:
        """The prices of the endpoint."""
        return Prices(self.input_price, self.output_price, self.second_price)

    def _endpoint(self, name: str, base_url: str, api_key: SecretStr | None, model: str) -> Endpoint:
        key = api_key or SecretStr(_KEY_OF_A_KEYLESS_SERVER)
        return Endpoint(name=name, base_url=base_url, api_key=key, model=model, prices=self.prices)


class FallbackSettings(_EndpointSettings):
    """A further endpoint: its `base_url`, and its own `api_key`, `model` and prices if it has any."""

    model: str | None = Field(default=None, min_length=1, max_length=300)

    @model_validator(mode="after")
    def _has_url(self) -> Self:
        if self.base_url is None:
            raise ValueError("base_url is missing")
        return self

    def endpoint(self, name: str, model: str) -> Endpoint:
        """Return the endpoint under a name. `model` is the first endpoint's, for one that names no model."""
        assert self.base_url is not None, "checked above"
        return self._endpoint(name, self.base_url, self.api_key, self.model or model)


class LLMSettings(_EndpointSettings):
    """The LLM behind research, and what to do without one."""

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
        description="Endpoints to ask if the one above fails, in order; JSON, such as "
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
        description="Research abstains if no memory is at least this likely to answer; 0 never abstains for that.",
    )
    fallback: Literal["none", "extractive"] = Field(
        default="none",
        description="Without an LLM: none refuses to answer, extractive quotes the best sentences of the memories.",
    )
    runpod_api_key: _Key = Field(
        default=None,
        description="RunPod key, for the vLLM endpoint of RUNPOD_VLLM_ENDPOINT_ID.",
        json_schema_extra={"env": "RUNPOD_API_KEY"},
    )
    runpod_vllm_endpoint_id: _Blankable = Field(
        default=None,
        max_length=100,
        description="Id of a RunPod serverless endpoint that runs vLLM.",
        json_schema_extra={"env": "RUNPOD_VLLM_ENDPOINT_ID"},
    )

    @field_validator("fallback_endpoints", mode="before")
    @classmethod
    def _of_json(cls, value: object) -> object:
        """Parse the text of a variable."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value.strip() else ()
        except (ValueError, RecursionError) as error:
            raise ValueError('must be JSON, such as [{"base_url": "https://other.example/v1"}]') from error

    @field_validator("runpod_vllm_endpoint_id")
    @classmethod
    def _check_endpoint_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError("must be the endpoint's id (letters, digits, - and _), not its URL")
        return value

    @property
    def endpoint(self) -> Endpoint | None:
        """The first endpoint to ask; None if nothing, or only half of the RunPod pair, is set."""
        if self.base_url is not None:
            return self._endpoint("primary", self.base_url, self.api_key, self.model)
        if self.runpod_api_key is not None and self.runpod_vllm_endpoint_id is not None:
            url = _RUNPOD_OPENAI_URL.format(id=self.runpod_vllm_endpoint_id)
            return self._endpoint("primary", url, self.runpod_api_key, self.model)
        return None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint in the order of asking; empty if none is configured."""
        first = () if self.endpoint is None else (self.endpoint,)
        further = (
            fallback.endpoint(f"fallback {number}", self.model)
            for number, fallback in enumerate(self.fallback_endpoints, start=1)
        )
        return (*first, *further)
