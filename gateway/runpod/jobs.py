"""RunPod jobs. Each job becomes one request to the HTTP application, so a job and a request return the same body.

A job's `input` has one of these shapes:

    {"action": "store", "content": ...}                      one of `actions()`, with the fields of its operation
    {"method": "GET", "path": "/v1/memories", "query": ...}  a route, with `query`, `body` and `headers`
    {"openai_route": "/v1/...", "openai_input": {...}}       how RunPod delivers a call of its OpenAI-compatible URL

A success returns the response's body. For an OpenAI route it returns a list with the body as its only item, because
RunPod passes on the first item of a list. A failure returns {"error": text}. The text is a JSON object with code,
message, status and request_id, and with the field that is wrong (OpenAI's routes call it param). It is a text because
RunPod's SDK mishandles errors that are objects.

If jobs may stream, a chat or a research that asks for a stream yields server-sent events as texts. Any other job
yields one object.

This module does not know RunPod's SDK; `handler.py` does. Below: the application.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from gateway.http.errors import status_of
from gateway.serving.app import create_app
from gateway.serving.in_process import InProcessTransport
from gateway.serving.worker import Worker
from vector_memory import operations
from vector_memory.errors import InvalidInput, LimitExceeded, ServiceError, Unavailable
from vector_memory.operations import OPERATIONS

log = logging.getLogger(__name__)

RESULT_BYTES_MAX = 20_000_000
"""Upper bound on a job's result: 20 MB, the limit of /runsync in RunPod's operation reference.

A larger result is silently lost: the SDK sends it, the platform refuses it, and the caller waits until the job times
out.
"""

LOADING_S_MAX = 300.0
"""How long a job waits for a worker that is loading. By default RunPod ends a job after twice this time."""

TEST_JOB_ID = "local_test"
"""The id that the SDK gives to every job of `--test_input`. All of them share it, so it is no idempotency key."""


_INVOKE_TOOL = "invoke_tool"
_PING = "ping"


def actions() -> list[str]:
    """Return the names that a job's `action` may have: the operations, `invoke_tool` and `ping`."""
    # `invoke_tool` replaces `call_tool`: its fields say which tool is meant, so a job needs no path.
    return [*(name for name in OPERATIONS if name != operations.CALL_TOOL.name), _INVOKE_TOOL, _PING]


_CHAT, _MODELS = "/v1/chat/completions", "/v1/models"
_STREAMING = frozenset({operations.RESEARCH.path, _CHAT})
"""Paths that can answer with a stream."""

