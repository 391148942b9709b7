"""Entry point on RunPod: `python handler.py`.

MEMORY_SERVICE_MODE chooses between the jobs of a queue endpoint and HTTP for a load-balancing one. This is the only
module that knows RunPod's SDK. Nothing happens at import. The options of the SDK on the command line (`--test_input`,
`--rp_serve_api`) work here too.
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
from gateway.serving.server import open_listener, serve
from gateway.serving.worker import Worker
from gateway.settings import Settings, keep_runpod_quiet, load
from vector_memory.errors import StartupError

log = logging.getLogger(__name__)

EVERYWHERE = "0.0.0.0"  # noqa: S104 - RunPod's load balancer comes from outside the container


def main() -> None:
    """Run until SIGTERM, or exit with one line that says why not."""
    try:
        settings = worker().settings
        logs.configure(settings.gateway.log_level)
        match settings.gateway.service_mode:
            case "queue":
                give_up_root(settings)
                run_jobs(worker())
            case "load_balancing":
                with open_listener(EVERYWHERE, settings.gateway.runpod_port) as listener:  # only root may open port 80
                    give_up_root(settings)
                    serve(worker(), listener)
    except StartupError as error:
        raise SystemExit(f"vector-memory: {error}") from error


@cache
def worker() -> Worker:
    """Return the services of this process."""
    return Worker(load())


@cache
def runner() -> JobRunner:
    """Return the runner of this process's jobs."""
    return JobRunner(worker())


async def handler(job: dict[str, Any]) -> dict[str, Any] | list[Any]:
    """Run one job. The SDK inspects its handler, so this must stay a plain coroutine function."""
    return await runner().run(job)


async def streaming_handler(job: dict[str, Any]) -> AsyncGenerator[dict[str, Any] | str]:
    """Run one job and yield the items of its output, which the SDK joins to a list. It must stay an async generator."""
    async with aclosing(runner().stream(job)) as items:
        async for item in items:
            yield item


def run_jobs(worker: Worker) -> None:
    """Load, then run jobs until the SDK's loop ends. On SIGTERM it ends when the running jobs are answered.

    Loading comes first. A job that this worker cannot run yet is left to another one, the start of the loop forks a
    process for its heartbeat, and a worker that cannot start must not have taken a job.

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
        # A constant, because the SDK takes no job after a change of the value until all are done.
        is_streaming = worker.settings.gateway.job_streaming
        runpod.serverless.start(
            {
                "handler": streaming_handler if is_streaming else handler,
                "concurrency_modifier": lambda _current: concurrency,
                "return_aggregate_stream": is_streaming,
            }
        )
    finally:
        asyncio.run(worker.close())  # for a loop that never ran a job; after one, its end has closed the worker


def give_up_root(settings: Settings) -> None:
    """Continue as an ordinary user, after giving that user the data folder.

    RunPod mounts a network volume for root, and the USER of an image could not write to it. If root cannot give the
    folder away, the worker stays root: a memory that cannot write is useless.
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
    """Make the folder, and a user the owner of all in it. The folder itself is last, so half a change is repeated."""
    folder.mkdir(exist_ok=True)
    if folder.stat().st_uid == uid:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent, name), uid, uid, follow_symlinks=False)
    os.chown(folder, uid, uid)


def _try_writing(folder: Path, uid: int) -> None:
    """Check that a user can write to the folder: the volume itself may be closed to all but root.

    Raises:
        PermissionError: the user cannot.

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
