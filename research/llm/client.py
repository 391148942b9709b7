"""The client of one OpenAI-compatible endpoint, and the only module that knows the OpenAI SDK.

One request is one POST: the SDK's retries are off, because each would queue another paid job behind a cold endpoint.
Whatever goes wrong comes out as LLMUnreachable, LLMTimeout or LLMReplyInvalid, or one of their kinds. Which endpoint is
asked, and what follows when it fails, is decided above, in `endpoints.py`.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from research.llm.completion import Completion, decode, excerpt, raw, read
from research.llm.settings import Endpoint, LLMSettings
from research.llm.streaming import Chunk, ChunkReader, StreamReader
from vector_memory.errors import (
    LLMBusy,
    LLMNotConnected,
    LLMRefused,
    LLMReplyInvalid,
    LLMTimeout,
    LLMUnreachable,
    ServiceError,
)
from vector_memory.research import ChatMessage

if TYPE_CHECKING:
    import openai

_T = TypeVar("_T")
_Told_co = TypeVar("_Told_co", covariant=True)

_UNREACHABLE = "The LLM endpoint cannot be reached; check that it runs and that LLM_BASE_URL is right"
_BROKEN_OFF = "The LLM endpoint broke the connection off before it had answered; try again"
_BUSY = "The LLM endpoint is busy or starting (HTTP {status}); try again later"

# 521 to 523 and 524 are Cloudflare's, in front of RunPod: the origin is down, or did not answer within 100 s.
_BUSY_STATUSES = frozenset({429, 503})
_DOWN_STATUSES = frozenset({502, 521, 522, 523})
_TIMEOUT_STATUSES = frozenset({408, 504, 524})

# The request is wrong, and would be so at any other endpoint too.
_REFUSED_STATUSES = frozenset({400, 413, 422})

# Whoever has said the last word closes at once; only a connection that was read to its end can be used again.
_CLOSING_S_MAX = 0.1


class _Reader(Protocol[_Told_co]):
    """Reads a streamed answer: `StreamReader` or `ChunkReader`."""

    @property
    def is_done(self) -> bool: ...

    def feed(self, chunk: bytes) -> Sequence[_Told_co]: ...

    def rest(self) -> Sequence[_Told_co]: ...


class LLMClient:
    """Asks one endpoint for completions. Any number of requests may run at once."""

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._sdk: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._making = threading.Lock()

    @property
    def model(self) -> str:
        """The model that requests ask for."""
        return self._endpoint.model

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_tokens: int, temperature: float, timeout_s: float | None = None
    ) -> Completion:
        """Ask for one completion, once, within `timeout_s` in all (default: the setting).

        Raises:
            LLMUnreachable: no connection, or the endpoint is busy or still starting.
            LLMTimeout: no whole answer in time, or the endpoint gave up waiting.
            LLMReplyInvalid: an answer that is no completion, or one without text.
        """
        body = await self._asked(_question(messages, max_tokens, temperature), timeout_s)
        return read(body, model=self.model, secret=self._secret)

    async def forward(self, question: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """As `complete`, with a request body of the caller's own making, and the endpoint's own body as the answer.

        Every field but `model` goes to the endpoint as it is.
        """
        return raw(await self._asked(question, timeout_s), secret=self._secret)

    async def _asked(self, question: Mapping[str, Any], timeout_s: float | None) -> str:
        timeout_s = timeout_s or self._settings.timeout_s
        sdk = await self._sdk_of_this_loop()
        # The SDK's own timeouts count between two reads, so a dripping answer would pass them for ever.
        async with self._failing(asyncio.get_running_loop().time() + timeout_s, timeout_s):
            reply = await sdk.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[],
                extra_body={**question, "model": self.model},
                timeout=self._timeouts(timeout_s),
            )
            return reply.content.decode("utf-8", "replace")  # JSON has no other charset, whatever a header says
        raise AssertionError("the block above returns or raises")

    def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_tokens: int,
        temperature: float,
        timeout_s: float | None = None,
        first_token_s: float | None = None,
    ) -> AsyncGenerator[str | Completion]:
        """Ask for one completion, once, and hand its text over as it comes. Closing the iterator ends the request.

        It has `timeout_s` in all (default: the setting), and `first_token_s` to the first piece of text.

        Yields:
            Pieces of text, none of them empty, and at last the completion: its text is all of them together.

        Raises:
            ServiceError: as `complete`, also in the middle of the text.
        """
        question = {**_question(messages, max_tokens, temperature), "stream_options": {"include_usage": True}}
        reader = StreamReader(model=self.model, secret=self._secret)
        return self._streamed(question, reader, timeout_s, first_token_s)

    def forward_stream(
        self, question: Mapping[str, Any], *, timeout_s: float | None = None, first_token_s: float | None = None
    ) -> AsyncGenerator[Chunk]:
        """As `stream`, with a request body as in `forward`, and the endpoint's own events as the answer."""
        return self._streamed(question, ChunkReader(secret=self._secret), timeout_s, first_token_s)

    async def _streamed(
        self, question: Mapping[str, Any], reader: _Reader[_T], timeout_s: float | None, first_token_s: float | None
    ) -> AsyncGenerator[_T]:
        timeout_s = timeout_s or self._settings.timeout_s
        sdk = await self._sdk_of_this_loop()
        started = asyncio.get_running_loop().time()
        until, limit_s = started + timeout_s, timeout_s
        if first_token_s is not None and first_token_s < timeout_s:
            until, limit_s = started + first_token_s, first_token_s
        async with AsyncExitStack() as stack:
            # No timeout may be open over a `yield`: it would cancel whatever the consumer does meanwhile.
            async with self._failing(until, limit_s):
                response = await stack.enter_async_context(
                    sdk.chat.completions.with_streaming_response.create(
                        model=self.model,
                        messages=[],
                        stream=True,
                        extra_body={**question, "model": self.model, "stream": True},
                        timeout=self._timeouts(timeout_s),
                    )
                )
            chunks = aiter(response.iter_bytes())
            while not reader.is_done:
                async with self._failing(until, limit_s):
                    chunk = await anext(chunks, None)
                for told in reader.feed(b"\n" if chunk is None else chunk):
                    until, limit_s = started + timeout_s, timeout_s
                    yield told
                if chunk is None:
                    break
            for told in reader.rest():
                yield told
            with suppress(Exception):  # nothing that happens now changes the answer
                async with asyncio.timeout(_CLOSING_S_MAX):
                    while await anext(chunks, None) is not None:
                        pass

    async def fetch(self, method: Literal["GET", "POST"], url: str, body: object = None, *, timeout_s: float) -> object:
        """Ask a route beside OpenAI's, such as a server's /tokenize or RunPod's /health, by its whole URL.

        It must be at the endpoint's own host, since the key goes along.

        Returns:
            The JSON value of a success; None when it is none.

        Raises:
            ServiceError: as `complete`.
        """
        sdk = await self._sdk_of_this_loop()
        async with self._failing(asyncio.get_running_loop().time() + timeout_s, timeout_s):
            options: Any = {"timeout": self._timeouts(timeout_s)}
            if method == "GET":
                return decode(await sdk.get(url, cast_to=str, options=options))
            return decode(await sdk.post(url, cast_to=str, body=body, options=options))
        raise AssertionError("the block above returns or raises")

    async def close(self) -> None:
        """Close the connections. Those of an event loop that has ended went with it."""
        sdk, loop = self._sdk, self._loop
        self._sdk = self._loop = None
        if sdk is not None and loop is asyncio.get_running_loop():
            await sdk.close()

    @property
    def _secret(self) -> str:
        return self._endpoint.api_key.get_secret_value()

    @asynccontextmanager
    async def _failing(self, until: float, timeout_s: float) -> AsyncIterator[None]:
        """Turn whatever the SDK or the HTTP library below it raises into the service's words, and end it in time.

        Args:
            until: when, by the loop's clock.
            timeout_s: how long that is, for the message.
        """
        import httpx2
        import openai

        try:
            async with asyncio.timeout_at(until):
                yield
        except TimeoutError as error:
            raise self._timeout(timeout_s) from error
        except openai.OpenAIError as error:
            raise self.translated(error, timeout_s) from error
        except httpx2.TimeoutException as error:
            raise self._timeout(timeout_s) from error
        except httpx2.HTTPError as error:  # in the middle of a stream, which the SDK hands over as it is
            raise LLMUnreachable(_BROKEN_OFF) from error

    def _timeouts(self, timeout_s: float) -> Any:
        import openai

        return openai.Timeout(timeout_s, connect=min(timeout_s, self._settings.connect_timeout_s))

    async def _sdk_of_this_loop(self) -> "openai.AsyncOpenAI":
        loop = asyncio.get_running_loop()
        if self._sdk is not None and self._loop is loop:
            return self._sdk
        # Importing the SDK takes about a second, which the loop must not stand still for.
        return await asyncio.to_thread(self._sdk_of, loop)

    def _sdk_of(self, loop: asyncio.AbstractEventLoop) -> "openai.AsyncOpenAI":
        """The SDK's client for a loop, made anew for another loop, since its connections belong to the first."""
        with self._making:
            if self._sdk is None or self._loop is not loop:
                self._sdk, self._loop = self._make_sdk(), loop
            return self._sdk

    def _make_sdk(self) -> "openai.AsyncOpenAI":
        import openai

        # On debug level the SDK logs whole requests, and these hold memories.
        logging.getLogger("openai").setLevel(logging.INFO)
        sdk = openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=self._secret,
            max_retries=0,
            timeout=self._timeouts(self._settings.timeout_s),
        )
        # The SDK takes these from OPENAI_* variables, which are meant for another endpoint.
        sdk.organization = sdk.project = None
        _ = sdk.chat.completions  # Loads the SDK's types here and not in the loop.
        return sdk

    def translated(self, error: "openai.OpenAIError", timeout_s: float | None = None) -> ServiceError:
        """The SDK's error in the service's words, fit for callers; the original belongs into its `__cause__`."""
        import openai

        match error:
            case openai.APITimeoutError() if _caused_by(error, "ConnectTimeout"):
                return LLMUnreachable(_UNREACHABLE)
            case openai.APITimeoutError():
                return self._timeout(timeout_s or self._settings.timeout_s)
            case openai.APIConnectionError() if _caused_by(error, "ConnectError"):
                return LLMNotConnected(_UNREACHABLE)
            case openai.APIConnectionError():
                return LLMUnreachable(_BROKEN_OFF)
            case openai.APIStatusError():
                return self._refused(error.status_code, error.response.text)
            case _:
                return LLMReplyInvalid("The LLM endpoint's answer could not be read")

    def _refused(self, status: int, body: str) -> ServiceError:
        if status in _BUSY_STATUSES:
            return LLMBusy(_BUSY.format(status=status))
        if status in _DOWN_STATUSES:
            return LLMUnreachable(_BUSY.format(status=status))
        if status in _TIMEOUT_STATUSES:
            return LLMTimeout(f"The LLM endpoint gave up waiting for its model (HTTP {status}); try again later")
        if status in (401, 403):
            return LLMReplyInvalid(
                f"The LLM endpoint refused the API key (HTTP {status}); "
                "set LLM_API_KEY, or RUNPOD_API_KEY for a RunPod endpoint, or api_key in LLM_FALLBACK_ENDPOINTS"
            )
        if status == HTTPStatus.NOT_FOUND:
            return LLMReplyInvalid(
                f"The LLM endpoint does not know the model {self.model!r} (HTTP 404); "
                "set LLM_MODEL to a name that it serves, and check the path of LLM_BASE_URL"
            )
        said = excerpt(body, self._secret)
        kind = LLMRefused if status in _REFUSED_STATUSES else LLMReplyInvalid
        return kind(f"The LLM endpoint refused the request (HTTP {status}): {said or 'it gives no reason'}")

    def _timeout(self, timeout_s: float) -> LLMTimeout:
        return LLMTimeout(
            f"The LLM endpoint did not answer within {timeout_s:.3g} s; "
            "try again, or raise timeout_s (its default is LLM_TIMEOUT_S) for a model that starts slowly"
        )


def _question(messages: Sequence[ChatMessage], max_tokens: int, temperature: float) -> dict[str, Any]:
    return {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature}


def _caused_by(error: BaseException, name: str) -> bool:
    """By name, because the SDK moved from one HTTP library to its successor with the same names."""
    return type(error.__cause__).__name__ == name
