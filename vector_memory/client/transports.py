"""The interface of every transport, and the transport over HTTP."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from vector_memory.client.requests import Unanswered, WireRequest, WireResponse, json_bytes
from vector_memory.errors import InvalidInput
from vector_memory.server_sent import EventReader, ServerSentEvent

if TYPE_CHECKING:  # importing httpx takes as long as everything else here, so the first client pays for it
    import httpx

USER_AGENT = "vector-memory"
_EVENT_STREAM = "text/event-stream"

_USER_INFO = re.compile(r"//[^/?#]*@")
"""Matches the user and password in a URL. They are removed before a URL appears in a message."""

_PORT_MAX = 65_535


class Transport(Protocol):
    """Carries requests to the service and returns its responses.

        transport: Transport = HTTPTransport("http://127.0.0.1:8000", timeout_s=10)
        async with AsyncClient.over(transport) as memories:
            print(await memories.health())

    A class with these three methods reaches the service in another way.
    """

    async def send(self, request: WireRequest) -> WireResponse:
        """Send a request and wait for the response.

        Raises:
            Unanswered: no response came.
            InvalidInput: the request cannot be sent.
        """

    async def stream(self, request: WireRequest) -> WireResponse:
        """Send a request whose answer streams, and wait until its `events` begin.

        The response to a request that failed before has no `events`.

        Raises:
            Unanswered: no response came.
            InvalidInput: the request cannot be sent, or this transport does not stream.
        """

    async def close(self) -> None:
        """Release the connections, and whatever else the transport holds."""


class HTTPTransport:
    """Carries requests to the HTTP API at a base URL."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        import httpx

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
        """Send a request to a path below the base URL and wait for the response.

        Raises:
            Unanswered: no response came.
            InvalidInput: the request cannot be sent.
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
            # No stream: the request failed, or something in front of the service answered.
            await answer.aread()
            return _response(answer)

    async def _events(self, answer: "httpx.Response") -> AsyncGenerator[ServerSentEvent]:
        reader = EventReader()
        try:
            with self._unanswered():
                async for piece in answer.aiter_bytes():
                    for event in reader.feed(piece):
                        yield event
        finally:
            await answer.aclose()  # also when the caller stops early, which tells the service to stop

    def _built(
        self, method: str, path: str, *, query: Any, body: Any, headers: dict[str, str] | None
    ) -> "httpx.Request":
        content = None if body is None else json_bytes(body)
        # httpx encodes text in headers as ASCII, but an idempotency key may hold any character.
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if content is not None:
            sent.append((b"Content-Type", b"application/json"))
        params = dict(query) if query else None
        request = self._http.build_request(method, self._url + path, params=params, content=content, headers=sent)
        # Refuse a port that cannot be connected to here, where the error can name the field.
        if request.url.port is not None and not 0 < request.url.port <= _PORT_MAX:
            raise InvalidInput(f"The port in {self._shown} must be from 1 to {_PORT_MAX}.", field="url")
        return request

    def _unanswered(self) -> contextlib.AbstractContextManager[None]:
        return _unanswered(self._shown)

    @property
    def _shown(self) -> str:
        """The base URL without user and password, for messages."""
        return _USER_INFO.sub("//", self._url)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


@contextlib.contextmanager
def _unanswered(url: str) -> Iterator[None]:
    """Translate httpx's errors. What matters is whether the service may have carried the request out."""
    import httpx

    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InvalidInput(f"{url!r} is no URL; it begins with http:// or https://.", field="url") from error
    except httpx.LocalProtocolError as error:
        raise InvalidInput("The idempotency key holds characters that no header takes.") from error
    except UnicodeEncodeError as error:
        raise InvalidInput("The request holds half of a surrogate pair, which is no text.") from error
    except UnicodeError as error:  # IDNA cannot express the host's name
        raise InvalidInput(f"{url!r} names no host.", field="url") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        # There was no connection, so the request never left.
        raise Unanswered(f"{url} cannot be reached: {_reason(error)}.", was_sent=False) from error
    except httpx.TimeoutException as error:
        # The whole time has passed, so another attempt would come too late.
        raise Unanswered(f"{url} did not answer in time.", was_sent=True, is_final=True) from error
    except httpx.HTTPError as error:
        # The connection broke, perhaps after the request had arrived.
        raise Unanswered(f"{url} did not answer: {_reason(error)}.", was_sent=True) from error


def _response(answer: "httpx.Response") -> WireResponse:
    headers = answer.headers
    return WireResponse(answer.status_code, _json(answer.content), _seconds(headers), headers.get("x-request-id"))


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _seconds(headers: "httpx.Headers") -> float | None:
    """Return the Retry-After header in seconds, or None if it is absent or a date."""
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
