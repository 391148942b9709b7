"""Counters in the text format of Prometheus: numbers and names of routes only.

Each worker counts for itself from its start. A scraper adds workers up.
"""

import time

from fastapi import APIRouter, FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.serving.services import Services
from vector_memory.errors import ServiceError
from vector_memory.research import Answer

_UNKNOWN_ROUTE = "none"

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds of the histogram's buckets. A retrieve takes about 10 ms, a research up to its deadline of 300 s."""


class Metrics:
    """Counters of one worker. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "memory_requests",
            "Requests, of jobs too, by the template of their route.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "memory_request_seconds",
            "Seconds until the last byte of an answer.",
            ["method", "route"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._calls = Counter(
            "memory_operations",
            "Operations by their name, the door that they came in by, and `ok` or the error's code.",
            ["operation", "door", "outcome"],
            registry=self.registry,
        )
        self._cache = Counter(
            "memory_cache_lookups",
            "Reads that were looked up in the response cache.",
            ["operation", "outcome"],
            registry=self.registry,
        )
        self._answers = Counter(
            "research_answers", "Answers of research by what they are.", ["outcome"], registry=self.registry
        )
        self._failures = Counter(
            "research_llm_failures",
            "Questions that the LLM failed, by the error's code.",
            ["code"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "research_tokens", "Tokens as the endpoints counted them.", ["endpoint", "kind"], registry=self.registry
        )
        self._cost = Counter(
            "research_cost", "By the configured prices, in their currency.", ["endpoint"], registry=self.registry
        )
        self._memories = Gauge("memory_memories", "Memories of all namespaces.", registry=self.registry)
        self._namespaces = Gauge("memory_namespaces", "Namespaces that have any.", registry=self.registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def count_call(self, operation: str, door: str, outcome: str) -> None:
        """Count an operation that was carried out or refused."""
        self._calls.labels(operation, door, outcome).inc()

    def count_lookup(self, operation: str, *, is_hit: bool) -> None:
        """Count a look-up in the response cache."""
        self._cache.labels(operation, "hit" if is_hit else "miss").inc()

    def count_answer(self, outcome: Answer | ServiceError) -> None:
        """Count a question that was answered, or that the LLM failed to answer."""
        if isinstance(outcome, ServiceError):
            self._failures.labels(outcome.code).inc()
            return
        self._answers.labels(_kind(outcome)).inc()
        if outcome.llm_error is not None:
            self._failures.labels(outcome.llm_error.code).inc()
        if outcome.endpoint is not None:
            self._tokens.labels(outcome.endpoint, "prompt").inc(outcome.prompt_tokens)
            self._tokens.labels(outcome.endpoint, "completion").inc(outcome.completion_tokens)
            self._cost.labels(outcome.endpoint).inc(outcome.cost or 0.0)

    def text(self, counts: dict[str, int] | None) -> bytes:
        """Return all counters as text.

        Args:
            counts: numbers of memories by namespace; None while the worker loads.
        """
        if counts is not None:
            self._memories.set(sum(counts.values()))
            self._namespaces.set(len(counts))
        return generate_latest(self.registry)


def _kind(answer: Answer) -> str:
    if answer.prompt is not None:
        return "context_only"
    if answer.abstained:
        return "abstained"
    if answer.degraded:
        return "degraded"
    return "quoted" if answer.endpoint is None else "generated"


class CountRequests:
    """Counts every HTTP request by its route. Plain ASGI."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500  # a crash is answered with this one

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            # Neither an invented path nor an invented method may create a series of its own.
            route = getattr(scope.get("route"), "path", _UNKNOWN_ROUTE)
            method = scope["method"] if route != _UNKNOWN_ROUTE else _UNKNOWN_ROUTE
            self._metrics.count_request(method, route, status, time.perf_counter() - started)


def install(app: FastAPI, services: Services, counters: Metrics) -> None:
    """Serve the counters at `/metrics`, and count every request of the app."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Requests, research and size, since this worker started. Answered while it loads too."""
        counts = await run_in_threadpool(services.memories.counts) if services.is_ready else None
        return Response(counters.text(counts), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    app.include_router(router)
    app.add_middleware(CountRequests, metrics=counters)
