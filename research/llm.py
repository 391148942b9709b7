"""The client of an OpenAI-compatible endpoint, and the only module that knows the OpenAI SDK.

One request is one POST: the SDK's retries are off, because each would queue another paid job behind a cold endpoint.
Whatever goes wrong comes out as one of three errors: LLMUnreachable, LLMTimeout or LLMReplyInvalid.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from memory_service.errors import LLMReplyInvalid, LLMTimeout, LLMUnreachable, ServiceError
from research.completion import Completion, excerpt, read
from research.model import ChatMessage
from research.settings import Endpoint, LLMSettings

if TYPE_CHECKING:
    import openai

_UNREACHABLE = "The LLM endpoint cannot be reached; check that it runs and that LLM_BASE_URL is right"
_BROKEN_OFF = "The LLM endpoint broke the connection off before it had answered; try again"
_BUSY = "The LLM endpoint is busy or starting (HTTP {status}); try again later"

# 521 to 523 and 524 are Cloudflare's, in front of RunPod: the origin is down, or did not answer within 100 s.
_BUSY_STATUSES = frozenset({429, 502, 503, 521, 522, 523})
_TIMEOUT_STATUSES = frozenset({408, 504, 524})


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
        return self._settings.model

    async def complete(self, messages: Sequence[ChatMessage], *, max_tokens: int, temperature: float) -> Completion:
        """Ask for one completion, once.

        Raises:
            LLMUnreachable: no connection, or the endpoint is busy or still starting.
            LLMTimeout: no whole answer within `timeout_s`, or the endpoint gave up waiting.
            LLMReplyInvalid: an answer that is no completion, or one without text.
        """
        sdk = await self._sdk_of_this_loop()
        body = await self._post(sdk, messages, max_tokens, temperature)
        return read(body, model=self.model, secret=self._secret)

    async def close(self) -> None:
        """Close the connections. Those of an event loop that has ended went with it."""
        sdk, loop = self._sdk, self._loop
        self._sdk = self._loop = None
        if sdk is not None and loop is asyncio.get_running_loop():
            await sdk.close()

    @property
    def _secret(self) -> str:
        return self._endpoint.api_key.get_secret_value()

    async def _post(
        self, sdk: "openai.AsyncOpenAI", messages: Sequence[ChatMessage], max_tokens: int, temperature: float
    ) -> str:
        import openai

        try:
            # The SDK's own timeouts count between two reads, so a dripping answer would pass them for ever.
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await sdk.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=cast(Any, list(messages)),
                    max_tokens=max_tokens,
                    temperature=temperature,
                )
                return reply.text
        except TimeoutError as error:
            raise self._timeout() from error
        except openai.OpenAIError as error:
            raise self.translated(error) from error

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
            timeout=openai.Timeout(self._settings.timeout_s, connect=self._settings.connect_timeout_s),
        )
        # The SDK takes these from OPENAI_* variables, which are meant for another endpoint.
        sdk.organization = sdk.project = None
        _ = sdk.chat.completions  # Loads the SDK's types here and not in the loop.
        return sdk

    def translated(self, error: "openai.OpenAIError") -> ServiceError:
        """The SDK's error in the service's words, fit for callers; the original belongs into its `__cause__`."""
        import openai

        match error:
            case openai.APITimeoutError() if _caused_by(error, "ConnectTimeout"):
                return LLMUnreachable(_UNREACHABLE)
            case openai.APITimeoutError():
                return self._timeout()
            case openai.APIConnectionError() if _caused_by(error, "ConnectError"):
                return LLMUnreachable(_UNREACHABLE)
            case openai.APIConnectionError():
                return LLMUnreachable(_BROKEN_OFF)
            case openai.APIStatusError():
                return self._refused(error.status_code, error.response.text)
            case _:
                return LLMReplyInvalid("The LLM endpoint's answer could not be read")

    def _refused(self, status: int, body: str) -> ServiceError:
        if status in _BUSY_STATUSES:
            return LLMUnreachable(_BUSY.format(status=status))
        if status in _TIMEOUT_STATUSES:
            return LLMTimeout(f"The LLM endpoint gave up waiting for its model (HTTP {status}); try again later")
        if status in (401, 403):
            return LLMReplyInvalid(
                f"The LLM endpoint refused the API key (HTTP {status}); "
                "set LLM_API_KEY, or RUNPOD_API_KEY for a RunPod endpoint"
            )
        if status == HTTPStatus.NOT_FOUND:
            return LLMReplyInvalid(
                f"The LLM endpoint does not know the model {self.model!r} (HTTP 404); "
                "set LLM_MODEL to a name that it serves, and check the path of LLM_BASE_URL"
            )
        said = excerpt(body, self._secret)
        return LLMReplyInvalid(f"The LLM endpoint refused the request (HTTP {status}): {said or 'it gives no reason'}")

    def _timeout(self) -> LLMTimeout:
        return LLMTimeout(
            f"The LLM endpoint did not answer within {self._settings.timeout_s:g} s; "
            "try again, or raise LLM_TIMEOUT_S for a model that starts slowly"
        )


def connect(settings: LLMSettings) -> LLMClient | None:
    """A client of the configured endpoint, or None; nothing is opened before the first completion."""
    endpoint = settings.endpoint
    return None if endpoint is None else LLMClient(endpoint, settings)


def _caused_by(error: BaseException, name: str) -> bool:
    """By name, because the SDK moved from one HTTP library to its successor with the same names."""
    return type(error.__cause__).__name__ == name
