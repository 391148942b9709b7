"""The LLM as research sees it: one or several endpoints. The first healthy one answers.

A request goes to the first endpoint. It goes to the next one after a failure that another endpoint may not have: the
endpoint cannot be reached, is busy, breaks off, dies, refuses its key, or uses up too much of the deadline. In a stream
this holds until the first piece of text. After that an error is final, since a caller cannot unread a text.

An endpoint that failed several times in a row is skipped for a while (`breaker.py`). One endpoint gets a request twice
only if the first attempt made no connection or found no worker up. A POST that may have queued a paid job is never
repeated there.

One deadline bounds everything, and `admission.py` bounds how many requests run at once.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from research.llm.admission import Admission
from research.llm.breaker import AttemptOutcome, Breaker
from research.llm.client import LLMClient
from research.llm.cold_start import ColdStart
from research.llm.completion import Completion, shortened
from research.llm.cost import cost
from research.llm.counting import Count, TokenCounter
from research.llm.deadline import Deadline
from research.llm.errors import LLMBusy, LLMNotConnected, LLMRefused, LLMStarting
from research.llm.settings import Endpoint, LLMSettings
from research.llm.streaming import Chunk
from vector_memory.errors import LLMTimeout, LLMUnreachable, NotFound, ServiceError
from vector_memory.research import ChatMessage

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_FAILURES_MAX = 5
_OPEN_S = 10.0

# Share of the remaining time that an endpoint gets to answer (in a stream: to its first word) if another one is left.
# The next one still has a third, enough for a short answer.
_SHARE = 2 / 3

# Share of the remaining time that a start may take. A worker that is up later has no time left to answer.
_START_SHARE = 0.9

# A timeout counts as a failure only from this limit on, or from this share of LLM_TIMEOUT_S. Below it no endpoint could
# answer, and five such questions of one caller would close the endpoint to all others.
_FAIR_S_MAX, _FAIR_SHARE = 10.0, 0.5

# Three rounds over the endpoints that took no connection: a server that restarts behind its port is back in a second.
_ROUNDS_MAX = 3
_PAUSE_S = 0.2

# One sentence per endpoint, short enough for a message about all of them.
_REASON_CHARS_MAX = 160
_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class LLMReply:
    """A completion, and what it took to get it.

    Attributes:
        endpoint: the name of the endpoint that answered.
        seconds: seconds from sending the request to the last word, at that endpoint.
        cost: the cost by the endpoint's prices; None if it has none, or reported no tokens.
    """

    completion: Completion
    endpoint: str
    seconds: float
    cost: float | None


class _Upstream:
    """One endpoint, with the state that is kept about it."""

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self.endpoint = endpoint
        self.client = LLMClient(endpoint, settings)
        self.breaker = Breaker(failures_max=_FAILURES_MAX, open_s=_OPEN_S, now=time.monotonic)
        self.last_error: ServiceError | None = None
        self._fair_s = min(_FAIR_S_MAX, _FAIR_SHARE * settings.timeout_s)
        queue_url = endpoint.runpod_url
        self.cold_start = None if queue_url is None else ColdStart(self.client, queue_url)
        # A RunPod queue has no route for counting: every request to it is a job.
        self.counter = TokenCounter(self.client, endpoint.root_url) if queue_url is None else None

    @property
    def name(self) -> str:
        return self.endpoint.name

    def outcome_of_timeout(self, limit_s: float) -> AttemptOutcome:
        return AttemptOutcome.FAILED if limit_s >= self._fair_s else AttemptOutcome.ABANDONED

    async def complete(self, body: Mapping[str, Any], timeout_s: float) -> LLMReply:
        started = time.perf_counter()
        return self._reply(await self.client.complete(body, timeout_s=timeout_s), started)

    async def stream(
        self, body: Mapping[str, Any], timeout_s: float, first_token_s: float
    ) -> AsyncGenerator[str | LLMReply]:
        started = time.perf_counter()
        async with aclosing(self.client.stream(body, timeout_s=timeout_s, first_token_s=first_token_s)) as events:
            async for event in events:
                yield self._reply(event, started) if isinstance(event, Completion) else event

    async def close(self) -> None:
        if self.cold_start is not None:
            await self.cold_start.close()
        await self.client.close()

    def _reply(self, completion: Completion, started: float) -> LLMReply:
        seconds = time.perf_counter() - started
        prompt, written = completion.prompt_tokens, completion.completion_tokens
        paid = cost(self.endpoint.prices, prompt_tokens=prompt, completion_tokens=written, seconds=seconds)
        return LLMReply(completion, self.name, seconds, paid)


_Attempt = Callable[[_Upstream, float], Awaitable[_T]]
"""Asks one endpoint, within a number of seconds."""

_Begin = Callable[[_Upstream, float], AsyncGenerator[_T]]
"""Begins a stream of one endpoint, whose first event has to come within a number of seconds."""


class Endpoints:
    """Asks for completions. Any number of requests may run at once, in one event loop at a time."""

    def __init__(self, endpoints: Sequence[Endpoint], settings: LLMSettings) -> None:
        """Make the clients of endpoints. Nothing is opened before the first request.

        Args:
            endpoints: at least one endpoint, in the order of asking.
            settings: timeouts and limits.
        """
        self._upstreams = [_Upstream(endpoint, settings) for endpoint in endpoints]
        self._admission = Admission(at_once=settings.concurrency, waiting_max=settings.queue_max)

    async def complete(self, body: Mapping[str, Any], *, deadline: Deadline) -> LLMReply:
        """Ask for one completion.

        Args:
            body: a request body of OpenAI's chat completions. Each endpoint adds its own `model`.
            deadline: bounds everything.

        Raises:
            Unavailable: too many requests run and wait already.
            LLMRefused: an endpoint says that the request itself is wrong.
            ServiceError: the error of the only endpoint; of several, LLMUnreachable with a sentence for each one.
        """
        async with self._admission.place(deadline):
            return await self._first_answer(lambda upstream, limit_s: upstream.complete(body, limit_s), deadline)

    def stream(self, body: Mapping[str, Any], *, deadline: Deadline) -> AsyncGenerator[str | LLMReply]:
        """Ask for one completion, and yield its text as it comes. Closing the iterator ends the request.

        Yields:
            Pieces of text, none of them empty. The reply comes last; its text is all pieces joined.

        Raises:
            ServiceError: as `complete`, also in the middle of the text.
        """
        return self._first_stream(
            lambda upstream, limit_s: upstream.stream(body, deadline.left_s, limit_s), deadline, self._upstreams
        )

    async def forward(self, body: Mapping[str, Any], *, deadline: Deadline, model: str) -> dict[str, Any]:
        """Ask for the completion of a caller's own request body. Every field but `model` is passed on as it is.

        Args:
            body: the request body.
            deadline: bounds everything.
            model: one of `models`. For the first endpoint's model the other endpoints stand in, each with its own
                model. For any other model only the endpoints that serve it are asked.

        Returns:
            The endpoint's own body. It has choices, which may have no text.

        Raises:
            NotFound: no endpoint has the model.
            ServiceError: as `complete`.
        """
        upstreams = self._serving(model)
        async with self._admission.place(deadline):
            return await self._first_answer(
                lambda upstream, limit_s: upstream.client.forward(body, timeout_s=limit_s), deadline, upstreams
            )

    def forward_stream(self, body: Mapping[str, Any], *, deadline: Deadline, model: str) -> AsyncGenerator[Chunk]:
        """Ask as `forward` does, and yield the endpoint's own events. Closing the iterator ends the request.

        Raises:
            ServiceError: as `forward`, also in the middle. An answer that is cut off always ends in an error.
        """

        def begin(upstream: _Upstream, limit_s: float) -> AsyncGenerator[Chunk]:
            return upstream.client.forward_stream(body, timeout_s=deadline.left_s, first_token_s=limit_s)

        return self._first_stream(begin, deadline, self._serving(model))

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the endpoints, each once, in the order of asking."""
        return tuple(dict.fromkeys(upstream.endpoint.model for upstream in self._upstreams))

    async def count(self, messages: Sequence[ChatMessage], deadline: Deadline) -> Count | None:
        """Count the tokens of a prompt with the tokenizer of the endpoint that would be asked first.

        Returns:
            None if that endpoint does not count, or not in time.
        """
        upstream = next((one for one in self._upstreams if one.breaker.would_admit), None)
        if upstream is None or upstream.counter is None:
            return None
        try:
            async with asyncio.timeout_at(deadline.ends_at):
                return await upstream.counter.count(messages)
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Close the connections. The next request opens them again."""
        for upstream in self._upstreams:
            await upstream.close()

    def _serving(self, model: str) -> list[_Upstream]:
        if model == self.models[0]:
            return self._upstreams
        serving = [upstream for upstream in self._upstreams if upstream.endpoint.model == model]
        if not serving:
            raise NotFound(f"There is no model {model!r:.200}; there are {', '.join(self.models)}.", field="model")
        return serving

    async def _first_stream(
        self, begin: "_Begin[_T]", deadline: Deadline, upstreams: "list[_Upstream]"
    ) -> AsyncGenerator[_T]:
        """Yield the events of the first endpoint whose stream begins without an error."""

        async def first_event(upstream: _Upstream, limit_s: float) -> tuple[_T, AsyncGenerator[_T]]:
            events = begin(upstream, limit_s)
            return await anext(events), events

        async with self._admission.place(deadline):
            first, events = await self._first_answer(first_event, deadline, upstreams)
            async with aclosing(events):
                yield first
                async for event in events:
                    yield event

    async def _first_answer(
        self, attempt: "_Attempt[_T]", deadline: Deadline, upstreams: "list[_Upstream] | None" = None
    ) -> _T:
        """Return what the first endpoint that does not fail gives, of those named or of all."""
        failures: dict[str, ServiceError] = {}
        candidates, again = upstreams or self._upstreams, list[_Upstream]()
        for number in range(_ROUNDS_MAX):
            if number:
                pause_s = number * _PAUSE_S * random.uniform(0.5, 1.5)  # noqa: S311  spreads callers that come at once
                if deadline.left_s <= pause_s:
                    break
                await asyncio.sleep(pause_s)
            for position, upstream in enumerate(candidates):
                is_last = not any(other.breaker.would_admit for other in candidates[position + 1 :])
                try:
                    return await self._attempt(upstream, attempt, deadline, is_last=is_last)
                except LLMRefused:
                    raise
                except ServiceError as error:
                    failures[upstream.name] = error
                    _log_failure(upstream, error, is_last=is_last)
                    # A starting endpoint that came last has used up its wait, so it is not asked again.
                    if isinstance(error, LLMNotConnected) or (isinstance(error, LLMStarting) and not is_last):
                        again.append(upstream)
            candidates, again = again, []
            if not candidates:
                break
        raise _error_of_all(failures)

    async def _attempt(self, upstream: _Upstream, attempt: "_Attempt[_T]", deadline: Deadline, *, is_last: bool) -> _T:
        permit = upstream.breaker.admit()
        if permit is None:
            raise _skipped_error(upstream)
        # What is neither a success nor a failure says nothing about the endpoint: a cancelled caller, a busy server.
        outcome = AttemptOutcome.ABANDONED
        limit_s = deadline.left_s * (1 if is_last else _SHARE)
        try:
            async with asyncio.timeout_at(deadline.ends_at):
                if upstream.cold_start is not None:
                    # If another endpoint is left, that one answers while this one starts.
                    await upstream.cold_start.ensure_up(deadline.left_s * _START_SHARE if is_last else 0.0)
                answer = await attempt(upstream, deadline.left_s * (1 if is_last else _SHARE))
            outcome = AttemptOutcome.SUCCEEDED
        except TimeoutError as error:
            outcome = upstream.outcome_of_timeout(limit_s)
            upstream.last_error = LLMTimeout(
                f"The LLM endpoint did not answer within the {deadline.timeout_s:g} s that the question has; "
                "try again, or raise timeout_s (its default is LLM_TIMEOUT_S)"
            )
            raise upstream.last_error from error
        except LLMTimeout as error:
            outcome = upstream.outcome_of_timeout(limit_s)
            upstream.last_error = error
            raise
        except (LLMBusy, LLMStarting):
            raise
        except LLMRefused:
            outcome = AttemptOutcome.SUCCEEDED
            raise
        except ServiceError as error:
            outcome = AttemptOutcome.FAILED
            upstream.last_error = error
            raise
        finally:
            upstream.breaker.report(permit, outcome)
        if upstream.cold_start is not None:
            upstream.cold_start.note_answer()
        return answer


def connect(settings: LLMSettings) -> Endpoints | None:
    """Return the configured endpoints, or None. Nothing is opened before the first request."""
    return Endpoints(settings.endpoints, settings) if settings.endpoints else None


def _skipped_error(upstream: _Upstream) -> LLMUnreachable:
    last = upstream.last_error
    wait_s = max(1, round(upstream.breaker.wait_s))
    return LLMUnreachable(
        f"The LLM endpoint failed {_FAILURES_MAX} times in a row and is asked again in {wait_s} s"
        + (f"; last: {last.message}" if last else ""),
        retry_after_s=wait_s,
    )


def _error_of_all(failures: dict[str, ServiceError]) -> ServiceError:
    if len(failures) == 1:
        return next(iter(failures.values()))
    reasons = "; ".join(f"{name}: {shortened(error.message, _REASON_CHARS_MAX)}" for name, error in failures.items())
    waits_s = [error.retry_after_s for error in failures.values() if error.retry_after_s is not None]
    return LLMUnreachable(f"No LLM endpoint answers. {reasons}", retry_after_s=min(waits_s, default=_RETRY_AFTER_S))


def _log_failure(upstream: _Upstream, error: ServiceError, *, is_last: bool) -> None:
    fields = {"endpoint": upstream.name, "reason": error.message, "breaker": upstream.breaker.state.value}
    log.warning("llm.failed", extra={**fields, "asked_next": not is_last})
