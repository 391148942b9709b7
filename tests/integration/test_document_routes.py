"""Documents over HTTP: both kinds of body, and every way to be refused."""

import base64

import pytest
from fastapi.testclient import TestClient

from gateway.serving.app import create_app
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.unit.test_reading import pdf

URL = "/v1/documents"
GUIDE = "# Owls\n\n## Feeding\n\nFeed each owl two mice at dusk.\n\n## Housing\n\nBuild the box of untreated oak.\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    worker = Worker(
        Settings(
            memory=MemorySettings(data_dir=tmp_path_factory.mktemp("documents") / "memory"),
            gateway=GatewaySettings(request_bytes_max=200_000),
            llm=LLMSettings(fallback="extractive"),
        )
    )
    worker.load()
    assert worker.failure is None
    with TestClient(create_app(worker), raise_server_exceptions=False) as client:
        yield client


def ok(response):
    assert response.status_code == 200, response.text
    return response.json()


def refused(response, status, code="invalid"):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert "Traceback" not in response.text
    return error


def test_a_document_is_stored_retrieved_listed_and_gone_after_its_delete(client):
    space = {"namespace": "life"}
    stored = ok(client.post(URL, json={"content": GUIDE, "form": "markdown", "id": "care/owls", **space}))
    assert (stored["id"], stored["state"], stored["stored"], stored["title"]) == ("care/owls", "complete", 2, "Owls")
    query = {"query": "what do owls eat?", **space}
    [best, *_] = ok(client.post("/v1/memories/retrieve", json=query))["memories"]
    assert best["metadata"]["headings"] == ["Owls", "Feeding"]
    got = ok(client.get(f"{URL}/care/owls", params=space))
    assert [part["headings"][-1] for part in got["parts"]] == ["Feeding", "Housing"]
    assert GUIDE[got["parts"][0]["start"] : got["parts"][0]["end"]] == best["content"]
    [listed] = ok(client.get(URL, params=space))["documents"]
    assert listed == {name: got[name] for name in listed}
    gone = ok(client.delete(f"{URL}/care%2Fowls", params={**space, "receipt": True}))
    assert (gone["status"], gone["chunks"], gone["receipt"]["bytes"]) == ("deleted", 2, "pending")
    assert ok(client.post("/v1/memories/retrieve", json=query))["memories"] == []
    refused(client.get(f"{URL}/care/owls", params=space), 404, "not_found")
    refused(client.delete(f"{URL}/care/owls", params=space), 404, "not_found")


def test_a_pdf_is_taken_as_base64_and_knows_its_pages(client):
    content = base64.b64encode(pdf("Owls eat mice.", "Boxes hang high.")).decode()
    ok(client.post(URL, json={"content_base64": content, "id": "p", "namespace": "pdf"}))
    [part] = ok(client.get(f"{URL}/p", params={"namespace": "pdf"}))["parts"]
    assert part["page"] == 1


@pytest.mark.parametrize(
    ("name", "type", "content", "form"),
    [
        ("a.md", "application/octet-stream", GUIDE.encode(), "markdown"),
        ("noname", "text/html; charset=utf-8", b"<h1>Owls</h1><p>Mice.", "html"),
        ("b.PDF", "", pdf("Mice."), "pdf"),
        ("c.txt", "text/plain", "Mäuse.\r\n".encode(), "text"),
    ],
)
def test_a_file_is_uploaded_and_its_form_told_by_name_or_type(client, name, type, content, form):
    files = {"file": (name, content, type)}
    data = {"id": form, "namespace": "upload", "metadata": '{"author": "Dana"}'}
    stored = ok(client.post(URL, data=data, files=files))
    assert (stored["form"], stored["bytes"]) == (form, len(content))
    found = ok(client.get("/v1/memories", params={"namespace": "upload", "filter": '{"author": "Dana"}'}))
    assert found["memories"]


def multipart(body, boundary="x"):
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