_SHAPES = (
    'send {"action": "retrieve", "query": ...} or {"method": "POST", "path": "/v1/memories/retrieve", "body": ...}'
)
_ROUTE_FIELDS = frozenset({"method", "path", "query", "body", "headers"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding"})
"""Headers that describe the bytes of a request. A caller's values are ignored, because the bytes are made here."""

_SDK_KEYS = frozenset({"error", "refresh_worker"})
"""Keys that the SDK acts on in a job's output. `error` fails the job, and `refresh_worker` restarts the worker."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A job's input as the parts of a request. A `body` of None, or a None in `query`, is not sent."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


class JobRunner:
    """A runner for all jobs of one event loop. The first job opens the application; the end of the loop closes it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._app = create_app(worker)
        self._transport = InProcessTransport(self._app)
        self._holding: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()

    async def run(self, job: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
        """Run a job and return its output. A failure is an output too; only a cancellation is raised."""
        async with aclosing(self._items(job, may_stream=False)) as items:
            [output] = [item async for item in items]
        assert isinstance(output, dict), "only events are texts, and there are none"
        return [output] if _is_of_openai(job) and "error" not in output else output

    async def stream(self, job: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any] | str]:
        """Run a job and yield the items of its output: server-sent events as they come, or one object as in `run`."""
        async with aclosing(self._items(job, may_stream=True)) as items:
            async for item in items:
                yield item

    async def _items(self, job: Mapping[str, Any], *, may_stream: bool) -> AsyncGenerator[dict[str, Any] | str]:
        job_id = str(job.get("id", ""))
        try:
            request = translated(job, may_stream=may_stream)
            await self._open()
            await self._loaded()
            response = await self._transport.handle_async_request(request)
            async with aclosing(response):
                if may_stream and response.headers.get("content-type", "").startswith("text/event-stream"):
                    async for part in response.aiter_raw():
                        yield part.decode()
                    return
                content = await response.aread()
            yield await asyncio.to_thread(_output, response.status_code, content, job_id)
        except ServiceError as error:
            yield _failed(error.body(job_id), status_of(error))
        except Exception:  # this is the last edge: the operator gets the traceback, and the caller a sentence
            log.exception("job.crashed", extra={"job_id": job_id})
            crash = ServiceError(
                "Something went wrong inside the service; its log has the details under this job's id."
            )
            yield _failed(crash.body(job_id), status_of(crash))

    async def _open(self) -> None:
        """Enter the application's lifespan, because the transport does not do it."""
        if self._holding is None:
            self._holding = asyncio.create_task(self._hold())
        await self._opened.wait()
        if self._holding.done():
            # The task ends early only if the application could not start. Awaiting it raises the reason.
            await self._holding

    async def _hold(self) -> None:
        """Keep the lifespan open until `asyncio.run` ends. `asyncio.run` cancels this task and waits for it."""
        try:
            async with self._app.router.lifespan_context(self._app):
                self._opened.set()
                await asyncio.Event().wait()
        finally:
            self._opened.set()  # after a failed start too, so that no job waits for ever

    async def _loaded(self) -> None:
        # A job that comes while the worker loads waits. If the wait is not enough, the application refuses the request.
        if not self._worker.is_ready:
            await asyncio.to_thread(self._worker.wait, LOADING_S_MAX)


def translated(job: Mapping[str, Any], *, may_stream: bool = False) -> httpx.Request:
    """Translate a job into the request that it describes.

    RunPod delivers a job at least once, so the job's id serves as the idempotency key unless the input has its own.

    Args:
        job: the job as the SDK delivers it, with `id` and `input`.
        may_stream: whether research and chat may ask for a stream. Other paths never stream.

    Raises:
        InvalidInput: the input has none of the known shapes, it cannot be sent, or it asks for a stream that jobs do
            not offer.

    """
    delivery = job.get("id")
    call = _call(job.get("input"))
    is_streamed = isinstance(call.body, dict) and call.body.get("stream") is True and call.path in _STREAMING
    if is_streamed and not may_stream:
        raise InvalidInput(
            "Jobs do not stream here; leave stream out, or have the operator set MEMORY_JOB_STREAMING.", field="stream"
        )
    headers = {"content-type": "application/json", **call.headers}
    if isinstance(delivery, str) and delivery not in ("", TEST_JOB_ID):
        headers = {"x-request-id": delivery, "idempotency-key": delivery, **headers}  # the caller's own headers win
    try:
        return httpx.Request(
            call.method,
            f"http://worker{call.path}",
            params={name: _query_text(value) for name, value in call.query.items() if value is not None} or None,
            content=None if call.body is None else _json(call.body),
            # httpx encodes text headers as ASCII; these are UTF-8.
            headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        )
    except UnicodeEncodeError as error:
        raise InvalidInput("input holds half of a surrogate pair, which is no text.", field="input") from error
    except httpx.InvalidURL as error:
        raise InvalidInput(f"The path or the query cannot be sent: {error}.", field="path") from error


def _call(input: Any) -> _Call:
    match input:
        case {"openai_route": route}:
            return _of_openai(route, input.get("openai_input"))
        case {"action": name}:
            return _of_action(name, {key: value for key, value in input.items() if key != "action"})
        case {"method": _} | {"path": _}:
            return _of_route(input)
        case dict():
            raise InvalidInput(f"input names neither an action nor a path; {_SHAPES}.", field="input")
    raise InvalidInput(f"input must be a JSON object; {_SHAPES}.", field="input")


def _of_action(name: object, fields: dict[str, Any]) -> _Call:
    if name == "delete" and "key" not in fields and fields.keys() & {"keys", "filter"}:
        # A job may say `delete` for both operations. The fields show which one is meant.
        name = "delete_many"
    if name not in actions():
        raise InvalidInput(f"There is no such action; there are {', '.join(actions())}.", field="action")
    idempotency_key = fields.pop("idempotency_key", None)
    headers = {} if idempotency_key is None else {"idempotency-key": _text(idempotency_key, "idempotency_key")}
    if name == _PING:
        return _Call("GET", "/ping", query=fields)
    if name == _INVOKE_TOOL:
        # POST /v1/tools takes the action itself in its body.
        return _Call("POST", operations.LIST_TOOLS.path, body={"action": name, **fields}, headers=headers)
    operation = OPERATIONS[str(name)]
    parts = operation.parts(fields)
    body = parts.body if operation.has_body else None
    return _Call(parts.method, parts.path, query=parts.query, body=body, headers=headers)


def _of_route(route: Mapping[str, Any]) -> _Call:
    unknown = sorted(route.keys() - _ROUTE_FIELDS)
    if unknown:
        raise InvalidInput(f"{unknown[0]} is no part of a route; does it belong into body?", field=unknown[0])
    path = _path(route.get("path"), "path")
    headers = {name.lower(): _text(value, f"headers.{name}") for name, value in _object(route, "headers").items()}
    return _Call(
        _text(route.get("method"), "method").upper(),
        path,
        query=_object(route, "query"),
        body=route.get("body"),
        headers={name: value for name, value in headers.items() if name not in _OWN_HEADERS},
    )


def _of_openai(route: object, body: object) -> _Call:
    path = _path(route, "openai_route")
    # RunPod does not pass on the HTTP method. Among OpenAI's routes here, only those of models are read with GET.
    if path == _MODELS or path.startswith(f"{_MODELS}/"):
        return _Call("GET", path)
    return _Call("POST", path, body=body)


def _is_of_openai(job: Mapping[str, Any]) -> bool:
    return isinstance(job.get("input"), dict) and "openai_route" in job["input"]


def _path(value: object, field: str) -> str:
    path = _text(value, field)
    if not path.startswith("/") or "?" in path or "#" in path:
        raise InvalidInput(f"{field} must begin with / and have no query in it, such as /v1/memories.", field=field)
    return path


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{field} is required." if value is None else f"{field} must be a string.", field=field)
    return value


def _object(route: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = route.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} must be a JSON object.", field=field)
    return value


def _query_text(value: object) -> str:
    return value if isinstance(value, str) else _json(value).decode()


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput("input holds NaN or Infinity, or is nested too deeply.", field="input") from error


def _output(status: int, content: bytes, job_id: str) -> dict[str, Any]:
    """Return the job's output for a response of the application.

    Raises:
        LimitExceeded: the response is larger than RunPod carries.
        InvalidInput: the response is not JSON.
        Unavailable: the response is empty.

    """
    if not content:
        raise Unavailable  # /ping answers with an empty body while the worker loads
    _check_size(len(content))  # refuse a huge body before it is parsed
    try:
        body = json.loads(content)
    except ValueError as error:
        raise InvalidInput(
            "This path does not answer in JSON, and a job can carry nothing else.", field="path"
        ) from error
    if status >= HTTPStatus.BAD_REQUEST:
        return _failed(body.get("error") or Unavailable().body(job_id), status)
    # The SDK encodes the body again, with other spacing, so measure the bytes that it will post.
    _check_size(len(json.dumps({"output": body}, allow_nan=False, ensure_ascii=False).encode()))
    assert isinstance(body, dict), "every response of ours is an object"
    assert not body.keys() & _SDK_KEYS, "no response of ours has a key of the SDK's at its top level"
    return body


def _check_size(count: int) -> None:
    if count > RESULT_BYTES_MAX:
        raise LimitExceeded(
            f"The result has {count} bytes, RunPod carries {RESULT_BYTES_MAX}; ask for less, by a smaller k or limit."
        )


def _failed(error: Mapping[str, Any], status: int) -> dict[str, Any]:
    # The text is ASCII, because the SDK fails on half a surrogate pair and a message may quote one.
    return {"error": json.dumps({**error, "status": status})}
