"""Converts times between whole milliseconds since the Unix epoch and ISO 8601 in UTC."""

from datetime import UTC, datetime
from typing import Any

from vector_memory.errors import InvalidInput


def iso_time(ms: int) -> str:
    """Return milliseconds since the Unix epoch as ISO 8601 in UTC, such as 2026-09-14T08:00:00.000Z."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_ms(raw: Any, path: str) -> int:
    """Return an ISO 8601 time as milliseconds since the Unix epoch. A date alone means its midnight in UTC.

    Args:
        raw: the value that the caller sent.
        path: the name of its field, for the error.

    Raises:
        InvalidInput: the value is not an ISO 8601 string, or has a time of day without an offset from UTC.
    """
    remedy = f'{path} must be an ISO 8601 time such as "2026-09-14T08:00:00Z" or a date such as "2026-09-14".'
    if not isinstance(raw, str):
        raise InvalidInput(remedy, field=path)
    try:
        moment = datetime.fromisoformat(raw)
    except ValueError as error:
        raise InvalidInput(remedy, field=path) from error
    if moment.tzinfo is None:
        if len(raw) > len("2026-09-14"):
            raise InvalidInput(f"{path} has no offset from UTC; end it with Z.", field=path)
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
