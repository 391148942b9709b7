"""The values of documents: what is uploaded, what was read of it, and what callers are told.

A span is [start, end) in characters of the extracted text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memory_service.model import DEFAULT_NAMESPACE, JSON, Hit, Memory

LIBRARIES_MAX = 10
"""That an answer has. They are looked at one by one."""


class Form(StrEnum):
    """What a document is written in."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"


FORM_OF_SUFFIX: Mapping[str, Form] = {
    ".txt": Form.TEXT,
    ".md": Form.MARKDOWN,
    ".markdown": Form.MARKDOWN,
    ".html": Form.HTML,
    ".htm": Form.HTML,
    ".pdf": Form.PDF,
}
"""By the end of a file's name, in lower case."""


class BlockKind(StrEnum):
    """What a block is: whole where it fits (code, table), a new section (heading), or anything else (text)."""

    TEXT = "text"
    CODE = "code"
    TABLE = "table"
    HEADING = "heading"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the text that belongs together.

    Attributes:
        level: 1 to 6, of a heading.
        title: of a heading, without its marks.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was read of a document.

    Attributes:
        text: all of it; spans point into this.
        blocks: in order, apart from each other; between them lies nothing but blank text.
        title: the document's own, if it has one.
        pages: where each page begins, of a PDF.
    """

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document that the model reads at once.

    Attributes:
        headings: of the sections it stands in, outermost first.
    """

    start: int
    end: int
    headings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document that a caller wants kept.

    Attributes:
        source: its text or its bytes.
        id: the caller's name for it; None derives one from the source, so a retried upload is the same upload.
        title: default: the document's own title, or else its id.
        library: whose documentation it is part of; None for none.
        topic: what it is about, in the caller's words.
        metadata: of all its chunks, beside what is noted of them here.
    """

    source: str | bytes
    form: Form
    id: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    title: str | None = None
    library: str | None = None
    topic: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is kept.

    Attributes:
        form, bytes, sha256: of the source; None while the first upload has not come to its end.
        chunks: how many are there.
        is_complete: whether these are the chunks of one finished upload. While one runs, and after one that broke off,
            a document has the chunks of both versions; repeating the upload repairs it.
        updated_at_ms: when the last upload that changed it ended.
    """

    id: str
    namespace: str
    title: str
    library: str | None
    topic: str | None
    form: str | None
    bytes: int | None
    sha256: str | None
    chunks: int
    is_complete: bool
    updated_at_ms: int | None


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A chunk that is kept, and where it stands.

    Attributes:
        number: from 1, in reading order.
        start, end: its span; exact when the document is complete.
    """

    number: int
    memory: Memory
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload did: so many chunks were embedded and stored, changed in their metadata, left alone, deleted."""

    document: Document
    stored: int
    updated: int
    unchanged: int
    deleted: int


@dataclass(frozen=True, slots=True)
class DocumentsPage:
    """One page of a listing, in order of id; `cursor` is None on the last page."""

    documents: tuple[Document, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Library:
    """A set of documents under one name.

    Attributes:
        id: the name in lower case, with `-` for spaces.
        match: how it was found: `exact`, `prefix`, `near` (in spelling), `meaning`, or `all` without a name.
    """

    id: str
    name: str
    documents: int
    chunks: int
    topics: tuple[str, ...]
    match: str


@dataclass(frozen=True, slots=True)
class LibraryDocs:
    """Chunks of a library that fit into a budget, in reading order within each document, the best document first.

    Attributes:
        tokens: an estimate that is rather too high.
        truncated: more would have been returned with a larger budget.
    """

    library: str
    hits: tuple[Hit, ...]
    tokens: int
    truncated: bool
