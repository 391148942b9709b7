"""Reads documents in a process of its own, with bounds on its time and memory.

Parsers read files that strangers made. A few kilobytes can unpack to gigabytes, or be nested so that a parser needs
hours, in C code that this process could not stop. Plain text needs no parser and is read in this process.
"""

import importlib.util
import json
import logging
import subprocess
import sys
from dataclasses import asdict

from memory_service.documents.html import read_html
from memory_service.documents.markdown import read_markdown
from memory_service.documents.model import Block, BlockKind, Extracted
from memory_service.documents.pdf import read_pdf
from memory_service.documents.plain import decode_text, read_plain, with_plain_lines
from vector_memory.documents import Form
from vector_memory.errors import InvalidInput, LimitExceeded, ServiceError, UnsupportedForm

log = logging.getLogger(__name__)

TEXT_CHARS_MAX = 1_000_000
"""Most characters of a document's text. They make some 1,800 chunks of English, which take about a minute to embed on
two cores."""

READ_S_MAX = 20.0
"""Longest time to read a document. A PDF of 1,000 pages takes some ten seconds."""

READ_MEMORY_BYTES_MAX = 1_500_000_000
"""Largest address space of the reading process. An HTML page of 10 MB takes half of it."""

_PARSERS = {Form.PDF: "pypdf", Form.HTML: "selectolax"}
"""The packages of the extra `documents`, which an installation may lack."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from memory_service.documents.reading import serve; serve()"
)


def read(data: bytes, form: Form) -> Extracted:
    """Read a document.

    Raises:
        InvalidInput: the document is damaged or has no text; the message says which.
        LimitExceeded: the document has too much text, or reading it takes too much time or memory.
        UnsupportedForm: the service was installed without the parser of this form.
    """
    if form in _PARSERS and importlib.util.find_spec(_PARSERS[form]) is None:
        raise UnsupportedForm(
            f"This service cannot read {form.upper()}. Send text or Markdown instead, or have the service installed "
            'with `pip install "vector-memory[documents]"`.',
            field="content",
        )
    extracted = _extract(data, form) if form is Form.TEXT else _from_process(data, form)
    if not extracted.text.strip():
        raise InvalidInput("The document has no text.", field="content")
    return extracted


def _from_process(data: bytes, form: Form) -> Extracted:
    # The process gets the document on standard input, and this interpreter's import paths as an argument.
    command = [sys.executable, "-c", _START, json.dumps(sys.path), form.value]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=READ_S_MAX, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise _too_much() from error
    # A signal ended the process: it reached a bound, or a parser ran out of stack.
    if done.returncode < 0:
        raise _too_much()
    if done.returncode:
        reason = done.stderr[-2_000:].decode("utf-8", "replace")
        log.error("document.crashed", extra={"form": form.value, "reason": reason})
        raise ServiceError("The document could not be read because of an internal error; the log has the details.")
    answer = json.loads(done.stdout)
    if "error" in answer:
        kind = LimitExceeded if answer["error"] == LimitExceeded.code else InvalidInput
        raise kind(answer["message"], field=answer["field"])
    blocks = tuple(Block(**{**block, "kind": BlockKind(block["kind"])}) for block in answer["blocks"])
    return Extracted(answer["text"], blocks, answer["title"], tuple(answer["pages"]))


def _too_much() -> LimitExceeded:
    return LimitExceeded(
        f"Reading the document takes over {READ_S_MAX:g} seconds or {READ_MEMORY_BYTES_MAX} bytes of memory; split or "
        "simplify it.",
        field="content",
    )


def serve() -> None:
    """Run the reading process. It reads a document from standard input and writes the result as JSON."""
    _bound_this_process()
    try:
        answer = asdict(_extract(sys.stdin.buffer.read(), Form(sys.argv[2])))
    except MemoryError:
        answer = {"error": LimitExceeded.code, "message": _too_much().message, "field": "content"}
    except ServiceError as error:
        answer = {"error": error.code, "message": error.message, "field": error.field}
    sys.stdout.write(json.dumps(answer))


def _bound_this_process() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such bounds; the parent's time limit still holds
        return
    # The parent ends this process after `READ_S_MAX`. The bound on processor time works even if the parent is gone.
    seconds = round(READ_S_MAX) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (READ_MEMORY_BYTES_MAX, READ_MEMORY_BYTES_MAX))


def _extract(data: bytes, form: Form) -> Extracted:
    match form:
        case Form.PDF:
            extracted = read_pdf(data)
        case Form.HTML:
            extracted = read_html(with_plain_lines(decode_text(data)))
        case Form.MARKDOWN:
            return read_markdown(_check_length(with_plain_lines(decode_text(data))))
        case Form.TEXT:
            return read_plain(_check_length(with_plain_lines(decode_text(data))))
    # How much text a PDF or a page has is only known once it is read.
    _check_length(extracted.text)
    return extracted


def _check_length(text: str) -> str:
    if len(text) > TEXT_CHARS_MAX:
        raise LimitExceeded(
            f"The document has {len(text)} characters of text; at most {TEXT_CHARS_MAX} fit, split it.", field="content"
        )
    return text
