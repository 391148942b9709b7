"""Checks of what callers send. A check that fails raises `InvalidInput` with the field, the bound and the remedy."""

import hashlib

from vector_memory.errors import InvalidInput
from vector_memory.fields import BoundedText
from vector_memory.memories import KEY, NAMESPACE, TTL_SECONDS
from vector_memory.times import iso_time, time_ms

IDEMPOTENCY_KEY = BoundedText(255, "use a shorter one")

MINUTE_MS = 60 * 1000
DAY_MS = 24 * 3600 * 1000


def created_at(value: str, now_ms: int) -> int:
    """Parse an ISO 8601 time from 1970 to now into milliseconds. A time up to a minute in the future counts as now."""
    at_ms = time_ms(value, "created_at")
    if not 0 <= at_ms <= now_ms + MINUTE_MS:
        raise InvalidInput(
            f"created_at must be between 1970 and now; it is {iso_time(now_ms)} here.", field="created_at"
        )
    return min(at_ms, now_ms)


def expires_at(value: str, now_ms: int) -> int:
    """Parse an ISO 8601 time in the future into milliseconds since the Unix epoch."""
    at_ms = time_ms(value, "expires_at")
    if not now_ms < at_ms <= now_ms + TTL_SECONDS.most * 1000:
        raise InvalidInput(
            f"expires_at must be in the future and at most {TTL_SECONDS.most // (365 * 24 * 3600)} years from now; "
            f"it is {iso_time(now_ms)} here.",
            field="expires_at",
        )
    return at_ms


def derived_key(content: str) -> str:
    """Derive the key of a memory that was stored without one. The same content has the same key."""
    return f"sha256-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def key(value: str, field: str = "key") -> None:
    """Check that a key is text of 1 to 512 characters."""
    KEY.check(value, field)


def namespace(value: str) -> None:
    """Check that a namespace is text of 1 to 128 characters."""
    NAMESPACE.check(value, "namespace")


def as_of(value: str | None, now_ms: int, kept_ms: int) -> int | None:
    """Parse an ISO 8601 time of the past into milliseconds.

    It must lie within the time for which superseded versions are kept. A time up to a minute in the future is accepted,
    since the clocks of callers differ.

    Args:
        value: the time as sent, or None for now.
        now_ms: the present, in milliseconds since the Unix epoch.
        kept_ms: how long superseded versions are kept, in milliseconds.
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
