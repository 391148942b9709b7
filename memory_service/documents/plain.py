"""Reads plain text, and decodes bytes."""

import codecs
import re
from itertools import pairwise

from memory_service.documents.markdown import trim_blocks
from memory_service.documents.model import Block, BlockKind, Extracted
from vector_memory.errors import InvalidInput

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def read_plain(text: str) -> Extracted:
    """Read a plain text. Blank lines separate its paragraphs."""
    # A block begins where the blank lines before it end.
    edges = [0, *(match.end() for match in _BLANK_LINES.finditer(text)), len(text)]
    blocks = [Block(start, end, BlockKind.TEXT) for start, end in pairwise(edges)]
    return Extracted(text, trim_blocks(text, blocks))


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or the encoding that a byte order mark names.

    Raises:
        InvalidInput: the bytes are not valid in that encoding.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"The document is not valid {encoding.upper()} (byte {error.start}); convert it to UTF-8, or send its form "
            "if it is not text.",
            field="content",
        ) from error


def with_plain_lines(text: str) -> str:
    """Return the text with a single line feed at the end of every line. Spans count the characters of this text."""
    # The two characters of Windows are replaced first, or each pair would become two line ends.
    return text.replace("\r\n", "\n").replace("\r", "\n")
