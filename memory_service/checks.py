"""Bounds on what callers send, each with its message. A check that is not passed raises `InvalidInput`."""

import hashlib

from memory_service import metadata
from memory_service.clock import iso_time
from memory_service.filters.grammar import time_ms
from vector_memory.errors import InvalidInput

CONTENT_CHARS_MAX = 100_000
"""About 100 windows of the model and some seconds of embedding; longer texts are documents, to be stored in parts."""

KEY_CHARS_MAX = 512
NAMESPACE_CHARS_MAX = 128
IDEMPOTENCY_KEY_CHARS_MAX = 255
BATCH_ITEMS_MAX = 1_000
QUERY_CHARS_MAX = 10_000
K_MAX = 1_000
LIMIT_MAX = 1_000
DUPLICATES_THRESHOLD_MIN = 0.5
"""Of a cosine; below it memories have little to do with each other."""

MINUTE_MS = 60 * 1000
DAY_MS = 24 * 3600 * 1000
TTL_SECONDS_MAX = 10 * 365 * 24 * 3600


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
    if not now_ms < at_ms <= now_ms + TTL_SECONDS_MAX * 1000:
        raise InvalidInput(
            f"expires_at must be in the future and at most {TTL_SECONDS_MAX // (365 * 24 * 3600)} years from now; "
            f"it is {iso_time(now_ms)} here.",
            field="expires_at",
        )
    return at_ms


def content(value: str) -> None:
    """Any text of 1 to 100,000 characters that is not blank."""
    text(value, "content", CONTENT_CHARS_MAX, "store a longer text in parts")
    if not value.strip():
        raise InvalidInput("content is blank; send the text to remember.", field="content")


def ttl_seconds(value: int) -> None:
    """A second to ten years."""
    whole_number(value, "ttl_seconds", 1, TTL_SECONDS_MAX)


def derived_key(content: str) -> str:
    """The key of a memory that was stored without one: the same content has the same key."""
    return f"sha256-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def key(value: str, field: str = "key") -> None:
    """Any text of 1 to 512 characters."""
    text(value, field, KEY_CHARS_MAX, "use a shorter one")


def namespace(value: str) -> None:
    """Any text of 1 to 128 characters."""
    text(value, "namespace", NAMESPACE_CHARS_MAX, "use a shorter one")


def idempotency_key(value: str) -> None:
    """Any text of 1 to 255 characters."""
    text(value, "Idempotency-Key", IDEMPOTENCY_KEY_CHARS_MAX, "use a shorter one")


def query(value: str, chars_max: int = QUERY_CHARS_MAX) -> None:
    """1 to 10,000 characters (5,000 for research), not blank."""
    text(value, "query", chars_max, "ask for less at once")
    if not value.strip():
        raise InvalidInput("query is blank; say what to look for.", field="query")


def limit(value: int) -> None:
    """1 to 1,000."""
    whole_number(value, "limit", 1, LIMIT_MAX)


def min_score(value: float | None) -> None:
    """A cosine."""
    if value is not None:
        number(value, "min_score", -1, 1)


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


def count(items: int, field: str, most: int) -> None:
    """1 to so many items."""
    if not 1 <= items <= most:
        raise InvalidInput(f"{field} must have 1 to {most} items, not {items}; split it.", field=field)


def text(value: object, field: str, chars_max: int, remedy: str) -> None:
    """Text of 1 to `chars_max` characters that has a UTF-8 form."""
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be a string.", field=field)
    if not value:
        raise InvalidInput(f"{field} is empty; it needs at least 1 character.", field=field)
    if len(value) > chars_max:
        raise InvalidInput(f"{field} has {len(value)} characters; at most {chars_max} fit, {remedy}.", field=field)
    metadata.check_text(value, field)


def whole_number(value: object, field: str, least: int, most: int) -> None:
    """An integer within bounds; true is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{field} must be a whole number from {least} to {most}.", field=field)


def number(value: object, field: str, least: float, most: float) -> None:
    """A finite number within bounds; true is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]  # NaN is not within either
        raise InvalidInput(f"{field} must be a number from {least:g} to {most:g}.", field=field)
