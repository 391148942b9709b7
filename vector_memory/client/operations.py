"""Each operation as a request and a way to read its response: what the two clients have in common.

Only what differs from its default is sent, so that the service decides about defaults and an older one is not asked for
what it does not know.
"""

import base64
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from memory_service.documents.model import FORM_OF_SUFFIX, DocumentsPage, Form, Library, Uploaded
from memory_service.model import (
    DEFAULT_NAMESPACE,
    JSON,
    Compacted,
    DuplicatesPage,
    Event,
    Memory,
    NewMemory,
    Page,
    Receipt,
    Refused,
    Stored,
)
from memory_service.retrieval.request import Retrieval, Retrieved
from research.model import Answer
from vector_memory.client import values
from vector_memory.client.requests import Request, path_part
from vector_memory.client.values import Deletion, Docs, Health, PlacedDocument, Stats, ToolDescription
from vector_memory.errors import InvalidInput

T = TypeVar("T")

_MEMORIES = "/v1/memories"
_DOCUMENTS = "/v1/documents"
_LIBRARIES = "/v1/libraries"
_TOOLS = "/v1/tools"

Source: TypeAlias = str | bytes | Path
"""Of a document: its text, its bytes, or the file that has them."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A request, and what its success means."""

    request: Request
    read: Callable[[Any], T]


def store(memory: NewMemory, idempotency_key: str | None) -> Operation[Stored]:
    """Keep one memory."""
    return Operation(_write(_MEMORIES, _sent(memory), idempotency_key), values.stored)


def store_batch(memories: Iterable[NewMemory], idempotency_key: str | None) -> Operation[list[Stored | Refused]]:
    """Keep many."""
    body = {"memories": [_sent(memory) for memory in memories]}
    return Operation(
        _write(f"{_MEMORIES}/batch", body, idempotency_key),
        lambda answer: [values.stored_or_refused(each) for each in answer["results"]],
    )


def retrieve(query: str | None, fields: Mapping[str, Any]) -> Operation[Retrieved]:
    """Find memories."""
    return Operation(_read(f"{_MEMORIES}/retrieve", _given(query=query, **fields)), values.retrieved)


def retrieve_batch(retrievals: Sequence[Retrieval]) -> Operation[list[Retrieved]]:
    """Find memories by many queries."""
    body = {"queries": [_sent(each) for each in retrievals]}
    return Operation(
        _read(f"{_MEMORIES}/retrieve/batch", body),
        lambda answer: [values.retrieved(each) for each in answer["results"]],
    )


def near_duplicates(**fields: Any) -> Operation[DuplicatesPage]:
    """Report near-duplicates."""
    return Operation(_read(f"{_MEMORIES}/duplicates", _given(**fields)), values.duplicates)


def get(key: str, **query: Any) -> Operation[Memory]:
    """One memory."""
    return Operation(Request("GET", f"{_MEMORIES}/{path_part(key, 'key')}", _query(**query)), values.memory)


def history(key: str, **query: Any) -> Operation[list[Event]]:
    """What happened to one memory."""
    path = f"{_MEMORIES}/{path_part(key, 'key')}/history"
    return Operation(
        Request("GET", path, _query(**query)), lambda body: [values.event(each, body) for each in body["events"]]
    )


def page(*, embeddings: bool, **query: Any) -> Operation[Page]:
    """One page of a listing."""
    sent = _query(**query, embeddings=embeddings or None)
    return Operation(Request("GET", _MEMORIES, sent), lambda body: values.page(body, embeddings=embeddings))


def update(key: str, namespace: str, idempotency_key: str | None, **fields: Any) -> Operation[Stored]:
    """Change one memory."""
    request = Request(
        "PATCH",
        f"{_MEMORIES}/{path_part(key, 'key')}",
        _query(namespace=namespace),
        body=_given(**fields),
        idempotency_key=idempotency_key or _fresh_key(),
    )
    return Operation(request, values.stored)


def delete(key: str, namespace: str, *, receipt: bool, idempotency_key: str | None) -> Operation[Deletion]:
    """Delete one memory."""
    request = Request(
        "DELETE",
        f"{_MEMORIES}/{path_part(key, 'key')}",
        _query(namespace=namespace, receipt=receipt or None),
        idempotency_key=idempotency_key or _fresh_key(),
    )
    return Operation(request, values.deletion_of_one)


def delete_many(idempotency_key: str | None, **fields: Any) -> Operation[Deletion]:
    """Delete many."""
    return Operation(_write(f"{_MEMORIES}/delete", _given(**fields), idempotency_key), values.deletion)


def receipt(id: str) -> Operation[Receipt]:
    """Redeem a receipt."""
    return Operation(Request("GET", f"/v1/receipts/{path_part(id, 'receipt')}"), values.receipt)


def research(query: str, fields: Mapping[str, Any]) -> Operation[Answer]:
    """Answer a question."""
    return Operation(_read("/v1/research", _given(query=query, **fields)), values.answer)


def research_stream(query: str, fields: Mapping[str, Any]) -> Request:
    """Answer a question, and tell what happens on the way: what comes back is read event by event."""
    return _read("/v1/research", _given(query=query, **fields, stream=True))


