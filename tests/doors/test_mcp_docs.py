"""What the pages about MCP and tools tell a reader to run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.tools.ours import TOOLS
from tests.doors.stdio_client import StdioClient
from tests.worker_process import WorkerProcess, environment

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with WorkerProcess(tmp_path_factory.mktemp("docs") / "memory") as process:
        yield process


def test_the_python_example_prints_what_was_stored(served):
    [code] = blocks("mcp.md", "python")

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(MEMORY_MCP=f"http://127.0.0.1:{served.port}/mcp"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "dana/coffee Dana drinks an oat flat white.\n", done.stderr


def test_the_command_of_the_stdio_configuration_serves(tmp_path):
    configured, http = (json.loads(block)["mcpServers"]["memory"] for block in blocks("mcp.md", "json"))

    assert (configured["command"], configured["args"]) == ("vector-memory", ["mcp"])
    assert http["url"].endswith("/mcp")
    with StdioClient(**{name: str(tmp_path / "memory") for name in configured["env"]}) as client:
        client.initialize()
        assert client.call(1, "memory_status")["structuredContent"]["memories"] == 0


def test_the_curl_examples_succeed(served):
    [commands] = blocks("tools.md", "sh")
    for command in commands.replace("\\\n", "").splitlines():
        _, _, url, _, _, _, body = shlex.split(command)
        answer = served.post(url.removeprefix("http://127.0.0.1:8000"), json.loads(body))
        assert answer["success"] is True


def test_the_table_names_every_tool():
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "mcp.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert named == [tool.name for tool in TOOLS]
