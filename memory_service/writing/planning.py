"""Planning writes: which records a request leads to, and what it will be answered when they are durable.

A group of requests is planned in order, each against the state that those before it lead to. Nothing is written here;
`committing.py` does that and then settles the plans as far as their records became durable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from memory_service import metadata
from memory_service.clock import Stamp
from memory_service.embedding.embedder import Vectors
from memory_service.filters.grammar import Filter
from memory_service.journal.records import Delete, Mutation, Put, Record, Reply
from memory_service.model import DeleteOutcome
from memory_service.projection.applying import Projection
from memory_service.projection.catalog import Version
from memory_service.projection.receipts import receipt_id
from vector_memory.errors import Conflict, InvalidInput, NotFound, ServiceError, Unavailable
from vector_memory.memories import Metadata, Refused, Stored, StoreStatus


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's name for one request, and the digest that tells another request under the same name."""

    key: str
    request: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked item of a store.

    Attributes:
        metadata: canonical JSON text.
        vectors: None when the same content was there already, whose vectors will do.
        created_at_ms: when it was first stored elsewhere; None leaves it as it is, or makes it now.
        expires_at_ms: instead of `ttl_ms`.
    """

    namespace: str
    key: str
    content: str
    metadata: str
    ttl_ms: int | None
    vectors: Vectors | None
    created_at_ms: int | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Store these items (at least one), in order. Answered with `Stored` or `Refused` for each, or `Stale` for all."""

    items: tuple[Prepared, ...]
    idempotency: Idempotency | None = None

    @property
    def namespace(self) -> str:
        """Where its idempotency key is remembered; the request's digest covers the other namespaces."""
        return self.items[0].namespace


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Delete by key, or whatever matches the filter when this request's turn has come. Answered with `DeleteOutcome`."""

    namespace: str
    keys: tuple[str, ...] | None
    filter: Filter | None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """Change the memory that is there when this request's turn has come. Answered as a store of one item.

    Attributes:
        content: None keeps it.
        embedded: a text and its vectors, for use if that is the text from now on; None where those that are there
            may do.
        metadata: merged into what is there, as `metadata.merged` says; None keeps it.
        ttl_ms: from now; None keeps the end of its lifetime.
    """

    namespace: str
    key: str
    content: str | None
    embedded: tuple[str, Vectors] | None
    metadata: Metadata | None
    ttl_ms: int | None
    idempotency: Idempotency | None = None


WriteRequest: TypeAlias = StoreRequest | DeleteRequest | UpdateRequest


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing was stored: a content that was there when its item was prepared has changed since, or lost its vectors.

    Prepare the items again, with vectors.
    """


Outcome: TypeAlias = list[Stored | Refused] | DeleteOutcome | Stale

_UNNUMBERED = -1
"""The id of a version that the catalog does not hold yet."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A memory as the requests planned so far leave it."""

    version: Version
    vectors: Vectors | None


