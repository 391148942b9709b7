"""Answers reads from the response cache, where the namespace has not changed since."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Header

from gateway.worker import Worker
from memory_service.model import Consistency

CacheControl = Annotated[
    str | None, Header(description="`no-cache`: do not answer from the cache.", examples=["no-cache"])
]


def cached(
    worker: Worker,
    operation: str,
    request: Mapping[str, Any],
    cache_control: str | None,
    answer: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The answer to a request about one namespace, from the cache if it has it.

    Args:
        worker: whose cache.
        operation: tells requests of different routes apart.
        request: with `namespace`, and `consistency` if it has one.
        cache_control: the header; `no-cache` makes a new answer, which is kept.
        answer: makes one.
    """
    if worker.cache.is_off:
        return answer()
    namespace, consistency = request["namespace"], Consistency(request.get("consistency", "eventual"))
    state, changes = worker.memories.state(namespace, consistency=consistency)
    key = worker.cache.key(operation, state, request)
    if "no-cache" not in (cache_control or "").lower() and (found := worker.cache.find(key)) is not None:
        return found
    made = answer()
    if worker.memories.state(namespace) == (state, changes):  # else it may be of another state
        worker.cache.keep(key, made)
    return made
