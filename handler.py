"""Entry point on RunPod: `python handler.py`.

MEMORY_SERVICE_MODE chooses between the jobs of a queue endpoint and HTTP for a load-balancing one. The only module that
knows RunPod's SDK. Nothing happens at import; what the SDK takes from the command line (`--test_input`,
`--rp_serve_api`) works here too.
"""

import asyncio
import importlib.util
import logging
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

from gateway.observability import logs
from gateway.runpod.jobs import JobRunner
from gateway.serving.server import bound, serve
from gateway.serving.worker import Worker
from gateway.settings import Settings, keep_runpod_quiet, load
from vector_memory.errors import StartupError

log = logging.getLogger(__name__)

EVERYWHERE = "0.0.0.0"  # noqa: S104 - RunPod's load balancer comes from outside the container


def main() -> None:
    """Run until SIGTERM, or say in one line why not."""
    try:
        settings = worker().settings
        logs.configure(settings.gateway.log_level)
        match settings.gateway.service_mode:
            case "queue":
                give_up_root(settings)
                run_jobs(worker())
            case "load_balancing":
                with bound(EVERYWHERE, settings.gateway.runpod_port) as listener:  # root alone may open port 80
                    give_up_root(settings)
                    serve(worker(), listener)
    except StartupError as error:
        raise SystemExit(f"vector-memory: {error}") from error


@cache
def worker() -> Worker:
    """The services of this process."""
    return Worker(load())


@cache
def runner() -> JobRunner:
    """What runs the jobs of this process."""
    return JobRunner(worker())


async def handler(job: dict[str, Any]) -> dict[str, Any] | list[Any]:
    """Run one job. The SDK judges a handler by inspecting it, so this stays a plain coroutine function."""
    return await runner().run(job)


async def streaming_handler(job: dict[str, Any]) -> AsyncGenerator[dict[str, Any] | str]:
    """Run one job to the items of its output, of which the SDK makes a list; for it, this is an async generator."""
    async with aclosing(runner().stream(job)) as items:
        async for item in items:
            yield item


def run_jobs(worker: Worker) -> None:
    """Load, then run jobs until the SDK's loop ends; on SIGTERM it does so when the running jobs are answered.

    Loading comes first: a job that this worker cannot run yet is for another one to take, the loop's start forks a
    process for its heartbeat, and a worker that cannot start must not have taken anything.

    Raises:
        StartupError: the worker cannot be loaded, or the SDK is not installed.

    """
    if importlib.util.find_spec("runpod") is None:
        raise StartupError('RunPod\'s SDK is not installed: run `pip install "vector-memory[runpod]"`.')
    concurrency = worker.settings.gateway.job_concurrency
    try:
        worker.check()
        loading = threading.Thread(target=worker.load, name="loading")
        loading.start()
        keep_runpod_quiet()
        import runpod  # takes as long as loading does

        loading.join()
        if worker.failure is not None:
            raise worker.failure
        # A constant: whenever the value changes, the SDK takes no job until all are done.
        is_streaming = worker.settings.gateway.job_streaming
        runpod.serverless.start(
            {
                "handler": streaming_handler if is_streaming else handler,
                "concurrency_modifier": lambda _current: concurrency,
                "return_aggregate_stream": is_streaming,
            }
        )
    finally:
        asyncio.run(worker.close())  # for a loop that never ran a job; otherwise its end has closed the worker


def give_up_root(settings: Settings) -> None:
    """Go on as an ordinary user, who is first given the data folder.

    RunPod mounts a network volume for root, where an image's own USER could not write. Where root may not give the
    folder away, the worker stays root: a memory that cannot write is of no use.
    """
    uid, folder = settings.gateway.run_as_uid, settings.memory.data_dir
    if uid is None or os.getuid() != 0:
        return
    try:
        os.setgroups([])
        if not settings.memory.ephemeral and folder.absolute().parent.is_dir():
            _give(folder, uid)
            _try_writing(folder, uid)
        os.setgid(uid)
        os.setuid(uid)
    except OSError as error:
        log.warning("root.kept", extra={"reason": str(error)})


def _give(folder: Path, uid: int) -> None:
    """Make the folder, and a user the owner of all in it; of itself last, so that half a change is done again."""
    folder.mkdir(exist_ok=True)
    if folder.stat().st_uid == uid:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent, name), uid, uid, follow_symlinks=False)
    os.chown(folder, uid, uid)


def _try_writing(folder: Path, uid: int) -> None:
    """See whether a user reaches the folder: the volume itself may be closed to all but root.

    Raises:
        PermissionError: it cannot be written to.

    """
    os.setegid(uid)
    os.seteuid(uid)
    try:
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(f"user {uid} cannot write to {folder}")
    finally:
        os.seteuid(0)
        os.setegid(0)


if __name__ == "__main__":
    main()
