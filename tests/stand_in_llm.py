"""An OpenAI-compatible server on a real port that answers as a test scripts it, with all that real ones get wrong.

    with StandInLLM(answering("Grimsby [1].")) as server:
        ... LLMSettings(base_url=server.base_url) ...
        assert len(server.requests) == 1

A script is a function that gets the open connection once the request has been read. The server runs in a thread of
its own, so that it serves sync and async tests and other processes alike.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

_START_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """A POST that arrived: its path, its headers in lower case, and its JSON body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class StandInLLM:
    """Listens on 127.0.0.1 while its `with` block runs, and keeps every request."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Received] = []
        self._script = script
        self._ready: Future[tuple[int, Callable[[], object]]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def base_url(self) -> str:
        port, _ = self._ready.result(timeout=_START_S_MAX)
        return f"http://127.0.0.1:{port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=_START_S_MAX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _, stop = self._ready.result(timeout=_START_S_MAX)
        stop()
        self._thread.join(timeout=_START_S_MAX)

    async def _serve(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self._ready.set_result((port, lambda: loop.call_soon_threadsafe(stopped.set)))
        await stopped.wait()
        server.close()  # Connections that still hang are cancelled with the loop.

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await _read_request(reader))
            await self._script(writer)
        except ConnectionError:
            pass  # The client gave up, as some tests make it do.
        finally:
            writer.close()


def completion(content: object, **changes: object) -> dict[str, object]:
    """The body of a usual chat completion, with top-level fields changed or added."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "stand-in",
        "choices": [choice],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    } | changes


def answering(content: str) -> Script:
    """Answer every question with this text."""
    return replying(json.dumps(completion(content)))


def replying(body: str, *, status: int = 200, content_type: str = "application/json") -> Script:
    """Answer with any status and body."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, content_type, len(body.encode())) + body.encode())
        await writer.drain()

    return script


async def hanging(writer: asyncio.StreamWriter) -> None:
    """Take the request and never answer."""
    await asyncio.Event().wait()


async def hanging_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection instead of answering."""


def cutting_off(body: str) -> Script:
    """Promise the whole body, send half of it and close the connection."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "application/json", len(body.encode())) + body.encode()[: len(body) // 2])
        await writer.drain()

    return script


def dripping(body: str, *, pause_s: float) -> Script:
    """Send the body byte by byte, so that no single read takes long and the whole never ends in time."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "application/json", len(body.encode())))
        for byte in body.encode():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_s)

    return script


def _head(status: int, content_type: str, length: int) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {content_type}", f"content-length: {length}"]
    return ("\r\n".join([*lines, "connection: close"]) + "\r\n\r\n").encode()


async def _read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(path=request_line.split(" ")[1], headers=headers, body=json.loads(body or b"{}"))
