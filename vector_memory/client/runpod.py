"""The transport over a RunPod queue endpoint. Each request is a job that names a route of the HTTP API.

A job is sent to `/runsync`. RunPod answers with the job's outcome, or with its state while no worker is ready. In the
second case `/status` is polled until the job has ended. RunPod keeps a result for one minute after the end. If a proxy
cuts `/runsync` off (status 524, after about 100 s), a repeatable request is sent to `/run`, which never waits. A job
that streams is sent to `/run` too. `/stream` then returns what the job has written since the last poll.
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
"""First and longest pause between two polls of a job, in seconds. Each pause is 1.5 times as long as the one before.
2 s is far below the minute for which RunPod keeps a result. The polls stay far below the 2,000 requests in 10 s that an
endpoint accepts."""


class RunPodTransport:
    """Carries requests to a RunPod queue endpoint as jobs.

        transport = RunPodTransport("abc123", api_key=os.environ["RUNPOD_API_KEY"], timeout_s=300)
        memories = Client.over(transport)

    `Client.runpod` makes this transport. `timeout_s` bounds a job, or the silence of a job that streams.
    """

    def __init__(self, endpoint_id: str, *, api_key: str, timeout_s: float, url: str = RUNPOD_URL) -> None:
        self._endpoint_id = endpoint_id
        self._timeout_s = timeout_s
        self._http = HTTPTransport(f"{url.rstrip('/')}/{endpoint_id}", api_key=api_key, timeout_s=timeout_s)

    async def send(self, request: WireRequest) -> WireResponse:
        """Send a request as a job and wait until the job has ended.

        Raises:
            Unanswered: the job did not end in time, or ended without an answer of the service.
            InvalidInput: the request cannot be sent.
        """
        deadline_s = time.monotonic() + self._timeout_s
        job = {"input": _input(request)}
        response = await self._http.post_or_get("POST", "/runsync", body=job)
        # The first job may be running all the same, so only a repeatable request is sent a second time.
        if response.status == _CUT_OFF and request.is_repeatable:
            response = await self._http.post_or_get("POST", "/run", body=job)
        pause_s = POLL_FIRST_S
        while (state := _state(response)) in _WAITING:
            # Give up now if the next poll would come after the deadline.
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
        """Start a job and wait until its events begin. A worker streams only if the operator set MEMORY_JOB_STREAMING.

        Raises:
            Unanswered: the job wrote nothing in time, or ended without an answer of the service.
            InvalidInput: the request cannot be sent.
        """
        response = await self._http.post_or_get("POST", "/run", body={"input": _input(request)})
        if _state(response) is None:
            return self._outcome(response)  # RunPod refused the job
        job_id = response.body["id"]
        told = self._told(job_id)
        try:
            first = await anext(told)
        except StopAsyncIteration:
            # The job ended without streaming anything, so its result is the whole answer.
            return self._outcome(await self._http.post_or_get("GET", f"/status/{job_id}"))
        except BaseException:
            await told.aclose()  # its `finally` cancels the job
            raise
        return WireResponse(200, None, request_id=job_id, events=_events(first, told))

    async def _told(self, job_id: str) -> AsyncGenerator[str]:
        """Yield the parts that a job streams. Closing this generator before the end cancels the job."""
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
                # A job that has ended may still have unread parts, so only an empty answer ends the stream.
                if state not in _WAITING and not parts:
                    return
                if parts:
                    pause_s, silent_s = POLL_FIRST_S, 0.0
                # The timeout bounds the silence and not the whole stream, which may take longer.
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
            # The job may still run, and nobody reads the rest. A failure to cancel must not hide the first error.
            if state is None or state in _WAITING:
                with suppress(Unanswered):
                    await self._http.post_or_get("POST", f"/cancel/{job_id}")

    def _outcome(self, response: WireResponse) -> WireResponse:
        # The service's own 404 arrives inside a failed job; this one is RunPod's.
        if response.status == 404:
            raise Unanswered(
                f"RunPod knows no endpoint {self._endpoint_id}, or not the job any more.", was_sent=True, is_final=True
            )
        match _state(response):
            case None:
                return response  # RunPod itself answered, and its status says what is wrong
            case "COMPLETED":
                return WireResponse(200, _output(response.body.get("output")), request_id=response.body.get("id"))
            case "FAILED" if response.body.get("error"):
                status, body = job_failure(response.body["error"])
                return WireResponse(status, body, request_id=response.body.get("id"))
            case state:  # cancelled, timed out, or failed without an error of a worker
                raise Unanswered(f"The job ended as {state}.", was_sent=True, is_final=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def _input(request: WireRequest) -> dict[str, object]:
    input: dict[str, object] = {"method": request.method, "path": request.path}
    # An empty object is a body too, so only None leaves it out.
    if request.body is not None:
        input["body"] = request.body
    around = {"query": dict(request.query), "headers": request.headers}
    return input | {name: value for name, value in around.items() if value}


def _output(output: object) -> object:
    """Return the answer in a job's output. A worker that can stream wraps it in a list of one item."""
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
    """Return the state of the job that a response describes, or None if it describes no job."""
    body = response.body
    is_job = response.status == 200 and isinstance(body, dict) and (not has_id or isinstance(body.get("id"), str))
    return body["status"] if is_job and isinstance(body.get("status"), str) else None
