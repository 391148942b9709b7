"""Values of documents inside the service: what is uploaded, what was read from it, and the chunks that are kept.

A span is [start, end) in characters of the extracted text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vector_memory.documents import Form, StoreDocument
from vector_memory.errors import UnsupportedForm
from vector_memory.fields import JSON
from vector_memory.memories import DEFAULT_NAMESPACE, Memory


class BlockKind(StrEnum):
    """The kind of a block. Code and tables stay whole if they fit; a heading begins a section; text is all else."""

    TEXT = "text"
    CODE = "code"
    TABLE = "table"
    HEADING = "heading"


@dataclass(frozen=True, slots=True)
class Block:
    """A span of the text that belongs together.

    Attributes:
        level: level of a heading, 1 to 6; 0 for other kinds.
        title: text of a heading, without its marks.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text and structure that were read from a document.

    Attributes:
        text: the whole text. Spans point into it.
        blocks: the blocks in order. They do not overlap, and only blank text lies between them.
        title: the title that the document gives itself; None for none.
        pages: the offset at which each page of a PDF begins.
    """

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document that the model reads at once.

    Attributes:
        start, end: its span.
        headings: headings of the sections that it stands in, outermost first.
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
        title: the title; None takes the document's own title, or else its id.
        library: the library that it documents; None for none.
        topic: what it is about, in the caller's words.
        metadata: fields of all its chunks, in addition to the fields that the upload writes.
    """

    source: str | bytes
    form: Form
    id: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    title: str | None = None
    library: str | None = None
    topic: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)

    @classmethod
    def of(cls, request: StoreDocument) -> "NewDocument":
        """Build the document of a request.

        Raises:
            UnsupportedForm: its format is not supported.
        """
        source = request.content if request.content is not None else request.content_base64
        assert source is not None, "the request has either"
        form = request.form or (Form.TEXT if isinstance(source, str) else Form.PDF)
        if form not in list(Form):
            raise UnsupportedForm(f"form must be one of {', '.join(Form)}.", field="form")
        about = {name: getattr(request, name) for name in ("id", "namespace", "title", "library", "topic")}
        return cls(source, Form(form), metadata=request.metadata or {}, **about)


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A chunk that is kept, with its place in the document.

    Attributes:
        number: its number in reading order, from 1.
        start, end: its span. The span is exact if the document is complete.
    """

    number: int
    memory: Memory
    start: int
    end: int
