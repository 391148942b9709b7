"""Every command and every Python example of the pages runs as it is printed.

The blocks of one page run in the page's order and in one empty folder. One service serves all pages; only its port is
changed in what they print, and it holds no memories when a page begins. An HTML comment above a block tells why that
block is not run. A `text` block below a block is what the block prints, with `...` for what differs between two runs.
"""

import doctest
import json
import os
import re
import subprocess
import sys
from asyncio import StreamWriter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.settings import variables
from gateway.tools.ours import TOOLS
from tests.doors.stdio_client import StdioClient
from tests.stand_in_llm import StandInLLM, answering, stream_of, streaming
from tests.worker_process import WorkerProcess, environment
from vector_memory.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]) if "```" in path.read_text("utf-8")]

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```\n"
    r"(?:\n?```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
SHOWN = {"", "json", "jsonl", "text", "toml"}
"""Languages of blocks that only show something. Commands are `sh`, so that none escapes this test as `bash`."""

REASONS = ("needs ", "takes minutes", "does not end")
PORT = "8000"
ANSWER = "Dana drinks an oat flat white. [1]"
EVERYTHING = {"key": {"$exists": True}}
LINE_CHARS_MAX = 120


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    output: str | None
    reason: str | None


def blocks(page: Path) -> list[Block]:
    found = [Block(each["language"], each["code"], each["output"], each["reason"]) for each in _matches(page)]
    return [block for block in found if block.language not in SHOWN]


def shown(page: str, language: str) -> list[str]:
    return [each["code"] for each in _matches(DOCS / page) if each["language"] == language]


def _matches(page: Path) -> Iterator[re.Match[str]]:
    return BLOCK.finditer(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    async def script(writer: StreamWriter) -> None:
        is_stream = llm.requests[-1].body.get("stream")
        await (streaming(*stream_of(ANSWER)) if is_stream else answering(ANSWER))(writer)

    folder = tmp_path_factory.mktemp("service") / "memory"
    with StandInLLM(script) as llm, WorkerProcess(folder, LLM_BASE_URL=llm.base_url) as process:
        yield process


@pytest.fixture
def folder(service: WorkerProcess, tmp_path: Path) -> Path:
    """Where a page's blocks run: with the commands of an installation, and a curl that fails where it is refused."""
    for namespace in service.http.get("/v1/admin/stats").json()["namespaces"]:
        service.post("/v1/memories/delete", {"namespace": namespace["namespace"], "filter": EVERYTHING})
    installed = tmp_path / ".venv" / "bin"
    installed.mkdir(parents=True)
    (installed / "python").symlink_to(sys.executable)
    (installed / "vector-memory").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
    (installed / "vector-memory").chmod(0o755)
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    return tmp_path


def run(block: Block, folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    code = re.sub(rf"(127\.0\.0\.1|localhost):{PORT}\b", rf"\1:{port}", block.code)
    command = ["bash", "-euo", "pipefail", "-c", code] if block.language == "sh" else [sys.executable, "-c", code]
    env = environment(HOME=str(folder), PATH=f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("page", [page for page in PAGES if any(not each.reason for each in blocks(page))], ids=name)
def test_the_blocks_of_a_page_run_and_print_what_it_says(page: Path, folder: Path, service: WorkerProcess) -> None:
    for block in blocks(page):
        if block.reason:
            continue
        done = run(block, folder, service.port)
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if block.output is not None:
            assert is_like(block.output, done.stdout), f"{block.code}\nprints\n{done.stdout}\nnot\n{block.output}"


def is_like(output: str, printed: str) -> bool:
    return doctest.OutputChecker().check_output(output.strip() + "\n", printed.strip() + "\n", doctest.ELLIPSIS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_is_a_command_or_an_example_and_one_that_is_not_run_has_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ("sh", "python"), block.code
        assert block.reason is None or block.reason.startswith(REASONS), block.reason


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.rglob("*.md")], ids=name)
def test_lines_outside_of_tables_are_short_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    long = [line for line in text.splitlines() if len(line) > LINE_CHARS_MAX and not line.startswith(("|", "{"))]
    assert long == []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target} has no heading {anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_the_table_of_mcp_names_every_tool() -> None:
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "mcp.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert named == [tool.name for tool in TOOLS]


def test_the_command_of_the_stdio_configuration_serves(tmp_path: Path) -> None:
    configured, http = (json.loads(block)["mcpServers"]["memory"] for block in shown("mcp.md", "json"))
    assert (configured["command"], configured["args"]) == ("vector-memory", ["mcp"])
    assert http["url"].endswith("/mcp")
    with StdioClient(**{name: str(tmp_path / "memory") for name in configured["env"]}) as client:
        client.initialize()
        assert client.call(1, "memory_status")["structuredContent"]["memories"] == 0


def test_the_page_of_settings_names_every_variable() -> None:
    named = re.findall(r"`([A-Z][A-Z_]+)`", (DOCS / "settings.md").read_text(encoding="utf-8"))
    assert set(variables()) <= set(named)


def test_the_catalogue_of_rooms_names_every_package() -> None:
    named = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    wings = ("vector_memory", "gateway", "research", "memory_service", "indexes")
    rooms = {str(each.parent.relative_to(ROOT)) for wing in wings for each in (ROOT / wing).glob("*/__init__.py")}
    assert rooms - {"gateway/client"} <= set(named)
    assert [room for room in named if not (ROOT / room).is_dir()] == []


def test_the_page_of_the_api_names_every_operation_with_its_method_and_path() -> None:
    rows = re.findall(r"^\| (`.+?) \| (`.+?) \|", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name: set(re.findall(r"[A-Z]{3,}|/[\w/{}]+", route)) for names, route in rows for name in words(names)}
    assert [each for each in OPERATIONS.values() if not {each.method, each.path} <= named.get(each.name, set())] == []


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
