"""Counts a prompt's tokens with the server's own tokenizer, where the server offers it.

Two dialects of `POST /tokenize`, at the server's root: vLLM takes messages, applies its chat template and answers
`count` and `max_model_len`; llama.cpp takes `content` and answers the list of `tokens`, without a template, and tells
in `GET /props` how many tokens one of its slots holds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from memory_service.tokens import TEMPLATE_TOKENS
from research.llm.client import LLMClient
from vector_memory.errors import LLMTimeout, LLMUnreachable, ServiceError
from vector_memory.research import ChatMessage

# A tokenizer takes milliseconds. One that takes longer than this stands behind something slow, and an estimate does.
_COUNT_S_MAX = 1.0

# How long a server without the route, or a slow one, is not asked again.
_ABSENT_S = 600.0
_SLOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Count:
    """A prompt's tokens.

    Attributes:
        tokens: with what the chat template adds.
        window: tokens that the model can hold, prompt and answer together; None where the server does not say.
    """

    tokens: int
    window: int | None


class _Dialect(Enum):
    UNKNOWN = "unknown"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"


class TokenCounter:
    """Counts by one server; finds out once which dialect it speaks."""

    def __init__(self, client: LLMClient, root_url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Args:
        root_url: where the server's own routes begin.
        """
        self._client = client
        self._url = f"{root_url}/tokenize"
        self._props_url = f"{root_url}/props"
        self._now = now
        self._dialect = _Dialect.UNKNOWN
        self._slot_tokens: int | None = None
        self._asked_again_at = 0.0

    async def count(self, messages: Sequence[ChatMessage]) -> Count | None:
        """The tokens of a prompt, or None when the server does not count or does not count quickly."""
        if self._now() < self._asked_again_at:
            return None
        try:
            found = await self._count(messages)
            rest_s = _ABSENT_S
        except (LLMUnreachable, LLMTimeout):
            found, rest_s = None, _SLOW_S
        except ServiceError:
            found, rest_s = None, _ABSENT_S
        if found is None:
            self._dialect = _Dialect.UNKNOWN  # it may come back as another server, or with another window
            self._asked_again_at = self._now() + rest_s
        return found

    async def _count(self, messages: Sequence[ChatMessage]) -> Count | None:
        if self._dialect is not _Dialect.LLAMA_CPP:
            reply = await self._ask({"model": self._client.model, "messages": list(messages)})
            match reply:
                case {"count": int(tokens), **rest} if tokens > 0:
                    self._dialect = _Dialect.VLLM
                    window = rest.get("max_model_len")
                    return Count(tokens, window if isinstance(window, int) and window > 0 else None)
                case {"tokens": list()}:
                    pass  # it knows nothing of messages
                case _:
                    return None
        reply = await self._ask({"content": "\n".join(message["content"] for message in messages)})
        match reply:
            case {"tokens": [_, *_] as tokens}:
                if self._dialect is not _Dialect.LLAMA_CPP:
                    self._slot_tokens = await self._asked_slot_tokens()
                    self._dialect = _Dialect.LLAMA_CPP
                return Count(len(tokens) + TEMPLATE_TOKENS, self._slot_tokens)
        return None

    async def _asked_slot_tokens(self) -> int | None:
        """What one of llama.cpp's slots holds, its context divided by their number; None where it does not say."""
        try:
            reply = await self._client.fetch("GET", self._props_url, timeout_s=_COUNT_S_MAX)
        except ServiceError:
            return None
        match reply:
            case {"default_generation_settings": {"n_ctx": int(tokens)}} if tokens > 0:
                return tokens
        return None

    async def _ask(self, body: object) -> object:
        return await self._client.fetch("POST", self._url, body, timeout_s=_COUNT_S_MAX)
