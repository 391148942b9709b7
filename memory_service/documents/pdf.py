"""Reads the text of a PDF, page by page. Text in pictures is not read."""

import io

from memory_service.documents.markdown import trim_blocks
from memory_service.documents.model import Block, BlockKind, Extracted
from memory_service.documents.plain import read_plain, with_plain_lines
from vector_memory.errors import InvalidInput

PAGES_MAX = 5_000
"""Most pages of a PDF. Reading 1,000 pages takes some ten seconds, and twenty seconds are allowed (`reading.py`)."""
_PAGE_BREAK = "\n\n"


def read_pdf(data: bytes) -> Extracted:
    """Read a PDF.

    Raises:
        InvalidInput: the PDF is damaged, needs a password, has too many pages, or has no text.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidInput("The PDF needs a password; send it without one.", field="content")
        if len(reader.pages) > PAGES_MAX:
            raise InvalidInput(f"The PDF has over {PAGES_MAX} pages; split it.", field="content")
        title = (reader.metadata.title if reader.metadata else None) or None
        texts = [with_plain_lines(page.extract_text()).strip() for page in reader.pages]
    except InvalidInput:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as error:
        # The library raises all of these on damaged files.
        raise InvalidInput("The file is damaged or not a PDF; open it and save it again.", field="content") from error
    if not any(texts):
        raise InvalidInput(
            "The PDF has no text: it is empty or scanned. Run it through text recognition (OCR) first.", field="content"
        )
    pages: list[int] = []
    blocks: list[Block] = []
    parts: list[str] = []
    length = 0
    for page in (_encodable(text) for text in texts):
        pages.append(length)
        blocks += [Block(length + it.start, length + it.end, BlockKind.TEXT) for it in read_plain(page).blocks]
        parts += [page, _PAGE_BREAK]
        length += len(page) + len(_PAGE_BREAK)
    text = "".join(parts)
    return Extracted(text, trim_blocks(text, blocks), str(title).strip() if title else None, tuple(pages))


def _encodable(text: str) -> str:
    """Return the text without halves of surrogate pairs, which broken fonts produce."""
    return text.encode("utf-8", "replace").decode()
