"""The LLM as research sees it: one or several endpoints, of which the first that is well answers.

A request goes to the first endpoint, and to the next when that fails in a way in which another need not: it cannot be
reached, is busy, breaks off, dies, refuses its key, or lets too much of the deadline pass. In a stream this holds until
the first piece of text; afterwards an error is an error, since nobody can take back what was read.

An endpoint that failed several times in a row is left alone for a while (`breaker.py`). A request is sent to the same
endpoint twice only when the first try connected to nobody, or found no worker up: a POST that may have queued a paid
job is never repeated there.

Everything happens within one deadline, and no more requests run at once than are allowed (`admission.py`).
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
from research.llm.breaker import Breaker, Outcome
from research.llm.client import LLMClient
from research.llm.cold_start import ColdStart
from research.llm.completion import Completion
from research.llm.cost import cost
from research.llm.counting import Count, TokenCounter
from research.llm.deadline import Deadline
from research.llm.settings import Endpoint, LLMSettings
from research.llm.streaming import Chunk
from vector_memory.errors import (
    LLMBusy,
    LLMNotConnected,
    LLMRefused,
    LLMStarting,
    LLMTimeout,
    LLMUnreachable,
    NotFound,
    ServiceError,
)
from vector_memory.research import ChatMessage

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_FAILURES_MAX = 5
_OPEN_S = 10.0

# While another endpoint is left, one may take this share of the time that is left before it answers (in a stream: until
# its first word). The next one still has a third, enough for a short answer.
_SHARE = 2 / 3

# A worker that is up any later would have no time left to answer.
_START_SHARE = 0.9

# A question may have so little time, or so little left, that no endpoint could answer it: five of one caller would
# close it to all others. So a timeout counts when there were so many seconds, or such a share of LLM_TIMEOUT_S.
_FAIR_S_MAX, _FAIR_SHARE = 10.0, 0.5

# Three rounds over those that took no connection: a server that restarts behind its port is back within a second.
_ROUNDS_MAX = 3
_PAUSE_S = 0.2

# A sentence for each endpoint, short enough for one message about all of them.
_REASON_CHARS_MAX = 160
_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion, and what it took to get it.

    Attributes:
        endpoint: the name of the one that answered.
        seconds: from sending the request to the last word, at that endpoint.
        cost: by its prices; None when it has none, or reported no tokens.
    """

    completion: Completion
    endpoint: str
    seconds: float
    cost: float | None


class _Upstream:
    """One endpoint with everything that is remembered of it."""

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self.endpoint = endpoint
        self.client = LLMClient(endpoint, settings)
        self.breaker = Breaker(failures_max=_FAILURES_MAX, open_s=_OPEN_S, now=time.monotonic)
        self.last_error: ServiceError | None = None
        self._fair_s = min(_FAIR_S_MAX, _FAIR_SHARE * settings.timeout_s)
        queue = endpoint.runpod_url
        self.cold_start = None if queue is None else ColdStart(self.client, queue)
        # A RunPod queue has no such route beside OpenAI's: every question to it is a job.
        self.counter = TokenCounter(self.client, endpoint.root_url) if queue is None else None

    @property
    def name(self) -> str:
        return self.endpoint.name

    def timed_out(self, limit_s: float) -> Outcome:
        """What a timeout says of the endpoint: nothing, if it was given little time."""
        return Outcome.FAILED if limit_s >= self._fair_s else Outcome.ABANDONED

    def reply(self, completion: Completion, started: float) -> Reply:
        seconds = time.perf_counter() - started
        paid = cost(
            self.endpoint.prices,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            seconds=seconds,
        )
        return Reply(completion, self.name, seconds, paid)

    async def close(self) -> None:
        if self.cold_start is not None:
            await self.cold_start.close()
        await self.client.close()


_Attempt = Callable[[_Upstream, float], Awaitable[_T]]
"""Asks one endpoint, within a number of seconds."""


