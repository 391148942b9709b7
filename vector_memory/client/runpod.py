"""How requests reach a queue endpoint of RunPod: as jobs, each of which names a route of the HTTP API.

A job goes to `/runsync`, which answers with its outcome or, while no worker is ready, with its state; then `/status` is
asked until it has ended. RunPod keeps a result for a minute after it. Where `/runsync` itself was cut off on the way
(524, after some 100 s), a repeatable request goes to `/run`, which never waits. A job that streams goes there too, and
`/stream` tells what it has said since it was last asked.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from vector_memory.client.errors import job_failure
from vector_memory.client.requests import Unanswered, WireRequest, WireResponse
from vector_memory.client.transports import HTTPTransport
from vector_memory.server_sent import EventReader, ServerSentEvent

RUNPOD_URL = "https://api.runpod.ai/v2"

_CUT_OFF = 524
_WAITING = ("IN_QUEUE", "IN_PROGRESS")

POLL_FIRST_S, POLL_MOST_S = 0.1, 2.0
"""The pause between two looks at a job; each is half as long again as the one before. The bound keeps far from the
minute for which a result is kept, and from the 2,000 requests in 10 s that an endpoint takes."""


class RunPodTransport:
    """A queue endpoint."""

    def __init__(self, endpoint_id: str, *, api_key: str, timeout_s: float, url: str = RUNPOD_URL) -> None:
        self._endpoint_id = endpoint_id
        self._timeout_s = timeout_s
        self._http = HTTPTransport(f"{url.rstrip('/')}/{endpoint_id}", api_key=api_key, timeout_s=timeout_s)

    async def send(self, request: WireRequest) -> WireResponse:
        """Have a job done and wait for its end."""
        deadline_s = time.monotonic() + self._timeout_s
        job = {"input": _input(request)}
        response = await self._http.post_or_get("POST", "/runsync", body=job)
        if response.status == _CUT_OFF and request.is_repeatable:
            response = await self._http.post_or_get("POST", "/run", body=job)
        pause_s = POLL_FIRST_S
        while (state := _state(response)) in _WAITING:
            if time.monotonic() + pause_s > deadline_s:
                raise Unanswered(
                    f"The job on endpoint {self._endpoint_id} is still {state} after {self._timeout_s:g} s.",
                    was_sent=True,
                    is_final=True,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(POLL_MOST_S, pause_s * 1.5)
            response = await self._http.post_or_get("GET", f"/status/{response.body['id']}")
        return self._outcome(response)

    async def stream(self, request: WireRequest) -> WireResponse:
        """Start a job and wait until its events begin; it streams where the operator set MEMORY_JOB_STREAMING."""
        response = await self._http.post_or_get("POST", "/run", body={"input": _input(request)})
        if _state(response) is None:
            return self._outcome(response)
        job_id = response.body["id"]
        told = self._told(job_id)
        try:
            first = await anext(told)
        except StopAsyncIteration:
            return self._outcome(await self._http.post_or_get("GET", f"/status/{job_id}"))
        except BaseException:
            await told.aclose()
            raise
        return WireResponse(200, None, request_id=job_id, events=_events(first, told))

    async def _told(self, job_id: str) -> AsyncGenerator[str]:
        """What a job streams, part by part; left before its end, it is cancelled."""
        pause_s, silent_s = POLL_FIRST_S, 0.0
        state: str | None = None
        try:
            while True:
                response = await self._http.post_or_get("GET", f"/stream/{job_id}")
                state = _state(response, has_id=False)
                if state is None:
                    raise Unanswered(f"/stream of job {job_id} answered {response.status}.", was_sent=True)
                parts = [part for each in response.body.get("stream") or () if isinstance(part := each["output"], str)]
                for part in parts:
                    yield part
                if state not in _WAITING and not parts:
                    return
                if parts:
                    pause_s, silent_s = POLL_FIRST_S, 0.0
                elif silent_s > self._timeout_s:
                    raise Unanswered(
                        f"The job on endpoint {self._endpoint_id} has said nothing for {self._timeout_s:g} s.",
                        was_sent=True,
                        is_final=True,
                    )
                await asyncio.sleep(pause_s)
                silent_s += pause_s
                pause_s = min(POLL_MOST_S, pause_s * 1.5)
        finally:
            if state is None or state in _WAITING:
                with suppress(Unanswered):
                    await self._http.post_or_get("POST", f"/cancel/{job_id}")

    def _outcome(self, response: WireResponse) -> WireResponse:
        if response.status == 404:
            raise Unanswered(
                f"RunPod knows no endpoint {self._endpoint_id}, or not the job any more.", was_sent=True, is_final=True
            )
        match _state(response):
            case None:
                return response  # an answer of the platform itself: its status says what is wrong
            case "COMPLETED":
                return WireResponse(200, _output(response.body.get("output")), request_id=response.body.get("id"))
            case "FAILED" if response.body.get("error"):
                status, body = job_failure(response.body["error"])
                return WireResponse(status, body, request_id=response.body.get("id"))
            case state:  # cancelled, timed out, or failed because no worker was up to it
                raise Unanswered(f"The job ended as {state}.", was_sent=True, is_final=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def _input(request: WireRequest) -> dict[str, object]:
    """An empty body is one all the same."""
    input: dict[str, object] = {"method": request.method, "path": request.path}
    if request.body is not None:
        input["body"] = request.body
    around = {"query": dict(request.query), "headers": request.headers}
    return input | {name: value for name, value in around.items() if value}


def _output(output: object) -> object:
    """Of a job that could have streamed it is a list, of one item when it did not."""
    return output[0] if isinstance(output, list) and len(output) == 1 else output


async def _events(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[ServerSentEvent]:
    reader = EventReader()
    async with aclosing(rest):
        for event in reader.feed(first.encode()):
            yield event
        async for part in rest:
            for event in reader.feed(part.encode()):
                yield event


def _state(response: WireResponse, *, has_id: bool = True) -> str | None:
    """The state of the job that an answer tells of; None when it tells of none."""
    body = response.body
    is_job = response.status == 200 and isinstance(body, dict) and (not has_id or isinstance(body.get("id"), str))
    return body["status"] if is_job and isinstance(body.get("status"), str) else None
