"""Reads an upload (multipart/form-data) as it arrives: the fields into memory, the file into a temporary file."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiofiles.tempfile
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from vector_memory.errors import InvalidInput, LimitExceeded

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELDS_MAX = 16
FIELDS_BYTES_MAX = 65_536
"""Of all fields together, and of the headers of a part."""

FILE_FIELD = "file"


@dataclass(frozen=True, slots=True)
class Upload:
    """What was uploaded.

    Attributes:
        fields: each once.
        file: the content of the field `file`.
        filename: as sent, which may be anything.
        content_type: of the file, in lower case, without parameters; empty when not sent.
    """

    fields: dict[str, str]
    file: bytes
    filename: str
    content_type: str


@dataclass(slots=True)
class _Parts:
    """What the parser has called back so far."""

    fields: dict[str, bytearray] = field(default_factory=dict)
    file_pieces: list[bytes] = field(default_factory=list)
    filename: str | None = None
    content_type: str = ""
    is_whole: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _headers: dict[str, bytes] = field(default_factory=dict)
    _name: str | None = None
    _bytes: int = 0

    def callbacks(self) -> "MultipartCallbacks":
        """For the parser."""
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._keep(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: self._keep(self._value, data[start:end]),
            "on_header_end": self._header_ended,
            "on_headers_finished": self._part_begun,
            "on_part_data": self._data,
            "on_end": self._ended,
        }

    def _keep(self, into: bytearray, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > FIELDS_BYTES_MAX:
            raise LimitExceeded(f"The fields beside the file are over {FIELDS_BYTES_MAX} bytes; send less.")
        into += data

    def _header_ended(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _part_begun(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == FILE_FIELD:
            if self.filename is not None:
                raise InvalidInput("Send one file at a time.", field=FILE_FIELD)
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
            self.content_type = parse_options_header(self._headers.get("content-type"))[0].decode("latin-1").lower()
            return
        if not self._name:
            raise InvalidInput("A part of the upload has no name.")
        if self._name in self.fields or len(self.fields) >= FIELDS_MAX:
            raise InvalidInput(f"{self._name} must come once, among at most {FIELDS_MAX} fields.", field=self._name)
        self.fields[self._name] = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self.file_pieces.append(data[start:end])
        elif self._name:
            self._keep(self.fields[self._name], data[start:end])

    def _ended(self) -> None:
        self.is_whole = True


async def received(request: Request) -> Upload:
    """Read an upload to its end. Its size is bounded by the middleware.

    Raises:
        InvalidInput: it is malformed, or has no file.
        LimitExceeded: its fields are too long.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not boundary or len(boundary) > 256:
        raise InvalidInput("The Content-Type of the upload names no boundary.")
    parts = _Parts()
    parser = MultipartParser(boundary, parts.callbacks())
    # In a file, so that many slow uploads hold no memory.
    async with aiofiles.tempfile.TemporaryFile() as file:
        async for piece in request.stream():
            try:
                parser.write(piece)
            except MultipartParseError as error:
                raise InvalidInput("The body is no multipart/form-data with this boundary.") from error
            for data in parts.file_pieces:
                await file.write(data)
            parts.file_pieces.clear()
        if not parts.is_whole:
            raise InvalidInput("The upload ends before its closing boundary.")
        if parts.filename is None:
            raise InvalidInput("file is required.", field=FILE_FIELD)
        await file.seek(0)
        content = await file.read()
    try:
        fields = {name: value.decode() for name, value in parts.fields.items()}
    except UnicodeDecodeError as error:
        raise InvalidInput("The fields of an upload must be UTF-8.") from error
    return Upload(fields, content, parts.filename, parts.content_type)