class Endpoints:
    """Asks for completions. Any number of requests may run at once, in one event loop at a time."""

    def __init__(self, endpoints: Sequence[Endpoint], settings: LLMSettings) -> None:
        """Args:
        endpoints: in the order of asking, one at least.
        """
        self._upstreams = [_Upstream(endpoint, settings) for endpoint in endpoints]
        self._admission = Admission(at_once=settings.concurrency, waiting_max=settings.queue_max)

    async def complete(
        self, messages: Sequence[ChatMessage], *, max_tokens: int, temperature: float, deadline: Deadline
    ) -> Reply:
        """Ask for one completion.

        Raises:
            Unavailable: too many requests run and wait already.
            LLMRefused: an endpoint says that the request itself is wrong.
            ServiceError: the error of the only endpoint; of several, LLMUnreachable with a sentence for each.
        """

        async def ask(upstream: _Upstream, limit_s: float) -> Reply:
            started = time.perf_counter()
            completion = await upstream.client.complete(
                messages, max_tokens=max_tokens, temperature=temperature, timeout_s=limit_s
            )
            return upstream.reply(completion, started)

        async with self._admission.place(deadline):
            return await self._first_answer(ask, deadline)

    async def stream(
        self, messages: Sequence[ChatMessage], *, max_tokens: int, temperature: float, deadline: Deadline
    ) -> AsyncGenerator[str | Reply]:
        """Ask for one completion, and hand its text over as it comes. Closing the iterator ends the request.

        Yields:
            Pieces of text, none of them empty, and at last the reply: its text is all of them together.

        Raises:
            ServiceError: as `complete`, also in the middle of the text.
        """

        async def begin(upstream: _Upstream, limit_s: float) -> "_Begun":
            started = time.perf_counter()
            events = upstream.client.stream(
                messages,
                max_tokens=max_tokens,
                temperature=temperature,
                timeout_s=deadline.left_s,
                first_token_s=limit_s,
            )
            return _Begun(upstream, started, await anext(events), events)

        async with self._admission.place(deadline):
            begun = await self._first_answer(begin, deadline)
            async with aclosing(begun.events):
                yield begun.told(begun.first)
                async for event in begun.events:
                    yield begun.told(event)

    async def forward(self, question: Mapping[str, Any], *, deadline: Deadline, model: str) -> dict[str, Any]:
        """Ask for the completion of a request body of the caller's own making.

        Every field of `question` but `model` goes to the endpoint as it is. `model` is one of `models`: with the first
        endpoint's the others stand in for it, each with a model of its own; with another one only those that serve it
        are asked.

        Returns:
            The endpoint's own body, which has choices, with text or without.

        Raises:
            NotFound: no endpoint has the model.
            ServiceError: as `complete`.
        """
        upstreams = self._serving(model)
        async with self._admission.place(deadline):
            return await self._first_answer(
                lambda upstream, limit_s: upstream.client.forward(question, timeout_s=limit_s), deadline, upstreams
            )

    async def forward_stream(
        self, question: Mapping[str, Any], *, deadline: Deadline, model: str
    ) -> AsyncGenerator[Chunk]:
        """As `forward`, event by event. Closing the iterator ends the request.

        Raises:
            ServiceError: as `forward`, also in the middle; an answer that is cut off never ends without.
        """
        upstreams = self._serving(model)

        async def begin(upstream: _Upstream, limit_s: float) -> tuple[Chunk, AsyncGenerator[Chunk]]:
            chunks = upstream.client.forward_stream(question, timeout_s=deadline.left_s, first_token_s=limit_s)
            return await anext(chunks), chunks

        async with self._admission.place(deadline):
            first, chunks = await self._first_answer(begin, deadline, upstreams)
            async with aclosing(chunks):
                yield first
                async for chunk in chunks:
                    yield chunk

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the endpoints are asked for, each once, the first endpoint's first."""
        return tuple(dict.fromkeys(upstream.endpoint.model for upstream in self._upstreams))

    async def count(self, messages: Sequence[ChatMessage], deadline: Deadline) -> Count | None:
        """The tokens of a prompt by the tokenizer of the endpoint that would be asked first, if it has one."""
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
        found = [upstream for upstream in self._upstreams if upstream.endpoint.model == model]
        if not found:
            raise NotFound(f"There is no model {model!r:.200}; there are {', '.join(self.models)}.", field="model")
        return found

    async def _first_answer(
        self, attempt: "_Attempt[_T]", deadline: Deadline, upstreams: "list[_Upstream] | None" = None
    ) -> _T:
        """What the first endpoint gives that does not fail; of all, if none are named."""
        failures: dict[str, ServiceError] = {}
        asked, again = upstreams or self._upstreams, list[_Upstream]()
        for number in range(_ROUNDS_MAX):
            if number:
                pause_s = number * _PAUSE_S * random.uniform(0.5, 1.5)  # noqa: S311  many callers must not come at once
                if deadline.left_s <= pause_s:
                    break
                await asyncio.sleep(pause_s)
            for position, upstream in enumerate(asked):
                is_last = not any(other.breaker.would_admit for other in asked[position + 1 :])
                try:
                    return await self._attempt(upstream, attempt, deadline, is_last=is_last)
                except LLMRefused:
                    raise
                except ServiceError as error:
                    failures[upstream.name] = error
                    _report(upstream, error, is_last=is_last)
                    # The last one has been waited for already.
                    if isinstance(error, LLMNotConnected) or (isinstance(error, LLMStarting) and not is_last):
                        again.append(upstream)
            asked, again = again, []
            if not asked:
                break
        raise _all_failed(failures)

    async def _attempt(self, upstream: _Upstream, attempt: "_Attempt[_T]", deadline: Deadline, *, is_last: bool) -> _T:
        admitted = upstream.breaker.admit()
        if admitted is None:
            raise _left_alone(upstream)
        outcome = Outcome.ABANDONED
        limit_s = deadline.left_s * (1 if is_last else _SHARE)
        try:
            async with asyncio.timeout_at(deadline.ends_at):
                if upstream.cold_start is not None:
                    # With another endpoint left that one answers, while this one starts.
                    await upstream.cold_start.ensure_up(deadline.left_s * _START_SHARE if is_last else 0.0)
                answer = await attempt(upstream, deadline.left_s * (1 if is_last else _SHARE))
            outcome = Outcome.SUCCEEDED
        except TimeoutError as error:
            outcome = upstream.timed_out(limit_s)
            upstream.last_error = LLMTimeout(
                f"The LLM endpoint did not answer within the {deadline.timeout_s:g} s that the question has; "
                "try again, or raise timeout_s (its default is LLM_TIMEOUT_S)"
            )
            raise upstream.last_error from error
        except LLMTimeout as error:
            outcome = upstream.timed_out(limit_s)
            upstream.last_error = error
            raise
        except (LLMBusy, LLMStarting):
            raise
        except LLMRefused:
            outcome = Outcome.SUCCEEDED
            raise
        except ServiceError as error:
            outcome = Outcome.FAILED
            upstream.last_error = error
            raise
        finally:
            upstream.breaker.report(admitted, outcome)
        if upstream.cold_start is not None:
            upstream.cold_start.answered()
        return answer


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream whose first event has come."""

    upstream: _Upstream
    started: float
    first: str | Completion
    events: AsyncGenerator[str | Completion]

    def told(self, event: str | Completion) -> str | Reply:
        return self.upstream.reply(event, self.started) if isinstance(event, Completion) else event


def connect(settings: LLMSettings) -> Endpoints | None:
    """The configured endpoints, or None; nothing is opened before the first request."""
    return Endpoints(settings.endpoints, settings) if settings.endpoints else None


def _left_alone(upstream: _Upstream) -> LLMUnreachable:
    last = upstream.last_error
    wait_s = max(1, round(upstream.breaker.wait_s))
    return LLMUnreachable(
        f"The LLM endpoint failed {_FAILURES_MAX} times in a row and is asked again in {wait_s} s"
        + (f"; last: {last.message}" if last else ""),
        retry_after_s=wait_s,
    )


def _all_failed(failures: dict[str, ServiceError]) -> ServiceError:
    if len(failures) == 1:
        return next(iter(failures.values()))
    told = "; ".join(f"{name}: {_short(error.message)}" for name, error in failures.items())
    waits = [error.retry_after_s for error in failures.values() if error.retry_after_s is not None]
    return LLMUnreachable(f"No LLM endpoint answers. {told}", retry_after_s=min(waits, default=_RETRY_AFTER_S))


def _short(message: str) -> str:
    return message if len(message) <= _REASON_CHARS_MAX else message[: _REASON_CHARS_MAX - 1] + "…"


def _report(upstream: _Upstream, error: ServiceError, *, is_last: bool) -> None:
    log.warning(
        "llm.failed",
        extra={
            "endpoint": upstream.name,
            "reason": error.message,
            "breaker": upstream.breaker.state.value,
            "asked_next": not is_last,
        },
    )
