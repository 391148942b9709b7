"""Idempotency: recognise a repeated request, and answer it as the first time.

The reply is a record of the journal, written behind the records that it answers for. So every worker knows it, and
either both are durable or the request runs again.
"""

from collections.abc import Mapping
from typing import Any

from memory_service import checks
from memory_service.digests import is_versioned, request_digest
from memory_service.journal.records import RememberedReply
from memory_service.model import DeleteOutcome
from memory_service.writing.group import Group
from memory_service.writing.requests import (
    DeleteRequest,
    Idempotency,
    Stale,
    StoreRequest,
    UpdateRequest,
    WriteOutcome,
    WriteRequest,
)
from vector_memory.errors import Conflict
from vector_memory.memories import Stored


def idempotency(key: str | None, operation: str, request: Mapping[str, Any]) -> Idempotency | None:
    """Name a request by the caller's idempotency key; None without a key.

    Raises:
        InvalidInput: the key is too long or empty.
    """
    if key is None:
        return None
    checks.IDEMPOTENCY_KEY.check(key, "Idempotency-Key")
    return Idempotency(key, request_digest(operation, request))


def recall_outcome(request: WriteRequest, group: Group) -> WriteOutcome | None:
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
    outcome = _decode(result)
    # An earlier release digested the `repr` of its own classes, which this one cannot reproduce. Refusing the retry of
    # a write that was accepted just before the update would be worse than taking a reused key for a retry, so such a
    # reply answers every request for the same keys. All of them are forgotten after a day.
    is_same = digest == request.idempotency.digest if is_versioned(digest) else _answers(outcome, request)
    if not is_same:
        raise Conflict("This Idempotency-Key was used for another request; use a fresh one.")
    return outcome


def _answers(outcome: WriteOutcome, request: WriteRequest) -> bool:
    """Return whether an outcome is of this kind of request, and of the same keys."""
    match outcome, request:
        case list(), StoreRequest(items=items):
            return [(it.namespace, it.key) for it in outcome] == [(it.namespace, it.key) for it in items]
        case list(), UpdateRequest(namespace=namespace, key=key):
            return [(it.namespace, it.key) for it in outcome] == [(namespace, key)]
        case DeleteOutcome(keys=deleted, missing=missing), DeleteRequest(keys=keys):
            return keys is None or {*deleted, *missing} == set(keys)
    return False


def remember(request: WriteRequest, outcome: WriteOutcome, group: Group) -> None:
    """Add the reply to the group."""
    if request.idempotency is None or isinstance(outcome, Stale):
        return
    reply = RememberedReply(request.namespace, request.idempotency.key, request.idempotency.digest, _encode(outcome))
    group.write(group.tick(), reply)


_STORED_FIELDS = ("namespace", "key", "status", "created_at_ms", "updated_at_ms")
"""Fields of `Stored` in the order in which a reply in the journal keeps them."""


def _encode(outcome: list[Any] | DeleteOutcome) -> list[Any]:
    """Return the outcome as msgpack values."""
    if isinstance(outcome, DeleteOutcome):
        return ["deleted", outcome.namespace, list(outcome.keys), list(outcome.missing), outcome.receipt]
    return [
        "stored",
        [[getattr(item, name) for name in _STORED_FIELDS] for item in outcome if isinstance(item, Stored)],
    ]


def _decode(result: Any) -> WriteOutcome:
    match result:
        case ["stored", rows]:
            return [Stored(**dict(zip(_STORED_FIELDS, row, strict=True))) for row in rows]
        case ["deleted", namespace, keys, missing, receipt]:
            return DeleteOutcome(
                namespace=namespace, keys=tuple(keys), missing=tuple(missing), dry_run=False, receipt=receipt
            )
    raise ValueError("The journal holds a reply of an unknown form.")
