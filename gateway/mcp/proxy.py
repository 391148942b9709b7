"""MCP over stdio for a service that runs elsewhere. Each message becomes one request to the service's /mcp.

The service keeps no state about a client, so it may restart while a client is connected. This module knows only two
parts of the protocol: the headers of its HTTP transport, and the shape of an error.
"""

import asyncio
import base64
import json
import re
import time
from typing import Any

import httpx

from gateway.mcp.greeting import HANDSHAKES, VERSION_KEY, Front

PATIENCE_S = 10.0
"""How long connecting to the service is retried. A restart takes some seconds."""

PAUSE_S = 0.2
"""Wait between two attempts to connect."""

ANSWER_S_MAX = 300.0
"""How long an answer may take. Research waits for an LLM."""

_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The parameter that the header Mcp-Name repeats, for each method that has this header."""

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""Visible ASCII without spaces at either end. A header can carry such a value as it is."""


def serve(url: str, front: Front) -> None:
    """Pass messages on until the client closes its end.

    Args:
        url: the URL of the service, such as http://127.0.0.1:8000, or the URL of its /mcp.
        front: the connection to the client.
    """
    asyncio.run(Proxy(url, front).run())


class Proxy:
    """A proxy that forwards a client's messages to the service. Requests run concurrently."""

    def __init__(self, url: str, front: Front) -> None:
        self.url = url.rstrip("/") if url.rstrip("/").endswith("/mcp") else f"{url.rstrip('/')}/mcp"
        self._front = front
        self._version = HANDSHAKES[-1]
        self._running: dict[object, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Forward messages until the client closes its end, then wait for the answers that are still open."""
        timeout = httpx.Timeout(ANSWER_S_MAX, connect=PATIENCE_S)
        async with httpx.AsyncClient(timeout=timeout) as http:
            while (line := await asyncio.to_thread(self._front.line)) is not None:
                self._take(http, line)
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _take(self, http: httpx.AsyncClient, line: str) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "This is no JSON."}})
            return
        match message:
            case {"method": "initialize"} if message == self._front.opening:
                asked = message["params"]["protocolVersion"]
                self._version = asked if asked in HANDSHAKES else HANDSHAKES[-1]
                return  # the front has answered it, and the service keeps no state
            case {"method": "server/discover"} if message == self._front.opening:
                return
            case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as id}}:
                # Cancelling the task closes the HTTP request, and the protocol wants no answer to a cancelled request.
                if id in self._running:
                    self._running[id].cancel()
                return
            case {"method": str(), "id": str() | int() as id}:
                pass
            case {"method": str()}:
                return  # the service is stateless, so a notification has no effect there
            case _:
                error = {"code": -32600, "message": "This is no request; send one JSON-RPC message a line."}
                self._send({"jsonrpc": "2.0", "id": None, "error": error})
                return
        task = asyncio.create_task(self._pass_on(http, message, line))
        self._running[id] = task
        task.add_done_callback(lambda _: self._running.pop(id, None))

    async def _pass_on(self, http: httpx.AsyncClient, message: dict[str, Any], line: str) -> None:
        try:
            response = await self._posted(http, message, line)
            answer = _answer(response)
        except httpx.ConnectError as error:
            what = f"The memory service at {self.url} cannot be reached ({error})"
            self._send(_failure(message, f"{what}; is it running? `vector-memory serve` starts it."))
        except httpx.HTTPError as error:
            what = f"The memory service at {self.url} did not answer ({type(error).__name__})"
            self._send(_failure(message, f"{what}; look whether the call was carried out before you repeat it."))
        else:
            if answer is None:
                text = response.text[:200]
                answer = _failure(message, f"{self.url} answered with status {response.status_code}: {text}")
            self._send(answer)

    async def _posted(self, http: httpx.AsyncClient, message: dict[str, Any], line: str) -> httpx.Response:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await http.post(self.url, content=line.encode(), headers=self._headers(message))
            except httpx.ConnectError:
                # Nothing was sent yet, so a retry cannot carry out the call twice.
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(PAUSE_S)

    def _headers(self, message: dict[str, Any]) -> dict[str, str]:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": _header(version if isinstance(version, str) else self._version),
            "mcp-method": _header(message["method"]),
        }
        # The service refuses a request whose headers and body differ, so both come from the same message.
        name = params.get(_NAMED.get(message["method"], ""))
        return {**headers, "mcp-name": _header(name)} if isinstance(name, str) else headers

    def _send(self, message: dict[str, Any]) -> None:
        self._front.write(json.dumps(message))


def _header(text: str) -> str:
    """Return a header value in the transport's form. A text that a header cannot carry becomes framed base64."""
    if _PLAIN.fullmatch(text) and not text.startswith("=?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode()}?="


def _answer(response: httpx.Response) -> dict[str, Any] | None:
    """Return the JSON-RPC answer in a response, or None if the response contains no such answer."""
    try:
        answer = response.json()
    except ValueError:
        return None
    is_answer = isinstance(answer, dict) and ("result" in answer or answer.get("jsonrpc") == "2.0")
    return answer if is_answer else None


def _failure(message: dict[str, Any], sentence: str) -> dict[str, Any]:
    frame = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/call":
        # Clients show a tool's result to the model, but not a protocol error.
        content = [{"type": "text", "text": sentence}]
        return {**frame, "result": {"content": content, "isError": True, "resultType": "complete"}}
    return {**frame, "error": {"code": -32603, "message": sentence}}
