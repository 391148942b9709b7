"""Idempotency: recognise a repeated request, and answer it as the first time.

The reply is a record of the journal, written behind the records that it answers for. So every worker knows it, and
either both are durable or the request runs again.
"""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from memory_service import checks
from memory_service.digests import request_digest
from memory_service.errors import Conflict
from memory_service.journal.records import Reply
from memory_service.model import Deleted, Stored, StoreStatus
from memory_service.writing.group import Group
from memory_service.writing.requests import Idempotency, Stale, WriteOutcome, WriteRequest


def idempotency(key: str | None, operation: str, request: Mapping[str, Any]) -> Idempotency | None:
    """Name a request by the caller's idempotency key; None without a key.

    Raises:
        InvalidInput: the key is too long or empty.
    """
    if key is None:
        return None
    checks.idempotency_key(key)
    return Idempotency(key, request_digest(operation, request))


def remembered_outcome(request: WriteRequest, group: Group) -> WriteOutcome | None:
    """Return what the same request was answered before; None for a new request.

    Raises:
        Conflict: the idempotency key was used for another request.
    """
    if request.idempotency is None:
        return None
    reply = group.reply(request.namespace, request.idempotency.key)
    if reply is None:
        return None
    digest, result = reply
    if digest != request.idempotency.digest:
        raise Conflict("This Idempotency-Key was used for another request; use a fresh one.")
    return _decode(result)


def remember(request: WriteRequest, outcome: WriteOutcome, group: Group) -> None:
    """Add the reply to the group."""
    if request.idempotency is None or isinstance(outcome, Stale):
        return
    reply = Reply(request.namespace, request.idempotency.key, request.idempotency.digest, _encode(outcome))
    group.write(group.tick(), reply)


def _encode(outcome: list[Any] | Deleted) -> list[Any]:
    """The outcome as msgpack values."""
    if isinstance(outcome, Deleted):
        return ["deleted", outcome.namespace, list(outcome.keys), list(outcome.missing), outcome.receipt]
    return ["stored", [list(astuple(item)) for item in outcome if isinstance(item, Stored)]]


def _decode(result: Any) -> WriteOutcome:
    match result:
        case ["stored", rows]:
            return [Stored(namespace, key, StoreStatus(status), *times) for namespace, key, status, *times in rows]
        case ["deleted", namespace, keys, missing, receipt]:
            return Deleted(namespace, tuple(keys), tuple(missing), dry_run=False, receipt=receipt)
    raise ValueError("The journal holds a reply of an unknown form.")
