"""The client of one OpenAI-compatible endpoint, and the only module that knows the OpenAI SDK.

One request is one POST. The SDK's retries are off, because each one would queue another paid job behind a cold
endpoint. Every failure is raised as LLMUnreachable, LLMTimeout, LLMReplyInvalid or a subclass of these. `endpoints.py`
above decides which endpoint is asked, and what follows when it fails.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from research.llm.completion import Completion, decode, excerpt, raw, read
from research.llm.errors import LLMBusy, LLMNotConnected, LLMRefused
from research.llm.settings import Endpoint, LLMSettings
from research.llm.streaming import Chunk, ChunkReader, StreamReader
from vector_memory.errors import LLMReplyInvalid, LLMTimeout, LLMUnreachable, ServiceError

if TYPE_CHECKING:
    import openai

_T = TypeVar("_T")
_Event_co = TypeVar("_Event_co", covariant=True)

_UNREACHABLE = "The LLM endpoint cannot be reached; check that it runs and that LLM_BASE_URL is right"
_BROKEN_OFF = "The LLM endpoint broke the connection off before it had answered; try again"
_BUSY = "The LLM endpoint is busy or starting (HTTP {status}); try again later"

# 521 to 524 come from Cloudflare in front of RunPod: the origin is down, or (524) did not answer within 100 s.
_BUSY_STATUSES = frozenset({429, 503})
_DOWN_STATUSES = frozenset({502, 521, 522, 523})
_TIMEOUT_STATUSES = frozenset({408, 504, 524})

# The request is wrong, and any other endpoint would refuse it too.
_REFUSED_STATUSES = frozenset({400, 413, 422})

# Time to read a connection to its end, so that it can be used again. A server closes at once after its last word.
_CLOSING_S_MAX = 0.1


class _Reader(Protocol[_Event_co]):
    """A reader of streamed answers: `StreamReader` or `ChunkReader`."""

    @property
    def is_done(self) -> bool: ...

    def feed(self, chunk: bytes) -> Sequence[_Event_co]: ...

    def rest(self) -> Sequence[_Event_co]: ...


class LLMClient:
    """Asks one endpoint for completions. Any number of requests may run at once.

    Request bodies are those of OpenAI's chat completions. The client sets their `model` (and `stream`), and passes
    every other field on as it is. `timeout_s` bounds a whole request, and is the setting's value by default.
    """

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._sdk: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Held while the SDK's client is made, which takes time and happens in threads.
        self._sdk_lock = threading.Lock()

    @property
    def model(self) -> str:
        """The model that requests ask for."""
        return self._endpoint.model

    async def complete(self, body: Mapping[str, Any], *, timeout_s: float | None = None) -> Completion:
        """Ask for one completion, once.

        Raises:
            LLMUnreachable: there is no connection, or the endpoint is busy or still starting.
            LLMTimeout: no whole answer came in time, or the endpoint gave up waiting.
            LLMReplyInvalid: the answer is no completion, or has no text.
        """
        return read(await self._post(body, timeout_s), model=self.model, secret=self._secret)

    async def forward(self, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Ask for one completion, once, and return the endpoint's own body.

        Raises:
            ServiceError: as `complete`. An answer without text is no error here.
        """
        return raw(await self._post(body, timeout_s), secret=self._secret)

    async def _post(self, body: Mapping[str, Any], timeout_s: float | None) -> str:
        timeout_s = timeout_s or self._settings.timeout_s
        sdk = await self._sdk_of_this_loop()
        # The SDK's own timeouts restart with every read, so an answer that drips would never reach them.
        async with self._translate_errors(asyncio.get_running_loop().time() + timeout_s, timeout_s):
            reply = await sdk.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[],
                extra_body={**body, "model": self.model},
                timeout=self._timeouts(timeout_s),
            )
        return reply.content.decode("utf-8", "replace")  # JSON is UTF-8, even if a header names another charset

    def stream(
        self, body: Mapping[str, Any], *, timeout_s: float | None = None, first_token_s: float | None = None
    ) -> AsyncGenerator[str | Completion]:
        """Ask for one completion, once, and yield its text as it comes. Closing the iterator ends the request.

        Args:
            body: the request body.
            timeout_s: seconds for everything.
            first_token_s: seconds until the first piece of text; None allows all of `timeout_s`.

        Yields:
            Pieces of text, none of them empty. The completion comes last; its text is all pieces joined.

        Raises:
            ServiceError: as `complete`, also in the middle of the text.
        """
        reader = StreamReader(model=self.model, secret=self._secret)
        return self._stream({**body, "stream_options": {"include_usage": True}}, reader, timeout_s, first_token_s)

    def forward_stream(
        self, body: Mapping[str, Any], *, timeout_s: float | None = None, first_token_s: float | None = None
    ) -> AsyncGenerator[Chunk]:
        """Ask for one completion as `stream` does, and yield the endpoint's own events."""
        return self._stream(body, ChunkReader(secret=self._secret), timeout_s, first_token_s)

    async def _stream(
        self, body: Mapping[str, Any], reader: _Reader[_T], timeout_s: float | None, first_token_s: float | None
    ) -> AsyncGenerator[_T]:
        timeout_s = timeout_s or self._settings.timeout_s
        sdk = await self._sdk_of_this_loop()
        started = asyncio.get_running_loop().time()
        # The limit is `first_token_s` until the first piece has come, and `timeout_s` afterwards.
        limit_s = timeout_s if first_token_s is None else min(first_token_s, timeout_s)
        async with AsyncExitStack() as stack:
            # No timeout may be open over a `yield`: it would cancel the consumer's own work.
            async with self._translate_errors(started + limit_s, limit_s):
                response = await stack.enter_async_context(
                    sdk.chat.completions.with_streaming_response.create(
                        model=self.model,
                        messages=[],
                        stream=True,
                        extra_body={**body, "model": self.model, "stream": True},
                        timeout=self._timeouts(timeout_s),
                    )
                )
            chunks = aiter(response.iter_bytes())
            while not reader.is_done:
                async with self._translate_errors(started + limit_s, limit_s):
                    chunk = await anext(chunks, None)
                for event in reader.feed(b"\n" if chunk is None else chunk):
                    limit_s = timeout_s
                    yield event
                if chunk is None:
                    break
            for event in reader.rest():
                yield event
            with suppress(Exception):  # the answer is complete, so no error matters any more
                async with asyncio.timeout(_CLOSING_S_MAX):
                    while await anext(chunks, None) is not None:
                        pass

    async def fetch(self, method: Literal["GET", "POST"], url: str, body: object = None, *, timeout_s: float) -> object:
        """Ask a route that is not OpenAI's, such as a server's /tokenize or RunPod's /health.

        Args:
            method: the HTTP method.
            url: the whole URL. It must be at the endpoint's own host, because the key is sent along.
            body: a JSON value for POST.
            timeout_s: seconds for everything.

        Returns:
            The JSON value of a successful answer; None if it is not JSON.

        Raises:
            ServiceError: as `complete`.
        """
        sdk = await self._sdk_of_this_loop()
        async with self._translate_errors(asyncio.get_running_loop().time() + timeout_s, timeout_s):
            options: Any = {"timeout": self._timeouts(timeout_s)}
            if method == "GET":
                text = await sdk.get(url, cast_to=str, options=options)
            else:
                text = await sdk.post(url, cast_to=str, body=body, options=options)
        return decode(text)

    async def close(self) -> None:
        """Close the connections. An event loop that has ended has closed its own."""
        sdk, loop = self._sdk, self._loop
        self._sdk = self._loop = None
        if sdk is not None and loop is asyncio.get_running_loop():
            await sdk.close()

    @property
    def _secret(self) -> str:
        return self._endpoint.api_key.get_secret_value()

    @asynccontextmanager
    async def _translate_errors(self, until: float, timeout_s: float) -> AsyncIterator[None]:
        """Translate errors of the SDK and of the HTTP library below it, and raise LLMTimeout at a moment.

        Args:
            until: the moment, by the loop's clock.
            timeout_s: the seconds until then from the start of the request, for the message.
        """
        import httpx2
        import openai

        try:
            async with asyncio.timeout_at(until):
                yield
        except TimeoutError as error:
            raise self._timeout_error(timeout_s) from error
        except openai.OpenAIError as error:
            raise self.translate(error, timeout_s) from error
        except httpx2.TimeoutException as error:
            raise self._timeout_error(timeout_s) from error
        except httpx2.HTTPError as error:  # in the middle of a stream the SDK does not translate these
            raise LLMUnreachable(_BROKEN_OFF) from error

    def _timeouts(self, timeout_s: float) -> Any:
        import openai

        return openai.Timeout(timeout_s, connect=min(timeout_s, self._settings.connect_timeout_s))

    async def _sdk_of_this_loop(self) -> "openai.AsyncOpenAI":
        loop = asyncio.get_running_loop()
        if self._sdk is not None and self._loop is loop:
            return self._sdk
        # Importing the SDK takes about a second, and must not block the loop.
        return await asyncio.to_thread(self._sdk_of, loop)

    def _sdk_of(self, loop: asyncio.AbstractEventLoop) -> "openai.AsyncOpenAI":
        # Each loop needs a client of its own, since connections belong to the loop that opened them.
        with self._sdk_lock:
            if self._sdk is None or self._loop is not loop:
                self._sdk, self._loop = self._make_sdk(), loop
            return self._sdk

    def _make_sdk(self) -> "openai.AsyncOpenAI":
        import openai

        # On debug level the SDK logs whole requests, which hold memories.
        logging.getLogger("openai").setLevel(logging.INFO)
        sdk = openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=self._secret,
            max_retries=0,
            timeout=self._timeouts(self._settings.timeout_s),
        )
        # The SDK reads these from OPENAI_* variables, which are meant for another endpoint.
        sdk.organization = sdk.project = None
        _ = sdk.chat.completions  # loads the SDK's types in this thread instead of in the loop
        return sdk

    def translate(self, error: "openai.OpenAIError", timeout_s: float | None = None) -> ServiceError:
        """Return the service's error for an error of the SDK. Raise it from the original one."""
        import openai

        match error:
            case openai.APITimeoutError() if _caused_by(error, "ConnectTimeout"):
                return LLMUnreachable(_UNREACHABLE)
            case openai.APITimeoutError():
                return self._timeout_error(timeout_s or self._settings.timeout_s)
            case openai.APIConnectionError() if _caused_by(error, "ConnectError"):
                return LLMNotConnected(_UNREACHABLE)
            case openai.APIConnectionError():
                return LLMUnreachable(_BROKEN_OFF)
            case openai.APIStatusError():
                return self._status_error(error.status_code, error.response.text)
            case _:
                return LLMReplyInvalid("The LLM endpoint's answer could not be read")

    def _status_error(self, status: int, body: str) -> ServiceError:
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
        reason = excerpt(body, self._secret) or "it gives no reason"
        kind = LLMRefused if status in _REFUSED_STATUSES else LLMReplyInvalid
        return kind(f"The LLM endpoint refused the request (HTTP {status}): {reason}")

    def _timeout_error(self, timeout_s: float) -> LLMTimeout:
        return LLMTimeout(
            f"The LLM endpoint did not answer within {timeout_s:.3g} s; "
            "try again, or raise timeout_s (its default is LLM_TIMEOUT_S) for a model that starts slowly"
        )


def _caused_by(error: BaseException, name: str) -> bool:
    # Compare names, because the SDK moved from one HTTP library to its successor, which has the same names.
    return type(error.__cause__).__name__ == name