def part(name, value, filename=None):
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"json": {}}, 422),
        ({"json": {"content": "a", "content_base64": "YQ=="}}, 422),
        ({"json": {"content_base64": "%%"}}, 422),
        ({"content": b'{"content": "a\\ud800"}', "headers": {"content-type": "application/json"}}, 400),
        ({"json": {"content": " "}}, 422),
        ({"json": {"content": "a", "colour": 1}}, 422),
        ({"json": {"content": "a", "id": 7}}, 422),
        ({"json": {"content": "a", "id": "a#b"}}, 422),
        ({"json": {"content": "a", "form": "docx"}}, 415),
        ({"content": b"a", "headers": {"content-type": "application/msword"}}, 415),
        ({"content": b"a"}, 415),
        ({"files": {"file": ("a.docx", b"a", "application/zip")}}, 415),
        ({"files": {"other": ("a.txt", b"a")}}, 422),
        ({"files": {"file": ("a.txt", b"a")}, "data": {"metadata": "{"}}, 400),
        ({"files": {"file": ("a.txt", b"a")}, "data": {"title": "x" * 70_000}}, 413),
        ({"files": {"file": ("a.txt", b"a")}, "data": {f"f{at}": "1" for at in range(20)}}, 422),
        ({"files": {"file": ("a.txt", b"\xff")}}, 422),
        ({"files": {"file": ("a.txt", b"a" * 250_000)}}, 413),
        (multipart(b""), 422),
        (multipart(b"nonsense"), 422),
        (multipart(b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nhalf"), 422),
        (multipart(b"--x\r\n\r\nno name\r\n--x--\r\n"), 422),
        (multipart(part("file", b"a", "a.txt") + part("title", b"half") + b"--x"), 422),
        (multipart(part("file", b"a", "a.txt") + part("title", b"\xff") + b"--x--\r\n"), 422),
        (multipart(part("file", b"a", "a.txt") + part("title", b"a") * 2 + b"--x--\r\n"), 422),
        (multipart(part("file", b"a", "a.txt") * 2 + b"--x--\r\n"), 422),
        (multipart(part("file", b"no filename") + b"--x--\r\n"), 422),
        ({"files": {"file": ("a.txt", b"a")}, "data": dict.fromkeys(("title", "topic"), "x" * 40000)}, 413),
        ({"content": b"a", "headers": {"content-type": "multipart/form-data"}}, 422),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(client, request_, status):
    refused(client.post(URL, **request_), status, "limit_exceeded" if status == 413 else "invalid")


def test_a_body_that_arrives_without_its_length_is_bounded_too(client):
    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(30):
            yield b"a" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post(URL, content=pieces(), headers=headers), 413, "limit_exceeded")


def test_libraries_are_found_and_read(client):
    space = {"namespace": "libraries"}
    ok(
        client.post(
            URL, json={"content": GUIDE, "form": "markdown", "library": "Acme/Owl Care", "topic": "owls", **space}
        )
    )
    [library] = ok(client.get("/v1/libraries", params={"name": "owl care", **space}))["libraries"]
    assert (library["id"], library["name"], library["topics"]) == ("acme/owl-care", "Acme/Owl Care", ["owls"])
    docs = ok(
        client.get("/v1/libraries/acme/owl-care/docs", params={"topic": "wood of the box", "tokens": 20, **space})
    )
    assert [chunk["headings"] for chunk in docs["chunks"]] == [["Owls", "Housing"]]
    assert docs["truncated"]
    refused(client.get("/v1/libraries/bats/docs", params=space), 404, "not_found")
    refused(client.get("/v1/libraries/acme/owl-care/docs", params={"tokens": 0, **space}), 422)


@pytest.mark.parametrize("call", ["get", "delete"])
def test_an_id_that_ends_a_line_is_not_taken_for_the_id_before_it(client, call):
    """A route's pattern once stopped at the line end, and a delete removed another document than was named."""
    ok(client.post(URL, json={"content": GUIDE, "form": "markdown", "id": "lines"}))
    refused(getattr(client, call)(f"{URL}/lines%0A"), 422)
    ok(client.get(f"{URL}/lines"))
