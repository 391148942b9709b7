"""Lines of our own exports, or any JSON objects with a `content`."""

from collections.abc import Iterator
from typing import Any

from gateway.exchange.exporting import FORMAT, FORMAT_VERSION
from gateway.exchange.items import ItemOrProblem, Problem, item_of
from vector_memory.memories import DEFAULT_NAMESPACE

_FIELDS = frozenset(
    {"content", "key", "namespace", "metadata", "created_at", "updated_at", "expires_at", "ttl_seconds", "embedding"}
)


def items(value: dict[str, Any], where: str, namespace: str | None) -> Iterator[ItemOrProblem]:
    """Yield the memory of a line; the header has none."""
    if value.get("format") == FORMAT and "content" not in value:
        if value.get("version") != FORMAT_VERSION:
            yield Problem(where, f"This export has version {value.get('version')}; only {FORMAT_VERSION} can be read.")
        return
    unknown = sorted(value.keys() - _FIELDS)
    if "content" not in value:
        yield Problem(where, "This has no content, and is not of another format that can be read.")
    elif unknown:
        yield Problem(where, f"{unknown[0]} is not a field of a memory; put it into metadata.")
    else:
        # `updated_at` is not taken over: it is the time of this import.
        fields = {name: value[name] for name in value.keys() - {"updated_at"} if value[name] is not None}
        fields["namespace"] = namespace or fields.get("namespace") or DEFAULT_NAMESPACE
        yield item_of(where, **fields)
