"""How requests reach a queue endpoint of RunPod: as jobs, each of which names a route of the HTTP API.

A job goes to `/runsync`, which answers with its outcome or, while no worker is ready, with its state; then `/status` is
asked until it has ended. RunPod keeps a result for a minute after it. Where `/runsync` itself was cut off on the way
(524, after some 100 s), a repeatable request goes to `/run`, which never waits.
"""

import asyncio
import time

from gateway.client.errors import job_failure
from gateway.client.requests import Request, Response, Unanswered
from gateway.client.transports import HTTPTransport
from memory_service.errors import InvalidInput

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

    async def send(self, request: Request) -> Response:
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

    async def stream(self, request: Request) -> Response:
        """Raises:
        InvalidInput: always: a job answers once.
        """
        raise InvalidInput(
            "Research does not stream from a queue endpoint, whose jobs answer once; call research instead.",
            field="stream",
        )

    def _outcome(self, response: Response) -> Response:
        if response.status == 404:
            raise Unanswered(
                f"RunPod knows no endpoint {self._endpoint_id}, or not the job any more.", was_sent=True, is_final=True
            )
        match _state(response):
            case None:
                return response  # an answer of the platform itself: its status says what is wrong
            case "COMPLETED":
                return Response(200, response.body.get("output"), request_id=response.body.get("id"))
            case "FAILED" if response.body.get("error"):
                status, body = job_failure(response.body["error"])
                return Response(status, body, request_id=response.body.get("id"))
            case state:  # cancelled, timed out, or failed because no worker was up to it
                raise Unanswered(f"The job ended as {state}.", was_sent=True, is_final=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def _input(request: Request) -> dict[str, object]:
    """An empty body is one all the same."""
    input: dict[str, object] = {"method": request.method, "path": request.path}
    if request.body is not None:
        input["body"] = request.body
    around = {"query": dict(request.query), "headers": request.headers}
    return input | {name: value for name, value in around.items() if value}


def _state(response: Response) -> str | None:
    """The state of the job that an answer tells of; None when it tells of none."""
    body = response.body
    is_job = response.status == 200 and isinstance(body, dict) and isinstance(body.get("id"), str)
    return body["status"] if is_job and isinstance(body.get("status"), str) else None
