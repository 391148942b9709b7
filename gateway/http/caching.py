"""Answers reads from the response cache, if the namespace has not changed since."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Header
from fastapi.concurrency import run_in_threadpool

from gateway.serving.worker import Worker
from memory_service.model import Consistency

CacheControl = Annotated[
    str | None, Header(description="`no-cache`: do not answer from the cache.", examples=["no-cache"])
]


def answer_cached(
    worker: Worker,
    operation: str,
    request: Mapping[str, Any],
    cache_control: str | None,
    answer: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Answer a request about one namespace, from the cache if possible.

    Args:
        worker: has the cache.
        operation: distinguishes requests of different routes.
        request: with `namespace`, and `consistency` if it has one. Looking back (`as_of`) is never cached: superseded
            versions expire without a change of the present.
        cache_control: the header. `no-cache` makes a new answer, which is kept.
        answer: makes a new answer.
    """
    if worker.cache.is_off or request.get("as_of") is not None:
        return answer()
    found, keep = _look_up(worker, operation, request, cache_control)
    if found is None:
        found = answer()
        keep(found)
    return found


async def answer_cached_async(
    worker: Worker,
    operation: str,
    request: Mapping[str, Any],
    cache_control: str | None,
    answer: Callable[[], Awaitable[dict[str, Any]]],
    *,
    is_kept: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """Do the same as `answer_cached` for an answer that is awaited.

    Args:
        worker: has the cache.
        operation: distinguishes requests of different routes.
        request: with `namespace`.
        cache_control: the header.
        answer: makes a new answer.
        is_kept: whether an answer is worth keeping.
    """
    if worker.cache.is_off:
        return await answer()
    found, keep = await run_in_threadpool(_look_up, worker, operation, request, cache_control)
    if found is None:
        found = await answer()
        if is_kept(found):
            await run_in_threadpool(keep, found)
    return found


def _look_up(
    worker: Worker, operation: str, request: Mapping[str, Any], cache_control: str | None
) -> tuple[dict[str, Any] | None, Callable[[dict[str, Any]], None]]:
    """Return the answer, if the cache has it and may be used, and a function that keeps a new one."""
    namespace, consistency = request["namespace"], Consistency(request.get("consistency", "eventual"))
    state, changes = worker.memories.state(namespace, consistency=consistency)
    key = worker.cache.key(operation, state, request)

    def keep(made: dict[str, Any]) -> None:
        if worker.memories.state(namespace) == (state, changes):  # otherwise the answer may belong to another state
            worker.cache.keep(key, made)

    if "no-cache" in (cache_control or "").lower():
        return None, keep
    found = worker.cache.find(key)
    worker.metrics.count_lookup(operation, is_hit=found is not None)
    return found, keep
