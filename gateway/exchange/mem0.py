"""Memories of mem0, as its `get_all` and its exports return them.

The file is a list, or an object with a list under `results` or `memories`. Its objects have `id`, `memory`, `metadata`,
`created_at` and owners (`user_id`, `agent_id`, `run_id`). The format is defined in mem0ai/mem0, `mem0/memory/main.py`.
"""

from typing import Any

from gateway.exchange.items import ItemOrProblem, Problem, item_of
from vector_memory.errors import InvalidInput
from vector_memory.times import time_ms

_LISTS = ("results", "memories")
_OWNERS = ("user_id", "agent_id", "run_id", "app_id", "actor_id", "role", "categories")


def unpack(value: Any) -> list[Any] | None:
    """Return the list inside an answer of mem0; None when the value is not such an answer."""
    if isinstance(value, dict):
        for name in _LISTS:
            if isinstance(value.get(name), list):
                return list(value[name])
    return None


def is_memory(value: dict[str, Any]) -> bool:
    """Return whether a value is a memory of mem0."""
    return isinstance(value.get("memory"), str) and "content" not in value


def item(value: dict[str, Any], where: str, namespace: str) -> ItemOrProblem:
    """Return one memory. Its id becomes the key, and its owners become metadata."""
    id = value.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool):
        return Problem(where, "This memory of mem0 has no id.")
    metadata = value.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        return Problem(where, "The metadata of this memory is not an object.")
    owners = {name: value[name] for name in _OWNERS if value.get(name)}
    created_at = value.get("created_at")
    if created_at is not None and not _is_time(created_at):
        return Problem(where, f"created_at is not an ISO 8601 time: {created_at!r}.")
    given = {"metadata": {**owners, **(metadata or {})}, "ttl_seconds": None, "created_at": created_at}
    return item_of(where, content=value["memory"], key=f"mem0/{id}", namespace=namespace, **given)


def _is_time(value: object) -> bool:
    try:
        time_ms(value, "created_at")
    except InvalidInput:
        return False
    return True
