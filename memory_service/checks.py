"""Bounds on what callers send, each with its message. A check that is not passed raises `InvalidInput`."""

import hashlib
from dataclasses import dataclass

from memory_service import metadata
from vector_memory.errors import InvalidInput
from vector_memory.fields import Text
from vector_memory.memories import KEY, NAMESPACE, TTL_SECONDS, NewMemory
from vector_memory.times import iso_time, time_ms

IDEMPOTENCY_KEY = Text(255, "use a shorter one")

MINUTE_MS = 60 * 1000
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class CheckedMemory:
    """A new memory that is within all bounds.

    Attributes:
        key: given, or derived from the content.
        metadata: canonical JSON text.
        created_at_ms: when it was first stored elsewhere; None for now.
        expires_at_ms: instead of `ttl_ms`.
    """

    namespace: str
    key: str
    content: str
    metadata: str
    ttl_ms: int | None
    created_at_ms: int | None
    expires_at_ms: int | None


def new_memory(memory: NewMemory, now_ms: int) -> CheckedMemory:
    """Check everything about a new memory but its vectors."""
    if memory.ttl_seconds is not None and memory.expires_at is not None:
        raise InvalidInput("Send either ttl_seconds or expires_at, and not both.", field="expires_at")
    return CheckedMemory(
        memory.namespace,
        memory.key if memory.key is not None else derived_key(memory.content),
        memory.content,
        metadata.canonical(memory.metadata),
        None if memory.ttl_seconds is None else memory.ttl_seconds * 1000,
        None if memory.created_at is None else created_at(memory.created_at, now_ms),
        None if memory.expires_at is None else expires_at(memory.expires_at, now_ms),
    )


def created_at(value: str, now_ms: int) -> int:
    """An ISO 8601 time from 1970 to now, in milliseconds; a minute in the future is let through and taken as now."""
    at_ms = time_ms(value, "created_at")
    if not 0 <= at_ms <= now_ms + MINUTE_MS:
        raise InvalidInput(
            f"created_at must be between 1970 and now; it is {iso_time(now_ms)} here.", field="created_at"
        )
    return min(at_ms, now_ms)


def expires_at(value: str, now_ms: int) -> int:
    """An ISO 8601 time in the future, in milliseconds."""
    at_ms = time_ms(value, "expires_at")
    if not now_ms < at_ms <= now_ms + TTL_SECONDS.most * 1000:
        raise InvalidInput(
            f"expires_at must be in the future and at most {TTL_SECONDS.most // (365 * 24 * 3600)} years from now; "
            f"it is {iso_time(now_ms)} here.",
            field="expires_at",
        )
    return at_ms


def derived_key(content: str) -> str:
    """The key of a memory that was stored without one: the same content has the same key."""
    return f"sha256-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def key(value: str, field: str = "key") -> None:
    """Check that a key is text of 1 to 512 characters."""
    KEY.check(value, field)


def namespace(value: str) -> None:
    """Check that a namespace is text of 1 to 128 characters."""
    NAMESPACE.check(value, "namespace")


def as_of(value: str | None, now_ms: int, kept_ms: int) -> int | None:
    """An ISO 8601 time, not in the future and not longer ago than superseded versions are kept; in milliseconds.

    A minute in the future is let through, since callers' clocks differ.
    """
    if value is None:
        return None
    at_ms = time_ms(value, "as_of")
    if at_ms > now_ms + MINUTE_MS:
        raise InvalidInput(
            f"as_of is in the future; it is {iso_time(now_ms)} here. Leave it out for now.", field="as_of"
        )
    if at_ms < now_ms - kept_ms:
        raise InvalidInput(
            f"as_of must not be before {iso_time(now_ms - kept_ms)}: versions are kept for {kept_ms / DAY_MS:g} days "
            "(MEMORY_VERSIONS_KEPT_DAYS).",
            field="as_of",
        )
    return at_ms
