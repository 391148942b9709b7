"""Documents and libraries: uploads that are kept in chunks, and what they say on a topic."""

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from vector_memory.errors import InvalidInput
from vector_memory.fields import BoundedText, Request, Timestamp, Value, WholeNumber, is_none
from vector_memory.memories import (
    DEFAULT_NAMESPACE,
    LIMIT,
    Consistency,
    ConsistencyWord,
    Cursor,
    Namespace,
    OptionalReceipt,
    WantsReceipt,
    either,
)
from vector_memory.retrieval import MAX_TOKENS

ID = BoundedText(200, "use a shorter one")
TITLE = BoundedText(300, "use a shorter one", blank="leave it out")
LIBRARY = BoundedText(200, "use a shorter one", blank="leave it out")
TOPIC = BoundedText(200, "use a shorter one", blank="leave it out")
METADATA_BYTES_MAX = 4_096
"""Bound of the caller's metadata as JSON in UTF-8. It is smaller than a memory's, since every chunk holds a copy."""

LIBRARIES_MAX = 10
"""Most libraries in an answer. Each one is read separately."""


class Form(StrEnum):
    """The format of a document."""

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
"""Formats by the end of a file's name, in lower case."""

DocumentId = Annotated[str, ID, Field(description="Your name for the document, printable and without `#`.")]


