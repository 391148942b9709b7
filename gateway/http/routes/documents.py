"""HTTP routes of documents and libraries. Each translates one request into one call."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from gateway import wire
from gateway.http import uploads
from gateway.http.errors import documented
from gateway.http.routes.memories import IdempotencyKey
from gateway.serving.worker import Worker
from memory_service.documents.model import NewDocument
from vector_memory.documents import FORM_OF_SUFFIX, Form
from vector_memory.errors import UnsupportedForm
from vector_memory.memories import Consistency

Model = TypeVar("Model", bound=wire.Body)

_TYPES = {
    "text/plain": Form.TEXT,
    "text/markdown": Form.MARKDOWN,
    "text/html": Form.HTML,
    "application/xhtml+xml": Form.HTML,
    "application/pdf": Form.PDF,
}
_JSON = "application/json"
_MULTIPART = "multipart/form-data"

_FILE_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        **{name: {"type": "string"} for name in wire.DocumentPart.model_fields},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": wire.StoreDocumentBody.model_json_schema()},
            _MULTIPART: {"schema": _FILE_SCHEMA},
        },
    }
}


def routes(worker: Worker) -> APIRouter:
    """The routes under /v1/documents."""
    router = APIRouter(prefix="/v1/documents", tags=["documents"])

    @router.post(
        "",
        summary="Store a document",
        responses=documented(400, 413, 415, 422, 503, 507),
        openapi_extra=_BODY,
    )
    async def store(request: Request) -> JSONResponse:
        """Keep a document as chunks, which are memories. Storing it again replaces only what changed."""
        document = await _document_of(request)
        return JSONResponse(wire.uploaded_body(await run_in_threadpool(worker.documents.store, document)))

    @router.get("", summary="List documents", responses=documented(422, 503))
    def list_documents(query: Annotated[wire.ListDocumentsQuery, Query()]) -> JSONResponse:
        """Documents in order of id, page by page."""
        fields = {**dict(query), "consistency": Consistency(query.consistency)}
        return JSONResponse(wire.documents_body(worker.documents.list(**fields)))

    @router.get("/{id:path}", summary="Get a document", responses=documented(404, 422, 503))
    def get(id: _Id, query: Annotated[wire.HistoryQuery, Query()]) -> JSONResponse:
        """What is known of a document, and the keys and places of its chunks."""
        consistency = Consistency(query.consistency)
        found = worker.documents.get(id, namespace=query.namespace, consistency=consistency)
        return JSONResponse(wire.placed_body(*found))

    @router.delete("/{id:path}", summary="Delete a document", responses=documented(404, 409, 422, 503, 507))
    def delete(
        id: _Id, query: Annotated[wire.DeleteQuery, Query()], idempotency_key: IdempotencyKey = None
    ) -> JSONResponse:
        """Delete a document with all its chunks, at once."""
        deleted = worker.documents.delete(id, namespace=query.namespace, idempotency_key=idempotency_key)
        body = {"id": id, "namespace": query.namespace, "status": "deleted", "chunks": len(deleted.keys)}
        if query.receipt and deleted.receipt is not None:
            body["receipt"] = wire.receipt_body(worker.memories.receipt(deleted.receipt))
        return JSONResponse(body)

    return router


def library_routes(worker: Worker) -> APIRouter:
    """The routes under /v1/libraries."""
    router = APIRouter(prefix="/v1/libraries", tags=["documents"])

    @router.get("", summary="Find a library", responses=documented(422, 503))
    def resolve(query: Annotated[wire.LibrariesQuery, Query()]) -> JSONResponse:
        """Libraries that a name may mean, best first; `match` tells how each was found."""
        fields = {**dict(query), "consistency": Consistency(query.consistency)}
        return JSONResponse(wire.libraries_body(worker.libraries.resolve(**fields)))

    @router.get("/{library:path}/docs", summary="Read a library", responses=documented(404, 422, 503))
    def docs(library: str, query: Annotated[wire.DocsQuery, Query()]) -> JSONResponse:
        """The best chunks on a topic that fit a budget of tokens, in reading order."""
        fields = {**dict(query), "consistency": Consistency(query.consistency)}
        return JSONResponse(wire.docs_body(worker.libraries.docs(library, **fields)))

    return router


_Id = Annotated[str, Path(description="Percent-encoded where needed.")]


async def _document_of(request: Request) -> NewDocument:
    """The document of a request, whichever of the two kinds of body it has.

    Raises:
        UnsupportedForm: another kind of body, or a file whose form cannot be told.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match kind:
        case "application/json":
            return _checked(wire.StoreDocumentBody.model_validate_json, await request.body()).document()
        case "multipart/form-data":
            upload = await uploads.read_upload(request)
            part = _checked(wire.DocumentPart.model_validate, upload.fields)
            return part.document(upload.file, part.form or _form_of(upload))
    raise UnsupportedForm(f"Send the document as {_JSON} or {_MULTIPART}, not {kind[:80] or 'without a Content-Type'}.")


def _form_of(upload: uploads.Upload) -> Form:
    """The form of a file: by its ending, since many callers send one type for everything, or else by its type."""
    form = FORM_OF_SUFFIX.get(PurePosixPath(upload.filename).suffix.lower()) or _TYPES.get(upload.content_type)
    if form is None:
        raise UnsupportedForm(
            f"The file's form cannot be told from its name or type; send it as form: {', '.join(Form)}.", field="form"
        )
    return form


def _checked(validate: Callable[[Any], Model], raw: object) -> Model:
    try:
        return validate(raw)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error
