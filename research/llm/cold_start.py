"""Starts a RunPod queue endpoint that has no worker up, without sending it the question.

A request on the endpoint's OpenAI route hangs in the queue while a worker starts. After about 100 s RunPod's edge gives
up (HTTP 524), and the queued, paid job runs all the same. So this module asks `/health` first, which is free. If no
worker is up, it sends one small job to `/run`: the list of models, which generates no token. The end of that job shows
that the model answers. `/health` alone does not show it, because a worker counts as ready while vLLM still loads.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from research.llm.client import LLMClient
from research.llm.errors import LLMStarting
from vector_memory.errors import LLMReplyInvalid, ServiceError

log = logging.getLogger(__name__)

# RunPod stops an idle worker after 5 s by default, so an answer shows only for that long that a worker is up.
_FRESH_S = 5.0

# Asking for the state of the queue must not use up the time for the answer.
_PROBE_S_MAX = 5.0

_POLL_S = 2.0

# The time that vLLM has to start in RunPod's worker (VLLM_STARTUP_TIMEOUT). After it the job has failed.
_START_S_MAX = 1_200.0

# A job may be purged or time out, and is then sent again. Without a bound this would leak money.
_JOBS_MAX = 3

# A cached model with half a billion parameters took 105 s to start, so trying again sooner rarely helps.
_RETRY_AFTER_S = 15

_WARM_UP = {"input": {"openai_route": "/v1/models", "openai_input": {}}}
_UNDER_WAY = ("IN_QUEUE", "IN_PROGRESS")


class ColdStart:
    """Knows whether one endpoint has a worker up, and starts one. Any number of waiting questions share one job."""

    def __init__(
        self, client: LLMClient, url: str, *, poll_s: float = _POLL_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch one endpoint. Nothing is sent before the first question.

        Args:
            client: the client of the endpoint.
            url: the root of RunPod's own routes, such as https://api.runpod.ai/v2/abc123.
            poll_s: seconds between two looks at the job.
            now: a clock in seconds that never goes back.
        """
        self._client = client
        self._url = url
        self._poll_s = poll_s
        self._now = now
        self._fresh_until = 0.0
        self._starting: asyncio.Task[None] | None = None

    async def ensure_up(self, wait_s: float) -> None:
        """Return when a worker is up, or when its state is unknown.

        Args:
            wait_s: seconds to wait for a start; 0 only begins it.

        Raises:
            LLMStarting: no worker is up yet.
            ServiceError: RunPod did not accept the start, or it failed.
        """
        if self._now() < self._fresh_until:
            return
        starting = self._task_of_this_loop()
        if starting is None:
            if await self._is_up(min(wait_s or _PROBE_S_MAX, _PROBE_S_MAX)) is not False:
                return
            starting = self._task_of_this_loop() or self._begin()
        await asyncio.wait({starting}, timeout=wait_s)
        if not starting.done() or starting.cancelled():
            raise LLMStarting(
                "The LLM endpoint is starting: none of its workers is up yet, and one has been asked for; "
                f"try again in {_RETRY_AFTER_S} s",
                retry_after_s=_RETRY_AFTER_S,
            )
        starting.result()

    def note_answer(self) -> None:
        """Note that the endpoint has just answered, so a worker is up."""
        self._fresh_until = self._now() + _FRESH_S

    async def close(self) -> None:
        """Stop watching a start. The job itself goes on, since it is paid for."""
        task = self._task_of_this_loop()
        self._starting = None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _task_of_this_loop(self) -> "asyncio.Task[None] | None":
        task = self._starting
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            return None
        return task

    def _begin(self) -> "asyncio.Task[None]":
        self._starting = asyncio.create_task(self._start())
        # Those who wait get its exception. Reading it here keeps asyncio from warning if nobody waits.
        self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._starting

    async def _start(self) -> None:
        log.info("llm.starting")
        try:
            async with asyncio.timeout(_START_S_MAX):
                for _ in range(_JOBS_MAX):
                    if await self._run_warm_up():
                        self.note_answer()
                        return
        except TimeoutError as error:
            raise LLMReplyInvalid(
                f"The LLM endpoint had no worker up after {_START_S_MAX:g} s; its own log says why"
            ) from error
        raise LLMReplyInvalid("RunPod lost the jobs that were to start the LLM endpoint; look at its queue")

    async def _run_warm_up(self) -> bool:
        """Queue the job, wait for its end, and return whether a worker is up then."""
        reply = await self._client.fetch("POST", f"{self._url}/run", _WARM_UP, timeout_s=_PROBE_S_MAX)
        match reply:
            case {"id": str(job)}:
                pass
            case _:
                raise LLMReplyInvalid("RunPod did not accept the job that starts the LLM endpoint; check its id")
        status: object = "IN_QUEUE"
        while status in _UNDER_WAY:
            await asyncio.sleep(self._poll_s)
            status = await self._status(job, status)
        # A worker that does not know the route fails the job, and is up all the same.
        return status in ("COMPLETED", "FAILED") or await self._is_up(_PROBE_S_MAX) is True

    async def _status(self, job: str, before: object) -> object:
        try:
            reply: Any = await self._client.fetch("GET", f"{self._url}/status/{job}", timeout_s=_PROBE_S_MAX)
        except LLMReplyInvalid:
            return "GONE"  # such as 404 after RunPod has purged the job
        except ServiceError:
            return before  # a failed request says nothing about the job
        return reply.get("status") if isinstance(reply, dict) else "GONE"

    async def _is_up(self, timeout_s: float) -> bool | None:
        """Ask /health. None means that the state is unknown, and that the question itself will find out."""
        try:
            reply = await self._client.fetch("GET", f"{self._url}/health", timeout_s=timeout_s)
        except ServiceError:
            return None
        match reply:
            case {"workers": dict() as workers}:
                return any(_count(workers, state) for state in ("ready", "idle", "running"))
        return None


def _count(workers: dict[object, object], state: str) -> int:
    number = workers.get(state)
    return number if isinstance(number, int) else 0
