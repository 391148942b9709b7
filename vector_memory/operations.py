"""The table of operations. HTTP routes, job actions, client calls, metrics and logs are derived from it.

An operation is declared here once: its name, method and path, its request and answer types, the right it needs, and how
it may be repeated. `gateway/calls.py` binds each one to the service that carries it out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from vector_memory import administration, documents, memories, research, retrieval
from vector_memory.errors import InvalidInput
from vector_memory.fields import Request, Value

Q = TypeVar("Q", bound=Request)
A = TypeVar("A", bound=Value)


class Right(StrEnum):
    """What a caller must be allowed to do."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    ADMIN = "admin"


class Repeat(StrEnum):
    """Whether an operation may be sent again when its answer was lost."""

    SAFE = "safe"
    """The operation changes nothing, or doing it twice has the same effect as doing it once."""

    KEYED = "keyed"
    """A repetition under the same idempotency key returns the first answer."""

    NEVER = "never"
    """A repetition may do the same thing twice, so the client does not retry."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an HTTP request before it is serialized.

    Attributes:
        path: the path, percent-encoded and without the query.
        query: the names and values of the query, not encoded.
        body: a JSON object, or None for no body.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that a caller can ask for, and the right that it needs."""

    name: str
    needs: Right


@dataclass(frozen=True, kw_only=True)
class Operation(Action, Generic[Q, A]):
    """An action with a route, a request type and an answer type.

    Attributes:
        path: the path, in which `{name}` stands for the field of that name.
        summary: a short imperative for `/openapi.json`.
        in_query: fields that are sent in the query although the method has a body.
        whole_body: the field that is the whole body. Without it, the body is an object of all fields.
        passes_key: whether an idempotency key is passed on although the client never retries the operation.
        streams: whether the field `stream` asks for an answer of server-sent events.
        statuses: the HTTP statuses of errors other than 422 and 503, for `/openapi.json`.
    """

    method: str
    path: str
    request: type[Q]
    answer: type[A]
    summary: str
    repeat: Repeat = Repeat.SAFE
    in_query: frozenset[str] = frozenset()
    whole_body: str | None = None
    passes_key: bool = False
    streams: bool = False
    statuses: tuple[int, ...] = ()

    @cached_property
    def in_path(self) -> tuple[str, ...]:
        """The fields that are parts of the path."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def is_keyed(self) -> bool:
        """Whether the operation takes an idempotency key."""
        return self.repeat is Repeat.KEYED or self.passes_key

    @cached_property
    def has_body(self) -> bool:
        """Whether fields are sent in a JSON body."""
        return self.method in ("POST", "PATCH", "PUT") and bool(self.body_fields)

    @cached_property
    def body_fields(self) -> tuple[str, ...]:
        """The fields that are sent in the body, if the method has one."""
        return tuple(name for name in self.request.model_fields if name not in {*self.in_path, *self.in_query})

    @cached_property
    def query_fields(self) -> tuple[str, ...]:
        """The fields that are sent in the query."""
        if self.has_body:
            return tuple(self.in_query)
        return tuple(name for name in self.request.model_fields if name not in self.in_path)

    def parts(self, fields: Mapping[str, Any]) -> Parts:
        """Return the HTTP request that carries these fields. The service checks the fields, not this method.

        Raises:
            InvalidInput: a field of the path is missing or is not text.
        """
        rest = dict(fields)
        path = self.path.format_map({name: path_part(rest.pop(name, None), name) for name in self.in_path})
        if self.has_body:
            query = {name: rest.pop(name) for name in self.in_query if name in rest}
            body = rest if self.whole_body is None else rest.pop(self.whole_body, {})
            return Parts(self.method, path, _texts(query), body)
        return Parts(self.method, path, _texts(rest))


def path_part(text: object, name: str) -> str:
    """Return a text as one percent-encoded segment of a path.

    Raises:
        InvalidInput: it is not text, or has no UTF-8 form.
    """
    if text is None:
        raise InvalidInput(f"{name} is required.", field=name)
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be a string.", field=name)
    if not text:
        raise InvalidInput(f"{name} is empty; it needs at least 1 character.", field=name)
    try:
        # Dots are encoded too, since clients and proxies resolve the segments `.` and `..`.
        return quote(text, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} holds half of a surrogate pair, which is not text.", field=name) from error


def _texts(query: Mapping[str, Any]) -> dict[str, str]:
    sent = {name: value for name, value in query.items() if value is not None}
    return {name: value if isinstance(value, str) else _json(value, name) for name, value in sent.items()}


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"{name} holds what JSON cannot express, such as NaN, a set or a date.", field=name
        ) from error


STORE = Operation(
    name="store",
    method="POST",
    path="/v1/memories",
    request=memories.NewMemory,
    answer=memories.Stored,
    needs=Right.WRITE,
    repeat=Repeat.KEYED,
    summary="Store a memory",
    statuses=(409, 507),
)
STORE_BATCH = Operation(
    name="store_batch",
    method="POST",
    path="/v1/memories/batch",
    request=memories.Batch,
    answer=memories.StoredBatch,
    needs=Right.WRITE,
    repeat=Repeat.KEYED,
    summary="Store many memories",
    statuses=(409, 507),
)
RETRIEVE = Operation(
    name="retrieve",
    method="POST",
    path="/v1/memories/retrieve",
    request=retrieval.Retrieval,
    answer=retrieval.Retrieved,
    needs=Right.READ,
    summary="Retrieve memories",
    statuses=(404,),
)
RETRIEVE_BATCH = Operation(
    name="retrieve_batch",
    method="POST",
    path="/v1/memories/retrieve/batch",
    request=retrieval.RetrievalBatch,
    answer=retrieval.RetrievedBatch,
    needs=Right.READ,
    summary="Retrieve by many queries",
    statuses=(404,),
)
DUPLICATES = Operation(
    name="duplicates",
    method="POST",
    path="/v1/memories/duplicates",
    request=memories.DuplicateSearch,
    answer=memories.DuplicatesPage,
    needs=Right.READ,
    summary="Report near-duplicates",
)
DELETE_MANY = Operation(
    name="delete_many",
    method="POST",
    path="/v1/memories/delete",
    request=memories.BulkDelete,
    answer=memories.Deletion,
    needs=Right.DELETE,
    repeat=Repeat.KEYED,
    summary="Delete many memories",
    statuses=(409, 507),
)
LIST = Operation(
    name="list",
    method="GET",
    path="/v1/memories",
    request=memories.Listing,
    answer=memories.Page,
    needs=Right.READ,
    summary="List memories",
)
HISTORY = Operation(
    name="history",
    method="GET",
    path="/v1/memories/{key}/history",
    request=memories.GetHistory,
    answer=memories.History,
    needs=Right.READ,
    summary="A memory's history",
    statuses=(404,),
)
GET = Operation(
    name="get",
    method="GET",
    path="/v1/memories/{key}",
    request=memories.Get,
    answer=memories.Memory,
    needs=Right.READ,
    summary="Get a memory",
    statuses=(404,),
)
UPDATE = Operation(
    name="update",
    method="PATCH",
    path="/v1/memories/{key}",
    request=memories.Update,
    answer=memories.Stored,
    needs=Right.WRITE,
    repeat=Repeat.KEYED,
    in_query=frozenset({"namespace"}),
    summary="Update a memory",
    statuses=(404, 409, 507),
)
DELETE = Operation(
    name="delete",
    method="DELETE",
    path="/v1/memories/{key}",
    request=memories.Delete,
    answer=memories.Deleted,
    needs=Right.DELETE,
    repeat=Repeat.KEYED,
    summary="Delete a memory",
    statuses=(404, 409, 507),
)
RECEIPT = Operation(
    name="receipt",
    method="GET",
    path="/v1/receipts/{receipt}",
    request=memories.Redeem,
    answer=memories.Receipt,
    needs=Right.READ,
    summary="Redeem a receipt",
    statuses=(404, 507),
)
RESEARCH = Operation(
    name="research",
    method="POST",
    path="/v1/research",
    request=research.ResearchRequest,
    answer=research.Answer,
    needs=Right.READ,
    streams=True,
    summary="Research a question",
    statuses=(500, 502, 504),
)
TRACE = Operation(
    name="trace",
    method="GET",
    path="/v1/research/{trace_id}",
    request=research.GetTrace,
    answer=research.TraceShown,
    needs=Right.READ,
    summary="A trace of research",
    statuses=(404,),
)
REPLAY = Operation(
    name="replay",
    method="POST",
    path="/v1/research/{trace_id}/replay",
    request=research.ReplayRequest,
    answer=research.Replay,
    needs=Right.READ,
    summary="Retrieve again",
    statuses=(404,),
)
STORE_DOCUMENT = Operation(
    name="store_document",
    method="POST",
    path="/v1/documents",
    request=documents.StoreDocument,
    answer=documents.Uploaded,
    needs=Right.WRITE,
    summary="Store a document",
    statuses=(415, 507),
)
LIST_DOCUMENTS = Operation(
    name="list_documents",
    method="GET",
    path="/v1/documents",
    request=documents.DocumentListing,
    answer=documents.DocumentsPage,
    needs=Right.READ,
    summary="List documents",
)
GET_DOCUMENT = Operation(
    name="get_document",
    method="GET",
    path="/v1/documents/{id}",
    request=documents.GetDocument,
    answer=documents.PlacedDocument,
    needs=Right.READ,
    summary="Get a document",
    statuses=(404,),
)
DELETE_DOCUMENT = Operation(
    name="delete_document",
    method="DELETE",
    path="/v1/documents/{id}",
    request=documents.DeleteDocument,
    answer=documents.DeletedDocument,
    needs=Right.DELETE,
    repeat=Repeat.KEYED,
    summary="Delete a document",
    statuses=(404, 409, 507),
)
RESOLVE_LIBRARY = Operation(
    name="resolve_library",
    method="GET",
    path="/v1/libraries",
    request=documents.LibrarySearch,
    answer=documents.Libraries,
    needs=Right.READ,
    summary="Find a library",
)
GET_DOCS = Operation(
    name="get_docs",
    method="GET",
    path="/v1/libraries/{library}/docs",
    request=documents.LibraryReading,
    answer=documents.Docs,
    needs=Right.READ,
    summary="Read a library",
    statuses=(404,),
)
LIST_TOOLS = Operation(
    name="list_tools",
    method="GET",
    path="/v1/tools",
    request=administration.Nothing,
    answer=administration.ToolsAnswer,
    needs=Right.READ,
    summary="List the tools",
)
CALL_TOOL = Operation(
    name="call_tool",
    method="POST",
    path="/v1/tools/{name}",
    request=administration.ToolCall,
    answer=administration.ToolAnswer,
    needs=Right.WRITE,
    repeat=Repeat.NEVER,  # a tool of another package may not be safe to repeat
    passes_key=True,
    whole_body="parameters",
    summary="Call a tool",
    statuses=(404, 500, 502, 504, 507),
)
STATS = Operation(
    name="stats",
    method="GET",
    path="/v1/admin/stats",
    request=administration.Nothing,
    answer=administration.Stats,
    needs=Right.ADMIN,
    summary="Count the memories",
)
SNAPSHOT = Operation(
    name="snapshot",
    method="POST",
    path="/v1/admin/snapshot",
    request=administration.Nothing,
    answer=administration.SnapshotTaken,
    needs=Right.ADMIN,
    repeat=Repeat.NEVER,
    summary="Take a snapshot",
    statuses=(507,),
)
COMPACT = Operation(
    name="compact",
    method="POST",
    path="/v1/admin/compact",
    request=administration.Nothing,
    answer=administration.Compacted,
    needs=Right.ADMIN,
    repeat=Repeat.NEVER,
    summary="Compact the data folder",
    statuses=(507,),
)
HEALTH = Operation(
    name="health",
    method="GET",
    path="/health",
    request=administration.Nothing,
    answer=administration.Health,
    needs=Right.READ,
    summary="State and size",
)

CHAT = Action(name="chat", needs=Right.READ)
EMBED = Action(name="embed", needs=Right.READ)
LIST_MODELS = Action(name="list_models", needs=Right.READ)
"""The actions of the OpenAI routes. Requests and answers have OpenAI's shapes, so these are not operations."""

OPERATIONS: Mapping[str, Operation[Any, Any]] = {
    operation.name: operation for operation in list(globals().values()) if isinstance(operation, Operation)
}
"""Every operation by name, in the order in which routes are matched: `/v1/memories/delete` before `{key}`."""
