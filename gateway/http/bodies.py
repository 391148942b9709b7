"""Reads request bodies: JSON objects, and documents as JSON or as uploads."""

import json
from pathlib import PurePosixPath
from typing import Any

from fastapi import Request

from gateway.http.errors import MalformedBody
from gateway.http.uploads import Upload, read_upload
from vector_memory.documents import FORM_OF_SUFFIX, Form
from vector_memory.errors import InvalidInput, UnsupportedForm

_TYPES = {
    "text/plain": Form.TEXT,
    "text/markdown": Form.MARKDOWN,
    "text/html": Form.HTML,
    "application/xhtml+xml": Form.HTML,
    "application/pdf": Form.PDF,
}
_JSON = "application/json"
_MULTIPART = "multipart/form-data"


async def json_object(http: Request) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object.

    Raises:
        MalformedBody: the body is not JSON in UTF-8.
        InvalidInput: the body is not sent as JSON, or is not an object.
    """
    kind = _kind(http)
    raw = await http.body()
    # A page of another origin can post a form or plain text at once, but JSON only after a preflight request.
    is_json = kind == _JSON or kind.endswith("+json")
    if raw and not is_json:
        raise InvalidInput("The body must be a JSON object, sent with Content-Type: application/json.")
    try:
        body = json.loads(raw) if raw else None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error.msg}.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or a number with thousands of digits
        raise MalformedBody(
            "The body is not JSON in UTF-8, or is nested too deeply, or has a number that is too long."
        ) from error
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object." if raw else "The body is required.")
    return body


async def read_document(http: Request) -> dict[str, Any]:
    """Return the fields of a document from a JSON body or from an upload.

    Raises:
        UnsupportedForm: the body is of another kind, or the format of the file cannot be told.
    """
    kind = _kind(http)
    if kind == _JSON:
        return await json_object(http)
    if kind != _MULTIPART:
        raise UnsupportedForm(f"Send the document as {_JSON} or {_MULTIPART}, not {kind[:80] or 'without a type'}.")
    upload = await read_upload(http)
    fields: dict[str, Any] = {**upload.fields, "content_base64": upload.file}
    if "metadata" in fields:
        fields["metadata"] = _parsed_metadata(fields["metadata"])
    return {**fields, "form": fields.get("form") or _form_of(upload)}


def _kind(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed_metadata(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedBody("metadata is not valid JSON.", field="metadata") from error


def _form_of(upload: Upload) -> Form:
    # The name's ending decides first, since many callers send one content type for every file.
    form = FORM_OF_SUFFIX.get(PurePosixPath(upload.filename).suffix.lower()) or _TYPES.get(upload.content_type)
    if form is None:
        raise UnsupportedForm(
            f"The file's form cannot be told from its name or type; send it as form: {', '.join(Form)}.", field="form"
        )
    return form
