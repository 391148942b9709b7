"""What is read of Markdown, HTML, PDF and plain text, and that reading has bounds."""

import io
import sys
import zlib

import pytest

from memory_service.documents import reading
from memory_service.documents.model import BlockKind
from memory_service.documents.reading import read
from vector_memory.documents import Form
from vector_memory.errors import InvalidInput, LimitExceeded, UnsupportedForm


def pdf(*pages: str, title: str | None = None) -> bytes:
    """A small PDF, written by hand: a catalog, a font, and a page with a line of text for each argument."""
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, text in enumerate(pages):
        shown = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        box = "/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} /Contents {5 + 2 * at} 0 R >>")
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    if title:
        objects.append(f"<< /Title ({title}) >>")
    file = io.BytesIO(b"%PDF-1.4\n")
    file.seek(0, io.SEEK_END)
    places = []
    for number, body in enumerate(objects, 1):
        places.append(file.tell())
        file.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
    start = file.tell()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    info = f"/Info {len(objects)} 0 R" if title else ""
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R {info} >>\nstartxref\n{start}\n%%EOF"
    file.write(f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode())
    return file.getvalue()


def blocks(found, kind):
    return [found.text[block.start : block.end] for block in found.blocks if block.kind is kind]


def test_html_gives_the_main_text_with_headings_code_and_tables():
    found = read(
        b"<html><head><title> The guide </title><style>p {}</style></head><body><nav>Home About</nav><main>"
        b"<h1>Setup</h1><p>Run&nbsp;it <b>once</b>,<br>then &lt;wait&gt;.</p><script>evil()</script>"
        b"<pre>\n  a = 1\n  b = 2\n</pre><table><tr><th>k</th><th>v</th></tr><tr><td>x</td><td>1</td></tr></table>"
        b"<ul><li>first<li>second</ul></main><footer>Imprint</footer></body></html>",
        Form.HTML,
    )
    assert found.title == "The guide"
    assert [(block.level, block.title) for block in found.blocks if block.level] == [(1, "Setup")]
    assert blocks(found, BlockKind.CODE) == ["  a = 1\n  b = 2"]
    assert blocks(found, BlockKind.TABLE) == ["| k | v\n| x | 1"]
    assert blocks(found, BlockKind.TEXT) == ["Run it once,\nthen <wait>.", "- first", "- second"]


def test_markdown_keeps_its_text_and_gives_its_structure():
    text = "---\ntitle: The guide\n---\n# Set *up*\r\n\r\npara\n\n```\n# no heading\n```\n\n|a|\n|-|\n|1|\n"
    text += "\nSub\n---\n[x]: y\n"
    found = read(text.encode(), Form.MARKDOWN)
    assert found.text == text.replace("\r", "")
    assert found.title == "The guide"
    assert [(block.level, block.title) for block in found.blocks if block.level] == [(1, "Set up"), (2, "Sub")]
    assert blocks(found, BlockKind.CODE) == ["```\n# no heading\n```"]
    assert blocks(found, BlockKind.TABLE) == ["|a|\n|-|\n|1|"]
    assert blocks(found, BlockKind.TEXT)[-1] == "[x]: y"


def test_a_pdf_gives_its_text_page_by_page():
    found = read(pdf("Hello owls.", "Second page.", title="Birds"), Form.PDF)
    assert found.text.split() == ["Hello", "owls.", "Second", "page."]
    assert found.text[found.pages[1] :].startswith("Second")
    assert found.title == "Birds"


def encrypted(password: str, algorithm: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt(password, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb() -> bytes:
    """A page whose 300 KB unpack to 300 MB."""
    packed = zlib.compress(b" " * 300_000_000, 9)
    head = pdf("").replace(b"<< /Length 0 >>\nstream\n\nendstream", b"MARK")
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n" % len(packed)
    return head.replace(b"MARK", stream + packed + b"\nendstream")


@pytest.mark.parametrize(
    ("data", "form", "words"),
    [
        (b"", Form.TEXT, "no text"),
        (b" \n\t ", Form.MARKDOWN, "no text"),
        (b"<script>x</script>", Form.HTML, "no text"),
        (b"\xff\xfe\x00", Form.TEXT, "UTF-16"),
        (b"caf\xe9", Form.TEXT, "UTF-8"),
        (b"caf\xe9", Form.HTML, "UTF-8"),
        (b"not a pdf", Form.PDF, "damaged"),
        (b"%PDF-1.7\n" + b"\x00\xff" * 5_000, Form.PDF, "damaged"),
        (pdf("x")[:300], Form.PDF, "damaged"),
        (pdf(""), Form.PDF, "OCR"),
        (b"<i></i>", Form.HTML, "no text"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data, form, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        read(data, form)
    assert "Traceback" not in refused.value.message


def test_a_pdf_with_a_password_is_refused():
    with pytest.raises(InvalidInput, match="password"):
        read(encrypted("password", "RC4-128"), Form.PDF)


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_a_pdf_that_is_only_locked_against_changes_is_read(algorithm):
    assert read(encrypted("", algorithm), Form.PDF).text.split() == ["secret"]


def test_what_unpacks_to_hundreds_of_megabytes_is_refused():
    with pytest.raises((InvalidInput, LimitExceeded)):
        read(bomb(), Form.PDF)


def test_nesting_that_keeps_a_parser_busy_for_hours_is_cut_short(monkeypatch):
    """Found when the parser took over ten minutes for these 1.5 MB."""
    monkeypatch.setattr(reading, "READ_S_MAX", 2.0)
    nested = "<div>" * 300_000 + "x"
    with pytest.raises(LimitExceeded, match="2 seconds"):
        read(nested.encode(), Form.HTML)


def test_deep_nesting_is_read_or_refused_but_never_crashes():
    for data, form in (
        (b"<div>" * 20_000 + b"deep", Form.HTML),
        (b">" * 50_000 + b" deep", Form.MARKDOWN),
        (b"- " * 5_000 + b"deep", Form.MARKDOWN),
        (b"[" * 100_000 + b"deep", Form.MARKDOWN),
    ):
        assert "deep" in read(data, form).text


def test_a_text_over_the_bound_is_refused():
    data = b"word " * (reading.TEXT_CHARS_MAX // 5 + 1)
    for form in (Form.TEXT, Form.MARKDOWN):
        with pytest.raises(LimitExceeded, match="split it"):
            read(data, form)


@pytest.mark.parametrize(("form", "package"), [(Form.PDF, "pypdf"), (Form.HTML, "selectolax")])
def test_without_its_parser_a_document_is_refused_with_the_extra_that_brings_it(form, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedForm, match=rf"cannot read {form.upper()}\..*vector-memory\[documents\]"):
        read(b"<p>Owls.</p>", form)


def test_text_and_markdown_are_read_without_the_parsers_of_other_forms(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    monkeypatch.setitem(sys.modules, "selectolax", None)
    assert read(b"# Owls", Form.MARKDOWN).text == read(b"# Owls", Form.TEXT).text == "# Owls"
