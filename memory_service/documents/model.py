"""The values of documents that only the service knows: what is uploaded and what was read of it.

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

    @classmethod
    def of(cls, request: StoreDocument) -> "NewDocument":
        """Build the document of a request.

        Raises:
            UnsupportedForm: its format is not read here.
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
    """A chunk that is kept, and where it stands.

    Attributes:
        number: from 1, in reading order.
        start, end: its span; exact when the document is complete.
    """

    number: int
    memory: Memory
    start: int
    end: int