def store_document(source: Source, form: str | None, **fields: Any) -> Operation[Uploaded]:
    """Keep a document. Doing it again changes nothing, so it needs no key."""
    body = _content(source, form) | _given(**fields)
    return Operation(Request("POST", _DOCUMENTS, body=body), values.uploaded)


def documents_page(**query: Any) -> Operation[DocumentsPage]:
    """One page of a listing of documents."""
    return Operation(Request("GET", _DOCUMENTS, _query(**query)), values.documents_page)


def document(id: str, **query: Any) -> Operation[PlacedDocument]:
    """One document."""
    return Operation(Request("GET", f"{_DOCUMENTS}/{path_part(id, 'id')}", _query(**query)), values.placed)


def delete_document(id: str, namespace: str, *, receipt: bool, idempotency_key: str | None) -> Operation[Deletion]:
    """Delete a document."""
    request = Request(
        "DELETE",
        f"{_DOCUMENTS}/{path_part(id, 'id')}",
        _query(namespace=namespace, receipt=receipt or None),
        idempotency_key=idempotency_key or _fresh_key(),
    )
    return Operation(request, values.deletion_of_document)


def libraries(**query: Any) -> Operation[list[Library]]:
    """Find a library."""
    request = Request("GET", _LIBRARIES, _query(**query))
    return Operation(request, lambda body: [values.library(each) for each in body["libraries"]])


def library_docs(library: str, **query: Any) -> Operation[Docs]:
    """Read a library."""
    path = f"{_LIBRARIES}/{path_part(library, 'library')}/docs"
    return Operation(Request("GET", path, _query(**query)), values.docs)


def tools() -> Operation[list[ToolDescription]]:
    """The tools."""
    return Operation(Request("GET", _TOOLS), lambda body: [values.tool(each) for each in body["result"]["tools"]])


def invoke_tool(name: str, parameters: Mapping[str, Any], idempotency_key: str | None) -> Operation[dict[str, Any]]:
    """Call a tool. Whether one that a package brings may be called twice is not known, so none is."""
    request = Request(
        "POST",
        f"{_TOOLS}/{path_part(name, 'name')}",
        body=dict(parameters),
        idempotency_key=idempotency_key or _fresh_key(),
        is_repeatable=False,
    )
    return Operation(request, lambda body: dict(body["result"]))


def snapshot() -> Operation[str]:
    """Take a snapshot."""
    request = Request("POST", "/v1/admin/snapshot", is_repeatable=False)
    return Operation(request, lambda body: str(body["snapshot"]))


def compact() -> Operation[Compacted]:
    """Compact the data folder."""
    return Operation(Request("POST", "/v1/admin/compact", is_repeatable=False), values.compacted)


def health() -> Operation[Health]:
    """State and size."""
    return Operation(Request("GET", "/health"), values.health)


def stats() -> Operation[Stats]:
    """Memories by namespace."""
    return Operation(Request("GET", "/v1/admin/stats"), values.stats)


def _read(path: str, body: Any) -> Request:
    return Request("POST", path, body=body)


def _write(path: str, body: Any, idempotency_key: str | None) -> Request:
    return Request("POST", path, body=body, idempotency_key=idempotency_key or _fresh_key())


def _content(source: Source, form: str | None) -> dict[str, Any]:
    """The fields of a request that hold a document and its form; bytes travel in base64.

    Raises:
        InvalidInput: a file that cannot be read, or whose form its name does not tell.
    """
    match source:
        case str():
            return _given(content=source, form=form)
        case Path():
            form = form or FORM_OF_SUFFIX.get(source.suffix.lower())
            if form is None:
                raise InvalidInput(f"The form of {source} cannot be told from its name; pass one of {', '.join(Form)}.")
            return _content(_bytes_of(source), form)
        case bytes():
            return _given(content_base64=base64.b64encode(source).decode(), form=form)
    raise InvalidInput("source must be a text, bytes or a path.", field="source")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{path} cannot be read: {reason}.", field="source") from error


def _fresh_key() -> str:
    """A name for a write, so that it can be sent again without being carried out again."""
    return uuid.uuid4().hex


def _sent(value: NewMemory | Retrieval) -> dict[str, Any]:
    """The fields of a value that differ from their defaults."""
    shown = {field.name: getattr(value, field.name) for field in fields(value)}
    defaults = {field.name: field.default for field in fields(value) if field.default is not MISSING}
    sent = {name: part for name, part in shown.items() if name not in defaults or part != defaults[name]}
    if sent.get("embedding") is not None:
        sent["embedding"] = asdict(sent["embedding"])
    return sent


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _query(*, filter: Mapping[str, JSON] | None = None, namespace: str = DEFAULT_NAMESPACE, **fields: Any) -> Any:
    """A query string's values as texts: a filter is JSON, and so is a truth."""
    sent = {name: value if isinstance(value, str) else json.dumps(value) for name, value in _given(**fields).items()}
    if filter is not None:
        sent["filter"] = json.dumps(filter)
    return {"namespace": namespace, **sent}
