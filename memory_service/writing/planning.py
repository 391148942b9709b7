"""Planning writes: which records a request leads to, and what it is answered once they are durable.

A group of requests is planned in order, each one against the state that the earlier ones lead to. Nothing is written
here: `committing.py` writes the records, and then settles the plans by how many of them became durable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_service import metadata
from memory_service.clock import Stamp
from memory_service.journal.records import Put, Removal
from memory_service.model import DeleteOutcome
from memory_service.projection.catalog_schema import Version
from memory_service.projection.receipts import receipt_id
from memory_service.writing.group import Group
from memory_service.writing.idempotency import recall_outcome, remember
from memory_service.writing.preparing import PreparedMemory
from memory_service.writing.requests import (
    DeleteRequest,
    Stale,
    StoreRequest,
    UpdateRequest,
    WriteOutcome,
    WriteRequest,
)
from vector_memory.errors import Conflict, InvalidInput, NotFound, ServiceError
from vector_memory.memories import Refused, Stored, StoreStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """A request's outcome, provided that enough of the group becomes durable.

    Attributes:
        needs: for each item (or for the whole of a delete), how many records of the group must be durable.
    """

    outcome: WriteOutcome | ServiceError
    needs: list[int]


def plan(request: WriteRequest, group: Group) -> Plan:
    """Plan one request, and add its records to the group."""
    try:
        outcome = recall_outcome(request, group)
    except Conflict as conflict:
        return Plan(conflict, [])
    if outcome is not None:
        # The reply may be of this very group, and not durable yet.
        return Plan(outcome, [len(group.records)] * (len(outcome) if isinstance(outcome, list) else 1))
    match request:
        case StoreRequest():
            planned = _plan_store(request, group)
        case DeleteRequest():
            planned = _plan_delete(request, group)
        case UpdateRequest():
            planned = _plan_update(request, group)
    if not isinstance(planned.outcome, ServiceError):
        remember(request, planned.outcome, group)
    return planned


def _plan_store(request: StoreRequest, group: Group) -> Plan:
    # All items are looked at before the first is planned, so that a stale request leaves no records behind.
    if any(_lacks_vectors(item, group) for item in request.items):
        return Plan(Stale(), [])
    outcome: list[Stored | Refused] = []
    needs: list[int] = []
    for item in request.items:
        outcome.append(_store(item, group))
        needs.append(len(group.records))
    return Plan(outcome, needs)


def _lacks_vectors(item: PreparedMemory, group: Group) -> bool:
    """Return whether the item came without vectors and cannot take those of the memory under its key."""
    if item.vectors is not None:
        return False
    current = group.version(item.namespace, item.key)
    if current is None or current.content != item.content:
        return True
    return not (_is_unchanged(current, item) or group.has_vectors(item.namespace, current))


def _store(item: PreparedMemory, group: Group) -> Stored:
    current = group.version(item.namespace, item.key)
    if current is not None and _is_unchanged(current, item):
        status, created_at_ms, updated_at_ms = StoreStatus.UNCHANGED, current.created_at_ms, current.stamp.ms
    else:
        stamp = group.tick()
        put = _put(item, current, stamp, group)
        group.write(stamp, put)
        status = StoreStatus.UPDATED if current else StoreStatus.STORED
        created_at_ms, updated_at_ms = put.created_at_ms, stamp.ms
    times = {"created_at_ms": created_at_ms, "updated_at_ms": updated_at_ms}
    return Stored(namespace=item.namespace, key=item.key, status=status, **times)


def _put(item: PreparedMemory, current: Version | None, stamp: Stamp, group: Group) -> Put:
    vectors, created_at_ms = item.vectors, item.created_at_ms
    if vectors is None:
        # The content is the same as before, so its vectors are, too.
        assert current is not None, "an item comes without vectors only if its content is held"
        vectors = group.vectors(item.namespace, current)
    if created_at_ms is None:
        created_at_ms = current.created_at_ms if current else stamp.ms
    return Put(
        namespace=item.namespace,
        key=item.key,
        content=item.content,
        metadata=item.metadata,
        vectors=vectors,
        created_at_ms=created_at_ms,
        expires_at_ms=item.expires_at_ms if item.ttl_ms is None else group.now_ms + item.ttl_ms,
    )


def _is_unchanged(version: Version, item: PreparedMemory) -> bool:
    same = version.content == item.content and version.metadata == item.metadata
    is_as_old = item.created_at_ms in (None, version.created_at_ms)
    return same and is_as_old and version.expires_at_ms == item.expires_at_ms and item.ttl_ms is None


def _plan_update(request: UpdateRequest, group: Group) -> Plan:
    # The memory is read here and not when the request was made, so no other request of this worker comes in between.
    current = group.version(request.namespace, request.key)
    if current is None:
        return Plan(NotFound("There is no memory with this key any more, so there is nothing to update."), [])
    content = current.content if request.content is None else request.content
    # The vectors that came with the request are of the text as it was then. They count only if it is still the text.
    if request.embedded is not None and request.embedded[0] == content:
        vectors = request.embedded[1]
    elif content == current.content and group.has_vectors(request.namespace, current):
        vectors = group.vectors(request.namespace, current)
    else:
        return Plan(Stale(), [])
    text = current.metadata
    if request.metadata is not None:
        try:
            text = metadata.merged(text, request.metadata)
        except InvalidInput as error:
            return Plan(error, [])
    # From here on, an update is a store of what it leads to.
    item = PreparedMemory(
        namespace=request.namespace,
        key=request.key,
        content=content,
        metadata=text,
        ttl_ms=None,
        created_at_ms=current.created_at_ms,
        expires_at_ms=current.expires_at_ms if request.ttl_ms is None else group.now_ms + request.ttl_ms,
        vectors=vectors,
    )
    return Plan([_store(item, group)], [len(group.records)])


def _plan_delete(request: DeleteRequest, group: Group) -> Plan:
    keys: Sequence[str] = request.keys or ()
    if request.filter is not None:
        keys = group.projection.catalog.matching_keys(request.namespace, request.filter)
    # A key that is given twice is deleted once.
    present = [key for key in dict.fromkeys(keys) if group.version(request.namespace, key) is not None]
    receipt = None
    for key in present:
        stamp = group.tick()
        group.write(stamp, Removal(request.namespace, key))
        receipt = receipt_id(stamp)
    deleted, missing = tuple(sorted(present)), tuple(sorted(set(keys).difference(present)))
    outcome = DeleteOutcome(namespace=request.namespace, keys=deleted, missing=missing, dry_run=False, receipt=receipt)
    return Plan(outcome, [len(group.records)])


def settle(plan: Plan, durable: int, error: ServiceError | None) -> WriteOutcome | ServiceError:
    """Return a plan's outcome, with everything refused that did not become durable.

    Args:
        plan: of one request.
        durable: how many records of the group are durable.
        error: why the others are not; None if all are.
    """
    if error is None or isinstance(plan.outcome, ServiceError) or all(needed <= durable for needed in plan.needs):
        return plan.outcome
    if not isinstance(plan.outcome, list):
        return error  # a delete is durable as a whole, or refused as a whole
    return [
        item if needed <= durable else Refused(namespace=item.namespace, key=item.key, error=error)
        for item, needed in zip(plan.outcome, plan.needs, strict=True)
    ]
