"""Counts a prompt's tokens with the server's own tokenizer, if the server offers one.

There are two dialects of `POST /tokenize` at the server's root. vLLM takes messages, applies its chat template, and
answers `count` and `max_model_len`. llama.cpp takes `content` and answers the list of `tokens` without a template. Its
`GET /props` says how many tokens one of its slots holds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from memory_service.tokens import TEMPLATE_TOKENS
from research.llm.client import LLMClient
from vector_memory.errors import LLMTimeout, LLMUnreachable, ServiceError
from vector_memory.research import ChatMessage

# A tokenizer takes milliseconds. Behind something slower than this, the estimate is good enough.
_COUNT_S_MAX = 1.0

# Seconds until a server without the route, or a slow one, is asked again.
_ABSENT_S = 600.0
_SLOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Count:
    """The tokens of a prompt.

    Attributes:
        tokens: tokens of the prompt with its chat template.
        window: tokens of prompt and answer together that the model can hold; None if the server does not say.
    """

    tokens: int
    window: int | None


class _TokenizeDialect(Enum):
    UNKNOWN = "unknown"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"


class TokenCounter:
    """Counts with one server, whose dialect it finds out once."""

    def __init__(self, client: LLMClient, root_url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Make a counter. Nothing is sent before the first count.

        Args:
            client: the client of the server.
            root_url: the root of the server's own routes.
            now: a clock in seconds that never goes back.
        """
        self._client = client
        self._url = f"{root_url}/tokenize"
        self._props_url = f"{root_url}/props"
        self._now = now
        self._dialect = _TokenizeDialect.UNKNOWN
        self._slot_tokens: int | None = None
        self._retry_at = 0.0

    async def count(self, messages: Sequence[ChatMessage]) -> Count | None:
        """Count the tokens of a prompt. None means that the server does not count, or is too slow."""
        if self._now() < self._retry_at:
            return None
        try:
            counted, pause_s = await self._count(messages), _ABSENT_S
        except (LLMUnreachable, LLMTimeout):
            counted, pause_s = None, _SLOW_S
        except ServiceError:
            counted, pause_s = None, _ABSENT_S
        if counted is None:
            # Another server, or one with another window, may come back at this address.
            self._dialect = _TokenizeDialect.UNKNOWN
            self._retry_at = self._now() + pause_s
        return counted

    async def _count(self, messages: Sequence[ChatMessage]) -> Count | None:
        if self._dialect is not _TokenizeDialect.LLAMA_CPP:
            reply = await self._ask({"model": self._client.model, "messages": list(messages)})
            match reply:
                case {"count": int(tokens), **rest} if tokens > 0:
                    self._dialect = _TokenizeDialect.VLLM
                    window = rest.get("max_model_len")
                    return Count(tokens, window if isinstance(window, int) and window > 0 else None)
                case {"tokens": list()}:
                    pass  # llama.cpp, which ignores messages and counts an empty text
                case _:
                    return None
        reply = await self._ask({"content": "\n".join(message["content"] for message in messages)})
        match reply:
            case {"tokens": [_, *_] as tokens}:
                if self._dialect is not _TokenizeDialect.LLAMA_CPP:
                    self._slot_tokens = await self._ask_slot_tokens()
                    self._dialect = _TokenizeDialect.LLAMA_CPP
                return Count(len(tokens) + TEMPLATE_TOKENS, self._slot_tokens)
        return None

    async def _ask_slot_tokens(self) -> int | None:
        """Ask llama.cpp for the tokens of one slot: its context divided by the number of slots."""
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
