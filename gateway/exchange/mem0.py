"""Memories of mem0, as its `get_all` and exports have them.

A list, or an object with such a list under `results` or `memories`, of objects with `id`, `memory`, `metadata`,
`created_at` and whose they are (`user_id`, `agent_id`, `run_id`). mem0ai/mem0, `mem0/memory/main.py`.
"""

from typing import Any

from gateway.exchange.items import Item, Problem, Read
from vector_memory.errors import InvalidInput
from vector_memory.memories import NewMemory
from vector_memory.times import time_ms

_LISTS = ("results", "memories")
_OWNERS = ("user_id", "agent_id", "run_id", "app_id", "actor_id", "role", "categories")


def listed(value: Any) -> list[Any] | None:
    """The list that an answer of mem0 holds; None when it is none."""
    if isinstance(value, dict):
        for name in _LISTS:
            if isinstance(value.get(name), list):
                return list(value[name])
    return None


def is_one(value: dict[str, Any]) -> bool:
    """Whether it is a memory of mem0."""
    return isinstance(value.get("memory"), str) and "content" not in value


def item(value: dict[str, Any], where: str, namespace: str) -> Read:
    """One memory; its id becomes the key, and whose it is a part of the metadata."""
    id = value.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool):
        return Problem(where, "This memory of mem0 has no id.")
    metadata = value.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        return Problem(where, "The metadata of this memory is no object.")
    owners = {name: value[name] for name in _OWNERS if value.get(name)}
    created_at = value.get("created_at")
    if created_at is not None and not _is_time(created_at):
        return Problem(where, f"created_at is no ISO 8601 time: {created_at!r}.")
    return Item(
        where,
        NewMemory(
            content=value["memory"],
            key=f"mem0/{id}",
            namespace=namespace,
            metadata={**owners, **(metadata or {})},
            ttl_seconds=None,
            created_at=created_at,
        ),
    )


def _is_time(value: object) -> bool:
    try:
        time_ms(value, "created_at")
    except InvalidInput:
        return False
    return True
