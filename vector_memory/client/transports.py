"""How requests reach the service over HTTP, and what every transport is."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Protocol

import httpx

from vector_memory.client.requests import Unanswered, WireRequest, WireResponse, json_bytes
from vector_memory.errors import InvalidInput
from vector_memory.server_sent import EventReader, ServerSentEvent

USER_AGENT = "vector-memory"
_EVENT_STREAM = "text/event-stream"

_USER_INFO = re.compile(r"//[^/?#]*@")
"""A password in a URL is in no message."""

_PORT_MAX = 65_535


class Transport(Protocol):
    """A way to the service."""

    async def send(self, request: WireRequest) -> WireResponse:
        """Send a request and wait for the response.

        Raises:
            Unanswered: none came.
            InvalidInput: it cannot be sent.
        """

    async def stream(self, request: WireRequest) -> WireResponse:
        """Send a request whose answer streams, and wait until its `events` begin. A failure before has none.

        Raises:
            Unanswered: no response came.
            InvalidInput: it cannot be sent, or nothing streams here.
        """

    async def close(self) -> None:
        """Release what is held."""


class HTTPTransport:
    """The HTTP API at a base URL."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            raise InvalidInput("The API key is empty or holds characters that no key has.", field="api_key")
        headers = {"User-Agent": USER_AGENT} | ({} if api_key is None else {"Authorization": f"Bearer {api_key}"})
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout_s, transport=transport)

    async def send(self, request: WireRequest) -> WireResponse:
        """Send a request and wait for the response."""
        return await self.post_or_get(
            request.method, request.path, query=request.query, body=request.body, headers=request.headers
        )

    async def post_or_get(
        self, method: str, path: str, *, query: Any = None, body: Any = None, headers: dict[str, str] | None = None
    ) -> WireResponse:
        """One HTTP exchange below the base URL.

        Raises:
            Unanswered: there was none.
            InvalidInput: it cannot be sent.
        """
        with self._unanswered():
            request = self._built(method, path, query=query, body=body, headers=headers)
            return _response(await self._http.send(request))

    async def stream(self, request: WireRequest) -> WireResponse:
        """Send a request and wait until its events begin."""
        with self._unanswered():
            built = self._built(
                request.method, request.path, query=request.query, body=request.body, headers=request.headers
            )
            answer = await self._http.send(built, stream=True)
            if answer.headers.get("content-type", "").partition(";")[0] == _EVENT_STREAM:
                events = self._events(answer)
                return WireResponse(
                    answer.status_code, None, request_id=answer.headers.get("x-request-id"), events=events
                )
            await answer.aread()
            return _response(answer)

    async def _events(self, answer: httpx.Response) -> AsyncGenerator[ServerSentEvent]:
        reader = EventReader()
        try:
            with self._unanswered():
                async for piece in answer.aiter_bytes():
                    for event in reader.feed(piece):
                        yield event
        finally:
            await answer.aclose()

    def _built(self, method: str, path: str, *, query: Any, body: Any, headers: dict[str, str] | None) -> httpx.Request:
        content = None if body is None else json_bytes(body)
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if content is not None:
            sent.append((b"Content-Type", b"application/json"))
        params = dict(query) if query else None
        request = self._http.build_request(method, self._url + path, params=params, content=content, headers=sent)
        if request.url.port is not None and not 0 < request.url.port <= _PORT_MAX:
            raise InvalidInput(f"The port in {self._shown} must be from 1 to {_PORT_MAX}.", field="url")
        return request

    def _unanswered(self) -> contextlib.AbstractContextManager[None]:
        return _unanswered(self._shown)

    @property
    def _shown(self) -> str:
        """The base URL without a password."""
        return _USER_INFO.sub("//", self._url)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


@contextlib.contextmanager
def _unanswered(url: str) -> Iterator[None]:
    """Translates httpx's errors: what matters is whether the request may have been carried out."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InvalidInput(f"{url!r} is no URL; it begins with http:// or https://.", field="url") from error
    except httpx.LocalProtocolError as error:
        raise InvalidInput("The idempotency key holds characters that no header takes.") from error
    except UnicodeEncodeError as error:
        raise InvalidInput("The request holds half of a surrogate pair, which is no text.") from error
    except UnicodeError as error:  # a name of a host that IDNA cannot express
        raise InvalidInput(f"{url!r} names no host.", field="url") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Unanswered(f"{url} cannot be reached: {_reason(error)}.", was_sent=False) from error
    except httpx.TimeoutException as error:
        raise Unanswered(f"{url} did not answer in time.", was_sent=True, is_final=True) from error
    except httpx.HTTPError as error:
        raise Unanswered(f"{url} did not answer: {_reason(error)}.", was_sent=True) from error


def _response(answer: httpx.Response) -> WireResponse:
    headers = answer.headers
    return WireResponse(answer.status_code, _json(answer.content), _seconds(headers), headers.get("x-request-id"))


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _seconds(headers: httpx.Headers) -> float | None:
    """The Retry-After of an answer, where it is a number of seconds and not a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
