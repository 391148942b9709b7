"""RunPod as workers and callers see it, on a real port: hands jobs out, passes their results and cancellations on.

    with StandInPlatform() as platform, QueueWorker(platform, tmp_path) as worker:
        job_id = platform.submit({"action": "health"})
        assert platform.result(job_id).output["status"] == "healthy"
        assert worker.terminate() == 0

The SDK's own loop runs in a real `handler.py`. Like the platform, this hands a job out as often as it is submitted, and
makes jobs of what OpenAI's clients ask.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.worker_process import environment

HANDLER = Path(__file__).parents[1] / "handler.py"

ANSWER_S_MAX = 60.0
EXIT_S_MAX = 60.0

HOLD_S = 0.2
"""How long a poll without news is held. The platform holds it for a minute or more, which a stop would wait for."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the SDK posted for a job: `error` when it failed."""

    posted: dict[str, Any]

    @property
    def output(self) -> Any:
        assert "error" not in self.posted, self.posted["error"]
        return self.posted["output"]

    @property
    def error(self) -> dict[str, Any]:
        assert isinstance(self.posted.get("error"), str), f"not a failure with a text: {self.posted}"
        error: dict[str, Any] = json.loads(self.posted["error"])
        return error


class StandInPlatform:
    """Listens on 127.0.0.1 while its `with` block runs."""

    def __init__(self, *, sync_s: float = ANSWER_S_MAX) -> None:
        """Args:
        sync_s: how long `/runsync` waits for a job's end before it answers with the job's state.
        """
        self.sync_s = sync_s
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.submitted: list[str] = []
        self._taken: set[str] = set()
        self._news = threading.Condition()
        self._queue: deque[dict[str, Any]] = deque()
        self._cancelled: list[str] = []
        self._results: dict[str, list[Result]] = {}
        self._parts: dict[str, list[Any]] = {}
        self._told: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Routes", (_Routes,), {"platform": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where callers send jobs, as RunPod's https://api.runpod.ai/v2; the endpoint's id is `endpoint`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2"

    def state(self, job_id: str, wait_s: float = 0) -> dict[str, Any] | None:
        """What a caller is told of a job; None for an unknown one."""
        with self._news:
            self._news.wait_for(lambda: job_id in self._results, wait_s)
            if job_id not in self._results:
                state = "IN_PROGRESS" if job_id in self._taken else "IN_QUEUE"
                return {"id": job_id, "status": state} if job_id in self.submitted else None
            posted = self._results[job_id][0].posted
            return {"id": job_id, "status": "FAILED" if "error" in posted else "COMPLETED", **posted}

    @property
    def variables(self) -> dict[str, str]:
        """What RunPod puts into a worker's environment. The SDK fills in $ID and $RUNPOD_POD_ID."""
        base = f"http://127.0.0.1:{self._server.server_address[1]}/v2/endpoint"
        return {
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_POD_ID": "worker",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # they look for a network and for 4 GB of memory
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def submit(self, input: object, *, job_id: str | None = None) -> str:
        """Queue a job; under the id of an earlier one it is that job, delivered once more."""
        job_id = job_id or f"{uuid.uuid4()}-u1"
        with self._news:
            self._queue.append({"id": job_id, "input": input})
            self.submitted.append(job_id)
            self._news.notify_all()
        return job_id

    def result(self, job_id: str, *, delivery: int = 1) -> Result:
        """What the n-th delivery of a job came to."""
        with self._news:
            answered = self._news.wait_for(lambda: len(self._results.get(job_id, ())) >= delivery, ANSWER_S_MAX)
            assert answered, f"no result of job {job_id} after {ANSWER_S_MAX} s"
            return self._results[job_id][delivery - 1]

    def has_result(self, job_id: str) -> bool:
        with self._news:
            return job_id in self._results

    def run(self, input: object) -> Result:
        return self.result(self.submit(input))

    def parts(self, job_id: str) -> Iterator[Any]:
        """What the worker streams of a job, as it comes."""
        at = 0

        def have_come() -> bool:
            return len(self._parts.get(job_id, ())) > at or job_id in self._results

        while True:
            with self._news:
                come = self._news.wait_for(have_come, ANSWER_S_MAX)
                assert come, f"nothing more of job {job_id} after {ANSWER_S_MAX} s"
                new = self._parts.get(job_id, [])[at:]
            if not new:
                return
            at += len(new)
            yield from new

    def streamed(self, job_id: str, posted: dict[str, Any]) -> None:
        with self._news:
            self._parts.setdefault(job_id, []).append(posted["output"])
            self._news.notify_all()

    def news(self, job_id: str) -> dict[str, Any] | None:
        """What `/stream` tells a caller: each part once."""
        state = self.state(job_id)
        if state is None:
            return None
        with self._news:
            parts = self._parts.get(job_id, [])[self._told.get(job_id, 0) :]
            self._told[job_id] = self._told.get(job_id, 0) + len(parts)
        return {"status": state["status"], "stream": [{"metrics": {}, "output": part} for part in parts]}

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2/endpoint/openai/v1"

    def cancel(self, job_id: str) -> None:
        with self._news:
            self._cancelled.append(job_id)
            self._news.notify_all()

    def take(self, count: int, is_there: Callable[[], bool] = lambda: True) -> list[dict[str, Any]]:
        """Up to `count` jobs, as soon as there is one; none after a while, or for a worker that is gone by then."""
        with self._news:
            self._news.wait_for(lambda: self._queue, HOLD_S)
            jobs = [self._queue.popleft() for _ in range(min(count, len(self._queue)) if is_there() else 0)]
            self._taken.update(job["id"] for job in jobs)
            return jobs

    def stops(self) -> list[str]:
        with self._news:
            self._news.wait_for(lambda: self._cancelled, HOLD_S)
            stops, self._cancelled = self._cancelled, []
            return stops

    def done(self, job_id: str, posted: dict[str, Any]) -> None:
        with self._news:
            self._results.setdefault(job_id, []).append(Result(posted))
            self._news.notify_all()


class _Routes(BaseHTTPRequestHandler):
    platform: StandInPlatform

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        match url.path.split("/")[3]:
            case "status":
                self._tell(self.platform.state(url.path.split("/")[4]))
            case "stream":
                self._tell(self.platform.news(url.path.split("/")[4]))
            case "job-take":
                jobs = self.platform.take(1, self._is_there)
                self._answer(jobs[0] if jobs else None)
            case "job-take-batch":
                self._answer(self.platform.take(int(parse_qs(url.query)["batch_size"][0]), self._is_there) or None)
            case "job-stop":
                stops = self.platform.stops()
                self._answer({"jobsToStop": stops} if stops else None)
            case "openai":
                self._answer_openai("/" + url.path.split("/openai/")[1], None)
            case "ping":
                self._answer({})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        if path.split("/")[3] in ("run", "runsync"):
            self._take_from_caller()
            return
        if path.split("/")[3] == "cancel":
            self.platform.cancel(path.split("/")[4])
            self._answer({"id": path.split("/")[4], "status": "CANCELLED"})
            return
        posted = json.loads(self.rfile.read(int(self.headers["content-length"])), parse_constant=_no_constant)
        match path.split("/")[3:]:
            case ["openai", *route]:
                self._answer_openai("/" + "/".join(route), posted)
            case ["job-done", _, job_id]:
                self.platform.done(job_id, posted)
                self._answer({})
            case ["job-stream", _, job_id]:
                self.platform.streamed(job_id, posted)
                self._answer({})

    def _answer_openai(self, route: str, body: Any) -> None:
        """As RunPod's edge does: a job of the request; what it streams as it comes, or its output's first item."""
        job_id = self.platform.submit({"openai_route": route, "openai_input": body})
        parts = self.platform.parts(job_id) if body and body.get("stream") else iter(())
        first = next(parts, None)
        if isinstance(first, str):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for part in (first, *parts):
                self.wfile.write(part.encode())
            return
        posted = self.platform.result(job_id).posted
        self._answer(posted["output"][0] if "error" not in posted else posted, 500 if "error" in posted else 200)

    def _take_from_caller(self) -> None:
        """A job for the endpoint, after whatever refusals a test wants to come first."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        _, _, endpoint, kind = urlsplit(self.path).path.split("/")
        if self.headers["authorization"] != "Bearer key":
            self._answer({"error": "unauthorized"}, 401)
        elif endpoint != "endpoint":
            self._answer({"error": "not found"}, 404)
        elif self.platform.refusals:
            status, headers = self.platform.refusals.popleft()
            self._answer({"error": "refused"}, status, headers)
        else:
            job_id = self.platform.submit(body["input"])
            self._tell(self.platform.state(job_id, self.platform.sync_s if kind == "runsync" else 0))

    def _tell(self, state: dict[str, Any] | None) -> None:
        if state is None:
            self._answer({"error": "job not found"}, 404)
        else:
            self._answer(state)

    def log_message(self, format: str, *args: object) -> None:
        """Not on the test's output."""

    def _is_there(self) -> bool:
        """Whether the worker still waits: one that was killed would take its jobs with it."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except ConnectionError:
            return False

    def _answer(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """A status with a body, or 204 for none."""
        if not self._is_there():
            return
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status if content else 204)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _no_constant(name: str) -> None:
    raise AssertionError(f"the worker posted {name}, which is not JSON")


class QueueWorker:
    """A real `handler.py` that works for a platform. A context manager that always ends the process."""

    def __init__(self, platform: StandInPlatform, folder: Path, **variables: str) -> None:
        """Start it in a folder that is not the project's; its memories go to `memory` in there."""
        self.log = folder / f"worker-{uuid.uuid4().hex[:8]}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(HANDLER)],
                cwd=folder,
                env=environment(**{"MEMORY_DATA_DIR": "memory", **platform.variables, **variables}),
                stdout=output,
                stderr=output,
                start_new_session=True,  # the SDK's heartbeat is a process too, which outlives a SIGKILL
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log.read_text())
        if self.process.poll() is None:
            self.kill()

    def terminate(self) -> int:
        """As RunPod stops a container: SIGTERM for the first process. Returns its exit code."""
        self.process.terminate()
        return self.process.wait(EXIT_S_MAX)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(EXIT_S_MAX)