class DocumentFields(Request):
    """What a caller says about a document apart from its content."""

    form: str | None = Field(
        default=None,
        description="Its format; default: text, and pdf for content_base64.",
        json_schema_extra={"enum": [form.value for form in Form]},
    )
    id: DocumentId | None = Field(default=None, description="Without an id, one is derived from the source.")
    namespace: Namespace = DEFAULT_NAMESPACE
    title: Annotated[str, TITLE] | None = Field(default=None, description="Default: the document's own title.")
    library: Annotated[str, LIBRARY] | None = Field(
        default=None, description="The library whose documentation it is part of."
    )
    topic: Annotated[str, TOPIC] | None = Field(default=None, description="What it is about.")
    metadata: Mapping[str, Any] | None = Field(
        default=None, description=f"Metadata of all its chunks; up to {METADATA_BYTES_MAX} bytes of JSON."
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Check the id. A chunk's key joins it to the chunk's number with `#`, so the id must not hold one."""
        if self.id is not None and ("#" in self.id or not self.id.isprintable() or not self.id.strip()):
            raise InvalidInput("id must be printable text without #.", field="id")


def _decode(sent: Any) -> Any:
    if not isinstance(sent, str):
        return sent
    try:
        return base64.b64decode(sent, validate=True)
    except ValueError as error:
        raise InvalidInput("content_base64 is not base64.", field="content_base64") from error


Base64 = Annotated[
    bytes,
    BeforeValidator(_decode),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes in Python, and base64 in JSON."""


class StoreDocument(DocumentFields):
    """A document to store: `content`, or `content_base64`."""

    content: str | None = Field(default=None, description="The text of a document.", examples=["# Setup\\n\\nRun it."])
    content_base64: Base64 | None = Field(default=None, description="Its bytes in base64, such as those of a PDF.")

    def model_post_init(self, context: Any, /) -> None:
        """Check the fields against each other."""
        super().model_post_init(context)
        either(self.content, self.content_base64, ("content", "content_base64"))


class GetDocument(Request):
    """Which document to read."""

    id: str
    namespace: Namespace = DEFAULT_NAMESPACE
    consistency: ConsistencyWord = Consistency.EVENTUAL


class DocumentListing(Request):
    """Which documents to list."""

    namespace: Namespace = DEFAULT_NAMESPACE
    library: str | None = Field(default=None, description="Only documents of this library.")
    limit: Annotated[int, LIMIT] = Field(default=100, description="Documents on a page.")
    cursor: Cursor | None = None
    consistency: ConsistencyWord = Consistency.EVENTUAL


class DeleteDocument(Request):
    """Which document to delete."""

    id: str
    namespace: Namespace = DEFAULT_NAMESPACE
    receipt: WantsReceipt = False


class LibrarySearch(Request):
    """Which library to find."""

    name: str | None = Field(
        default=None, description="Its name as a person says it; without one, all.", examples=["fastapi"]
    )
    namespace: Namespace = DEFAULT_NAMESPACE
    limit: Annotated[int, WholeNumber(1, LIBRARIES_MAX)] = Field(
        default=LIBRARIES_MAX, description="Libraries to return."
    )
    consistency: ConsistencyWord = Consistency.EVENTUAL


class LibraryReading(Request):
    """What to read in a library."""

    library: str
    topic: str | None = Field(
        default=None, description="A question or some words; without one, how the documents begin."
    )
    tokens: Annotated[int, MAX_TOKENS] = Field(
        default=5_000, description="Most tokens to return, by an estimate that errs on the high side."
    )
    namespace: Namespace = DEFAULT_NAMESPACE
    consistency: ConsistencyWord = Consistency.EVENTUAL


class Document(Value):
    """A document that is kept."""

    id: str
    namespace: str
    title: str
    library: str | None
    topic: str | None
    form: str | None = Field(description="Null, like `bytes` and `sha256`, until the first upload has ended.")
    bytes: int | None
    sha256: str | None
    chunks: int
    state: Literal["complete", "partial"] = Field(
        description="`partial` while an upload runs and after one that broke off; repeating the upload repairs it."
    )
    updated_at_ms: Timestamp | None = Field(
        alias="updated_at", description="When the last upload that changed it ended."
    )

    @property
    def is_complete(self) -> bool:
        """Whether its chunks are those of one finished upload."""
        return self.state == "complete"


class Uploaded(Document):
    """A document and what its upload did: chunks embedded and stored, changed in metadata, left alone, deleted."""

    stored: int
    updated: int
    unchanged: int
    deleted: int

    @property
    def document(self) -> Document:
        """Return this value itself, which is a document with more fields."""
        return self


class Part(Value):
    """Where a chunk of a document stands; its text is in its memory."""

    key: str = Field(description="Key of the memory that has its text.")
    number: int = Field(description="From 1, in reading order.")
    start: int = Field(description="Start of its span in characters of the extracted text.")
    end: int
    headings: tuple[str, ...] = Field(default=(), description="Headings of its sections, outermost first.")
    page: int | None = Field(default=None, exclude_if=is_none, description="Its page in a PDF.")


class PlacedDocument(Document):
    """A document and its chunks, in reading order."""

    parts: tuple[Part, ...]

    @property
    def document(self) -> Document:
        """Return this value itself, which is a document with more fields."""
        return self


class DocumentsPage(Value):
    """One page of a listing of documents, in order of id."""

    documents: tuple[Document, ...]
    cursor: str | None = Field(alias="next_cursor", description="Cursor of the next page; null on the last page.")


class DeletedDocument(Value):
    """The durable delete of a document with all its chunks."""

    id: str
    namespace: str
    status: Literal["deleted"] = "deleted"
    chunks: int = Field(description="Chunks deleted.")
    receipt: OptionalReceipt = None

    @property
    def count(self) -> int:
        """The number of deleted chunks, under the name that a bulk delete uses."""
        return self.chunks


class Library(Value):
    """A set of documents under one name."""

    id: str = Field(description="The name in lower case, with `-` for spaces.")
    name: str
    documents: int
    chunks: int
    topics: tuple[str, ...]
    match: str = Field(
        description="How it was found: `exact`, `prefix`, `near` (in spelling), `meaning`, or `all` without a name."
    )


class Libraries(Value):
    """Libraries that a name may mean, best first."""

    libraries: tuple[Library, ...]


class DocsChunk(Value):
    """What a library says in one place."""

    key: str
    document_id: str | None
    title: str | None
    headings: tuple[str, ...]
    content: str
    score: float


class Docs(Value):
    """Chunks of a library that fit into a budget, the best document first, in reading order within each document."""

    library: str
    chunks: tuple[DocsChunk, ...]
    tokens: int = Field(description="An estimate of their tokens that errs on the high side.")
    truncated: bool = Field(description="Whether a larger budget would return more.")