@dataclass(slots=True)
class Group:
    """The records of a group commit in the making, and the state that they lead to."""

    projection: Projection
    tick: Callable[[], Stamp]
    now_ms: int
    records: list[Record] = field(default_factory=list)
    _changed: dict[tuple[str, str], _Held | None] = field(default_factory=dict)
    _replies: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)

    def held(self, namespace: str, key: str) -> _Held | None:
        """The memory under a key after the requests planned so far."""
        if (namespace, key) in self._changed:
            return self._changed[namespace, key]
        version = self.projection.catalog.version(namespace, key)
        return _Held(version, None) if version else None

    def vectors(self, namespace: str, held: _Held) -> Vectors:
        """Its vectors."""
        if held.vectors is not None:
            return held.vectors
        index = self.projection.index(namespace)
        assert index is not None, "a memory in the catalog has vectors in its namespace's index"
        return index.dense.vectors(held.version.id)

    def has_vectors(self, namespace: str, held: _Held) -> bool:
        """Whether its vectors can be had: its namespace's index may be lost (`resident.py`)."""
        if held.vectors is not None:
            return True
        try:
            return self.projection.index(namespace) is not None
        except Unavailable:
            return False

    def reply(self, namespace: str, idempotency: Idempotency) -> Any | None:
        """What the same request was answered before.

        Raises:
            Conflict: the key was used for another request.
        """
        found = self._replies.get((namespace, idempotency.key)) or self.projection.catalog.reply(
            namespace, idempotency.key
        )
        if found is None:
            return None
        if found[0] != idempotency.request:
            raise Conflict("This Idempotency-Key was used for another request; use a fresh one.")
        return found[1]

    def write(self, stamp: Stamp, mutation: Mutation) -> None:
        """Add a record to the group."""
        self.records.append(Record(stamp, mutation))
        match mutation:
            case Put() as put:
                version = Version(_UNNUMBERED, put.content, put.metadata, stamp, put.created_at_ms, put.expires_at_ms)
                self._changed[put.namespace, put.key] = _Held(version, put.vectors)
            case Delete(namespace, key):
                self._changed[namespace, key] = None
            case Reply(namespace, key, request, result):
                self._replies[namespace, key] = (request, result)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request's outcome, provided that enough of the group becomes durable.

    Attributes:
        needs: for each item (or for the whole of a delete), how many records of the group it rests on.
    """

    outcome: Outcome | ServiceError
    needs: list[int]


def plan(request: WriteRequest, group: Group) -> Plan:
    """Plan one request, adding its records to the group."""
    if request.idempotency is not None:
        try:
            reply = group.reply(request.namespace, request.idempotency)
        except Conflict as conflict:
            return Plan(conflict, [])
        if reply is not None:
            outcome = _from_reply(reply)
            return Plan(outcome, [len(group.records)] * _items(outcome))
    match request:
        case StoreRequest():
            planned = _plan_store(request, group)
        case DeleteRequest():
            planned = _plan_delete(request, group)
        case UpdateRequest():
            planned = _plan_update(request, group)
    if request.idempotency is not None and not isinstance(planned.outcome, ServiceError):
        _remember(request.namespace, request.idempotency, planned.outcome, group)
    return planned


def _plan_store(request: StoreRequest, group: Group) -> Plan:
    held = [group.held(item.namespace, item.key) for item in request.items]
    if any(_lacks_vectors(item, memory, group) for item, memory in zip(request.items, held, strict=True)):
        return Plan(Stale(), [])
    outcome: list[Stored | Refused] = []
    needs: list[int] = []
    for item in request.items:
        outcome.append(_store(item, group))
        needs.append(len(group.records))
    return Plan(outcome, needs)


def _lacks_vectors(item: Prepared, held: _Held | None, group: Group) -> bool:
    """Whether it came without vectors, and those of what is held will not do."""
    if item.vectors is not None:
        return False
    if held is None or held.version.content != item.content:
        return True
    return not (_is_unchanged(held.version, item) or group.has_vectors(item.namespace, held))


def _store(item: Prepared, group: Group) -> Stored:
    held = group.held(item.namespace, item.key)
    if held is not None and _is_unchanged(held.version, item):
        return Stored(
            namespace=item.namespace,
            key=item.key,
            status=StoreStatus.UNCHANGED,
            created_at_ms=held.version.created_at_ms,
            updated_at_ms=held.version.stamp.ms,
        )
    vectors = item.vectors
    if vectors is None:
        assert held is not None, "an item comes without vectors only when its content is held"
        vectors = group.vectors(item.namespace, held)
    stamp = group.tick()
    created_at_ms = item.created_at_ms
    if created_at_ms is None:
        created_at_ms = held.version.created_at_ms if held else stamp.ms
    expires_at_ms = item.expires_at_ms if item.ttl_ms is None else group.now_ms + item.ttl_ms
    group.write(
        stamp, Put(item.namespace, item.key, item.content, item.metadata, vectors, created_at_ms, expires_at_ms)
    )
    status = StoreStatus.UPDATED if held else StoreStatus.STORED
    return Stored(
        namespace=item.namespace, key=item.key, status=status, created_at_ms=created_at_ms, updated_at_ms=stamp.ms
    )


def _is_unchanged(version: Version, item: Prepared) -> bool:
    same = version.content == item.content and version.metadata == item.metadata
    is_as_old = item.created_at_ms in (None, version.created_at_ms)
    return same and is_as_old and version.expires_at_ms == item.expires_at_ms and item.ttl_ms is None


def _plan_update(request: UpdateRequest, group: Group) -> Plan:
    """What is there is read here and not before, so no other request of this worker comes in between."""
    held = group.held(request.namespace, request.key)
    if held is None:
        return Plan(NotFound("There is no memory with this key any more, so there is nothing to update."), [])
    content = held.version.content if request.content is None else request.content
    if request.embedded is not None and request.embedded[0] == content:
        vectors = request.embedded[1]
    elif content == held.version.content and group.has_vectors(request.namespace, held):
        vectors = group.vectors(request.namespace, held)
    else:
        return Plan(Stale(), [])
    text = held.version.metadata
    if request.metadata is not None:
        try:
            text = metadata.merged(text, request.metadata)
        except InvalidInput as error:
            return Plan(error, [])
    expires_at_ms = held.version.expires_at_ms if request.ttl_ms is None else group.now_ms + request.ttl_ms
    created_at_ms = held.version.created_at_ms
    if (content, text, expires_at_ms) == (held.version.content, held.version.metadata, held.version.expires_at_ms):
        unchanged = Stored(
            namespace=request.namespace,
            key=request.key,
            status=StoreStatus.UNCHANGED,
            created_at_ms=created_at_ms,
            updated_at_ms=held.version.stamp.ms,
        )
        return Plan([unchanged], [len(group.records)])
    stamp = group.tick()
    group.write(stamp, Put(request.namespace, request.key, content, text, vectors, created_at_ms, expires_at_ms))
    updated = Stored(
        namespace=request.namespace,
        key=request.key,
        status=StoreStatus.UPDATED,
        created_at_ms=created_at_ms,
        updated_at_ms=stamp.ms,
    )
    return Plan([updated], [len(group.records)])


def _plan_delete(request: DeleteRequest, group: Group) -> Plan:
    keys: Sequence[str] = request.keys or ()
    if request.filter is not None:
        keys = group.projection.catalog.matching_keys(request.namespace, request.filter)
    present = [key for key in dict.fromkeys(keys) if group.held(request.namespace, key) is not None]
    receipt = None
    for key in present:
        stamp = group.tick()
        group.write(stamp, Delete(request.namespace, key))
        receipt = receipt_id(stamp)
    missing = sorted(set(keys).difference(present))
    deleted = DeleteOutcome(
        namespace=request.namespace,
        keys=tuple(sorted(present)),
        missing=tuple(missing),
        dry_run=False,
        receipt=receipt,
    )
    return Plan(deleted, [len(group.records)])


def _items(outcome: Outcome) -> int:
    return len(outcome) if isinstance(outcome, list) else 1


def settled(plan: Plan, durable: int, error: ServiceError | None) -> Outcome | ServiceError:
    """The outcome as far as it is durable."""
    if error is None or isinstance(plan.outcome, ServiceError) or all(needed <= durable for needed in plan.needs):
        return plan.outcome
    if not isinstance(plan.outcome, list):
        return error
    return [
        item if needed <= durable else Refused(namespace=item.namespace, key=item.key, error=error)
        for item, needed in zip(plan.outcome, plan.needs, strict=True)
    ]


_STORED_FIELDS = ("namespace", "key", "status", "created_at_ms", "updated_at_ms")
"""The order in which a remembered reply keeps the fields of `Stored`."""


def _remember(namespace: str, idempotency: Idempotency, outcome: Outcome, group: Group) -> None:
    """Write the reply behind the records it answers for."""
    match outcome:
        case DeleteOutcome():
            result: Any = ["deleted", outcome.namespace, list(outcome.keys), list(outcome.missing), outcome.receipt]
        case Stale():
            return
        case _:
            stored = [item for item in outcome if isinstance(item, Stored)]
            result = ["stored", [[getattr(item, field) for field in _STORED_FIELDS] for item in stored]]
    group.write(group.tick(), Reply(namespace, idempotency.key, idempotency.request, result))


def _from_reply(result: Any) -> Outcome:
    match result:
        case ["stored", rows]:
            return [Stored(**dict(zip(_STORED_FIELDS, row, strict=True))) for row in rows]
        case ["deleted", namespace, keys, missing, receipt]:
            return DeleteOutcome(
                namespace=namespace, keys=tuple(keys), missing=tuple(missing), dry_run=False, receipt=receipt
            )
    raise ValueError("a remembered reply makes no sense")
