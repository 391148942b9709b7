"""MCP over stdio: the greeting before anything is loaded, the process itself, and the proxy to a running service."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters, stdio_client
from mcp.server.lowlevel import Server
from mcp.shared._context_streams import create_context_streams
from mcp.shared.message import SessionMessage
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from gateway.mcp import greeting
from gateway.mcp.server import build
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, Settings
from memory_service.settings import MemorySettings
from research.llm.settings import LLMSettings
from tests.doors.stdio_client import CLIENT, META, StdioClient
from tests.worker_process import WorkerProcess, environment, free_port

COFFEE = "Dana drinks an oat flat white."

Mode: TypeAlias = Literal["auto", "legacy"]


def initialize(version: str, id: object = 1) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
    return {"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params}


def discover(id: object = "d") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "server/discover", "params": {"_meta": META}}


async def answered_by_the_sdk(server: Server[Any], message: object) -> Any:
    """What the SDK answers when this message opens a connection."""
    sending, received = create_context_streams[SessionMessage | Exception](10)
    written, answers = create_context_streams[SessionMessage](10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, received, written, server.create_initialization_options())
        await sending.send(SessionMessage(types.jsonrpc_message_adapter.validate_python(message)))
        answer = (await answers.receive()).message
        tasks.cancel_scope.cancel()
    return json.loads(answer.model_dump_json(by_alias=True, exclude_unset=True))


# -- the greeting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [*map(initialize, [*greeting.HANDSHAKES, "2031-01-01", ""]), discover(), discover(7)]
)
async def test_the_greeting_is_what_the_sdk_would_answer(tmp_path: Path, message: object) -> None:
    memory = MemorySettings(data_dir=tmp_path / "memory")
    server = build(Worker(Settings(memory=memory, gateway=GatewaySettings(), llm=LLMSettings())))

    assert greeting.answer_opening(message) == await answered_by_the_sdk(server, message)


def test_the_greeting_knows_the_versions_that_the_sdk_knows() -> None:
    assert greeting.HANDSHAKES == HANDSHAKE_PROTOCOL_VERSIONS
    assert (greeting.WITHOUT_HANDSHAKE,) == MODERN_PROTOCOL_VERSIONS


_FIELDS = ["id", "method", "params", "jsonrpc"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "method", "params", "jsonrpc"]), inner)
    ),
    max_leaves=8,
)


@given(_json)
def test_what_opens_no_connection_is_left_to_the_server(message: object) -> None:
    assert greeting.answer_opening(message) is None


@pytest.mark.parametrize(
    "change",
    [{"id": None}, {"id": True}, {"id": 1.5}, {"params": {}}, {"params": None}, {"jsonrpc": "1.0"}, {"method": "ping"}],
)
def test_a_malformed_handshake_is_left_to_the_server(change: dict[str, Any]) -> None:
    assert greeting.answer_opening({**initialize("2025-11-25"), **change}) is None


# -- the process ---------------------------------------------------------------------------------------------------


def test_the_handshake_is_answered_before_anything_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from gateway.mcp import greeting; front = greeting.front(); front.line();"
        "heavy = {'mcp', 'pydantic', 'numpy', 'faiss', 'onnxruntime', 'typer', 'asyncio'} & set(sys.modules);"
        "print('loaded', sorted(heavy))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(initialize("2025-06-18")).encode() + b"\n",
        env=environment(),
        capture_output=True,
        timeout=60,
        check=True,
    )

    assert json.loads(done.stdout)["result"]["protocolVersion"] == "2025-06-18"
    assert done.stderr == b"loaded []\n"  # printed, and yet not on the protocol's output


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works_over_stdio(tmp_path: Path, mode: Mode) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "gateway", "mcp", "--data-dir", str(tmp_path / "memory")],
        env=environment(),
    )
    async with Client(stdio_client(parameters), mode=mode) as client:
        stored = await client.call_tool("store_memory", {"content": COFFEE, "key": "ключ"})
        found = await client.call_tool("retrieve_memory", {"query": "what does Dana drink?"})
        [content] = (await client.read_resource("memory://default/%D0%BA%D0%BB%D1%8E%D1%87")).contents

    assert stored.structured_content["status"] == "stored"
    assert found.structured_content["memories"][0]["key"] == "ключ"
    assert isinstance(content, types.TextResourceContents)
    assert content.text == COFFEE


def test_nothing_but_the_protocol_is_on_stdout_and_logs_go_to_stderr(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory"), MEMORY_LOG_LEVEL="debug") as client:
        opened = client.initialize()
        called = client.call(2, "store_memory", content=COFFEE)
        code, rest, stderr = client.end()

    assert opened["result"]["serverInfo"]["name"] == "vector-memory"
    assert called["structuredContent"]["status"] == "stored"
    assert (code, rest) == (0, [])
    assert "worker.ready" in stderr
    assert COFFEE not in stderr


def test_a_client_of_the_newest_protocol_needs_no_handshake(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory")) as client:
        listed = client.ask("first", "tools/list", _meta=META)
        discovered = client.ask("second", "server/discover", _meta=META)

    assert len(listed["result"]["tools"]) == 8
    assert discovered["result"]["supportedVersions"] == ["2026-07-28"]


def test_nonsense_is_passed_over_and_the_process_goes_on(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory")) as client:
        client.send(b"not json")
        client.send(b"\xff\xfe\x00")
        client.send(b"[" * 100_000)
        opened = client.initialize()
        listed = client.ask(2, "tools/list")

    assert "result" in opened
    assert len(listed["result"]["tools"]) == 8


def test_a_call_whose_text_is_none_is_answered_and_one_with_both_halves_of_a_character_is_carried_out(
    tmp_path: Path,
) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory")) as client:
        client.initialize()
        refused = client.ask(2, "tools/call", name="store_memory", arguments={"content": "a \ud800 b"})
        assert "surrogate" in refused["error"]["message"]
        stored = client.call(3, "store_memory", content="☕ \U0001f680", key="rocket")
        assert stored["structuredContent"]["key"] == "rocket"


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    """Clients start one process each; elsewhere the second one finds the folder locked, or writes over the first."""
    folder = str(tmp_path / "memory")
    with StdioClient(MEMORY_DATA_DIR=folder) as one, StdioClient(MEMORY_DATA_DIR=folder) as other:
        one.initialize()
        other.initialize()
        one.call(1, "store_memory", content=COFFEE, key="dana")
        other.call(1, "store_memory", content="Bo sails.", key="bo")
        assert one.end()[0] == other.end()[0] == 0
    with StdioClient(MEMORY_DATA_DIR=folder) as third:
        third.initialize()
        keys = [memory["key"] for memory in third.call(1, "list_memories")["structuredContent"]["memories"]]

    assert sorted(keys) == ["bo", "dana"]


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    folder = str(tmp_path / "memory")
    with StdioClient(MEMORY_DATA_DIR=folder) as client:
        client.initialize()
        client.call(1, "store_memory", content=COFFEE, key="dana")
        client.process.kill()
    with StdioClient(MEMORY_DATA_DIR=folder) as client:
        client.initialize()
        assert client.call(1, "get_memory", key="dana")["structuredContent"]["content"] == COFFEE


def test_a_folder_that_cannot_be_used_ends_the_process_with_one_line(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "no" / "volume")) as client:
        code, _, stderr = client.end()

    assert code == 1
    assert "is the volume mounted?" in stderr
    assert "Traceback" not in stderr


def test_what_was_asked_before_the_client_goes_leaves_no_half_line(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory")) as client:
        client.initialize()
        for id in range(5):
            params = {"name": "store_memory", "arguments": {"content": f"{COFFEE} {id}"}}
            client.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
        code, rest, stderr = client.end()

    assert code == 0
    assert {json.loads(line)["jsonrpc"] for line in rest} <= {"2.0"}
    assert "Traceback" not in stderr


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_client_that_reads_nothing_and_goes_ends_the_process(tmp_path: Path, end: bytes) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    requests = [initialize("2025-11-25"), {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}]

    done = subprocess.run(
        [sys.executable, "-m", "gateway", "mcp"],
        input=b"\n".join(json.dumps(request).encode() for request in requests) + end,
        env=environment(MEMORY_DATA_DIR=str(tmp_path / "memory")),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)

    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_an_interrupt_ends_the_process(tmp_path: Path) -> None:
    with StdioClient(MEMORY_DATA_DIR=str(tmp_path / "memory")) as client:
        client.initialize()
        client.call(1, "memory_status")
        client.process.send_signal(signal.SIGINT)
        client.process.wait(60)


# -- the proxy -----------------------------------------------------------------------------------------------------


def test_the_proxy_passes_everything_on(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path / "memory") as worker, StdioClient("--url", str(worker.http.base_url)) as client:
        opened = client.initialize("2025-06-18")
        stored = client.call(2, "store_memory", content=COFFEE, key="ключ")
        read = client.ask(3, "resources/read", uri="memory://default/%D0%BA%D0%BB%D1%8E%D1%87")
        missing = client.call(4, "get_memory", key="nobody")
        unknown = client.ask(5, "no/such/method")
        code, rest, _ = client.end()

    assert opened["result"]["protocolVersion"] == "2025-06-18"
    assert stored["structuredContent"]["status"] == "stored"
    assert read["result"]["contents"][0]["text"] == COFFEE
    assert missing["isError"] is True
    assert unknown["error"]["code"] == -32601
    assert (code, rest) == (0, [])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works_through_the_proxy_and_a_restart(tmp_path: Path, mode: Mode) -> None:
    with WorkerProcess(tmp_path / "memory") as first:
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "gateway", "mcp", "--url", url_of(first)], env=environment()
        )
        async with Client(stdio_client(parameters), mode=mode) as client:
            await client.call_tool("store_memory", {"content": COFFEE, "key": "dana"})
            first.kill()
            waiting = asyncio.create_task(client.call_tool("get_memory", {"key": "dana"}))
            await asyncio.sleep(0)  # the call begins, and finds nobody
            with await asyncio.to_thread(started, tmp_path / "memory", first.port):
                read = await waiting

    assert read.structured_content["content"] == COFFEE


def started(folder: Path, port: int) -> WorkerProcess:
    return WorkerProcess(folder, port=port)


def url_of(worker: WorkerProcess) -> str:
    return f"http://127.0.0.1:{worker.port}"


def test_without_a_service_the_proxy_still_greets_and_says_what_is_wrong() -> None:
    with StdioClient("--url", f"http://127.0.0.1:{free_port()}/mcp") as client:
        opened = client.initialize()
        client.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "memory_status"}})
        client.send({"jsonrpc": "2.0", "id": 3, "method": "tools/list"})
        answers = {answer["id"]: answer for answer in (client.receive(), client.receive())}

    assert opened["result"]["serverInfo"]["name"] == "vector-memory"
    assert answers[2]["result"]["isError"] is True
    assert "is it running?" in answers[2]["result"]["content"][0]["text"]
    assert "is it running?" in answers[3]["error"]["message"]


def test_what_the_service_refuses_is_told_with_its_status(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path / "memory") as worker, StdioClient("--url", f"{url_of(worker)}/v1/mcp") as client:
        client.initialize()
        called = client.call(2, "memory_status")
        client.send([])
        refused = client.receive()

    assert "answered with status 404" in called["content"][0]["text"]
    assert refused["error"]["code"] == -32600
