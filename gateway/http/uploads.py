"""Reads an upload (multipart/form-data) with Starlette's parser: fields into memory, the file into a temporary file."""

from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vector_memory.errors import InvalidInput, LimitExceeded

FIELDS_MAX = 16
FIELDS_BYTES_MAX = 65_536
"""Bound on each field, and on all fields together."""

FILE_FIELD = "file"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and the fields that were sent with it.

    Attributes:
        fields: values by name; each name comes once.
        file: the content of the field `file`.
        filename: as sent; it may be any text.
        content_type: of the file, in lower case, without parameters; empty when not sent.
    """

    fields: dict[str, str]
    file: bytes
    filename: str
    content_type: str


class _StrictParser(MultiPartParser):
    """Starlette's parser, made strict. By itself it accepts uploads that are cut off, and fields that are not UTF-8."""

    spool_max_size = 65_536
    """Bytes of a file that stay in memory. Few, so that many slow uploads together hold little memory."""

    is_complete = False

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            self._current_part.data.decode()
        super().on_part_end()

    def on_end(self) -> None:
        self.is_complete = True


async def read_upload(request: Request) -> Upload:
    """Read an upload to its end. The middleware bounds its size.

    Raises:
        InvalidInput: it is malformed, or has no file.
        LimitExceeded: its fields are too long.
    """
    async with aclosing(request.stream()) as stream:
        parser = _StrictParser(
            request.headers, stream, max_files=1, max_fields=FIELDS_MAX, max_part_size=FIELDS_BYTES_MAX
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            kind = LimitExceeded if "exceeded" in error.message else InvalidInput
            raise kind(f"The upload cannot be read: {error.message}") from error
        except UnicodeDecodeError as error:
            raise InvalidInput("The fields of an upload must be UTF-8.") from error
    try:
        if not parser.is_complete:
            raise InvalidInput("The upload ends before its closing boundary.")
        return await _upload(form)
    finally:
        await form.close()


async def _upload(form: FormData) -> Upload:
    file = form.get(FILE_FIELD)
    if not isinstance(file, UploadFile):
        raise InvalidInput("file is required, as a part with a filename.", field=FILE_FIELD)
    values = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    if sum(len(value.encode()) for _, value in values) > FIELDS_BYTES_MAX:
        raise LimitExceeded(f"The fields of the upload are over {FIELDS_BYTES_MAX} bytes together; send less.")
    fields = dict(values)
    for name, _ in values:
        if len(form.getlist(name)) > 1:
            raise InvalidInput(f"{name} must come once.", field=name)
    content_type = (file.content_type or "").partition(";")[0].strip().lower()
    return Upload(fields, await file.read(), file.filename or "", content_type)
