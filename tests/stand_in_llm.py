"""An OpenAI-compatible server on a real port that answers as a test scripts it, with all that real ones get wrong.

    with StandInLLM(answering("Grimsby [1].")) as server:
        ... LLMSettings(base_url=server.base_url) ...
        assert len(server.requests) == 1

A script is a function that gets the open connection once the request has been read. What is no question, such as
/tokenize or RunPod's /health, has scripts of its own by its path, else it is answered with 404. The server runs in a
thread of its own, so that it serves sync and async tests and other processes alike.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

_START_S_MAX = 10.0
_QUESTIONS = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived: its path, its headers in lower case, and its JSON body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class StandInLLM:
    """Listens on 127.0.0.1 while its `with` block runs, and keeps every request.

    Attributes:
        requests: the questions.
        other_requests: everything else.
        left: set when a client has closed its connection before the script was through.
    """

    def __init__(
        self, script: Script, routes: Mapping[str, Script] | None = None, listener: socket.socket | None = None
    ) -> None:
        """Args:
        routes: scripts of other paths than that of questions.
        listener: a bound port to serve at; default: a free one.
        """
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.requests: list[Received] = []
        self.other_requests: list[Received] = []
        self.left = threading.Event()
        self._arrival = threading.Condition()
        self._script = script
        self._routes = dict(routes or {})
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: Future[tuple[int, Callable[[], object]]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def base_url(self) -> str:
        port, _ = self._ready.result(timeout=_START_S_MAX)
        return f"http://127.0.0.1:{port}/v1"

    @property
    def runpod_url(self) -> str:
        """The same server under a path like that of a RunPod queue endpoint."""
        return f"{self.base_url.removesuffix('/v1')}/v2/abc123/openai/v1"

    async def arrived(self, count: int = 1, path: str = _QUESTIONS) -> None:
        """Wait until so many requests for a path have come."""

        def have_come() -> bool:
            return sum(request.path.endswith(path) for request in (*self.requests, *self.other_requests)) >= count

        def wait() -> None:
            with self._arrival:
                assert self._arrival.wait_for(have_come, _START_S_MAX)

        await asyncio.to_thread(wait)

    def kill(self) -> None:
        """Drop the port and every connection, as a process that is killed does."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._drop, done)
        assert done.wait(_START_S_MAX)

    def _drop(self, done: threading.Event) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        done.set()

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
        self._loop = loop
        self._server = server = await asyncio.start_server(self._handle, sock=self._listener)
        port = server.sockets[0].getsockname()[1]
        self._ready.set_result((port, lambda: loop.call_soon_threadsafe(stopped.set)))
        await stopped.wait()
        server.close()  # Connections that still hang are cancelled with the loop.

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            request = await _read_request(reader)
            is_question = request.path.endswith(_QUESTIONS)
            with self._arrival:
                (self.requests if is_question else self.other_requests).append(request)
                self._arrival.notify_all()
            script = self._script if is_question else self._routes.get(request.path, replying("{}", status=404))
            await self._run(script, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client gave up, as some tests make it do, or the test is over.
        finally:
            self._open.discard(writer)
            writer.close()

    async def _run(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run a script until it is through or the client has gone."""
        running = asyncio.ensure_future(script(writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            # A script that was still writing ends with the connection, often before the end of the reading is noticed.
            if not running.done() or isinstance(running.exception(), ConnectionError):
                self.left.set()
        finally:
            running.cancel()
            leaving.cancel()
            await asyncio.gather(running, leaving, return_exceptions=True)


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


def chunk(content: str | None = None, *, finish_reason: str | None = None, **changes: object) -> dict[str, object]:
    """One event of a streamed completion."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "stand-in", "choices": [choice]} | changes


USAGE: dict[str, object] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def stream_of(*pieces: str, finish_reason: str = "stop") -> list[object]:
    """The events of a usual stream, as vLLM sends them with `include_usage`."""
    return [
        chunk("", choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
        *(chunk(piece) for piece in pieces),
        chunk("", finish_reason=finish_reason),
        chunk(choices=[], usage=USAGE),
        "[DONE]",
    ]


def streaming(
    *events: object,
    cut: bool = False,
    hang: bool = False,
    pause_s: float = 0.0,
    content_type: str = "text/event-stream",
) -> Script:
    """Send events one by one: dicts as JSON, texts as they are; then end well, cut the connection or hang."""

    async def script(writer: asyncio.StreamWriter) -> None:
        lines = ["HTTP/1.1 200 Scripted", f"content-type: {content_type}", "transfer-encoding: chunked"]
        writer.write(("\r\n".join([*lines, "connection: close"]) + "\r\n\r\n").encode())
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            data = f"data: {text}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            await asyncio.sleep(pause_s)
        if hang:
            await asyncio.Event().wait()
        if not cut:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return script


def in_turn(*scripts: Script) -> Script:
    """Another script for every request, the last one for all that follow."""
    left = list(scripts)

    async def script(writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(writer)

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
