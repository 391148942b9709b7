"""The tools: what they cost, what they answer, how they fail; the gateway over HTTP and as jobs; tools of others."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from gateway.runpod.jobs import JobRunner
from gateway.serving.app import create_app
from gateway.serving.services import Services
from gateway.serving.worker import Worker
from gateway.settings import GatewaySettings, McpSettings, Settings
from gateway.tools.memory_uris import memory_uri, parsed
from gateway.tools.ours import LIBRARIES, SEARCH_FETCH, TOOLS
from gateway.tools.results import TOKENS, fitted, part, tokens_of
from gateway.tools.toolbox import Parameters, Tool, Toolbox, installed
from memory_service.documents.model import NewDocument
from memory_service.settings import MemorySettings
from memory_service.tokens import estimate_tokens
from research.llm.settings import LLMSettings
from vector_memory.documents import Form
from vector_memory.errors import InvalidInput, NotFound, ServiceError, StartupError, Unavailable

ROOT = Path(__file__).parents[2]
EXAMPLE = EntryPoint("leads_tool", "leads_tool:TOOL", "vector_memory.tools")
TOKENS_OF_ALL_MAX = 2_000


def worker_over(folder: Path, *, search_fetch: bool = False, libraries: bool = False, **llm: Any) -> Worker:
    return Worker(
        Settings(
            memory=MemorySettings(data_dir=folder),
            gateway=GatewaySettings(),
            llm=LLMSettings(**llm),
            mcp=McpSettings(search_fetch=search_fetch, libraries=libraries),
        )
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("tools") / "memory"
    worker = worker_over(folder, search_fetch=True, libraries=True, fallback="extractive")
    worker.load()
    assert worker.failure is None
    yield worker
    asyncio.run(worker.close())


@pytest.fixture(scope="module")
def client(worker: Worker) -> TestClient:
    return TestClient(create_app(worker), raise_server_exceptions=False)  # not entered: the worker stays open


def call(worker: Worker, tool: str, **parameters: Any) -> dict[str, Any]:
    return asyncio.run(worker.toolbox.invoke(tool, parameters))


def refused(worker: Worker, tool: str, **parameters: Any) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        call(worker, tool, **parameters)
    return error.value


# -- definitions ---------------------------------------------------------------------------------------------------


def test_eight_tools_cost_a_session_under_two_thousand_tokens(worker: Worker) -> None:
    from gateway.mcp.server import _tool

    sent = [_tool(tool).model_dump(by_alias=True, exclude_none=True, mode="json") for tool in TOOLS]
    compact = json.dumps(sent, separators=(",", ":"))
    tokens = estimate_tokens(compact)

    print(f"{len(TOOLS)} tools: {tokens} tokens by estimate, {len(compact)} characters")
    assert len(TOOLS) <= 8
    assert tokens < TOKENS_OF_ALL_MAX


@pytest.mark.parametrize("tool", [*TOOLS, *LIBRARIES, *SEARCH_FETCH], ids=lambda tool: tool.name)
def test_a_schema_says_what_may_be_sent_and_nothing_for_nobody(tool: Tool[Any]) -> None:
    schema = tool.input_schema

    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert "title" not in json.dumps(schema)
    assert "null" not in [field.get("type") for field in schema["properties"].values()]
    assert all("anyOf" not in field for field in schema["properties"].values())
    assert set(schema["properties"]) == set(tool.parameters.model_fields)
    assert tool.description.endswith(".")


def test_what_only_reads_is_told_from_what_destroys() -> None:
    hints = {tool.name: tool.hints for tool in (*TOOLS, *LIBRARIES, *SEARCH_FETCH)}

    assert {name for name, hint in hints.items() if not hint.read_only} == {
        "store_memory",
        "update_memory",
        "delete_memory",
    }
    assert not [name for name, hint in hints.items() if hint.read_only and hint.destructive]
    assert [name for name, hint in hints.items() if hint.open_world] == ["research"]


@pytest.mark.parametrize(
    ("setting", "names"), [("search_fetch", {"search", "fetch"}), ("libraries", {"resolve_library", "get_docs"})]
)
def test_what_not_everybody_wants_is_there_when_it_is_asked_for(tmp_path: Path, setting: str, names: set[str]) -> None:
    with_them, without = worker_over(tmp_path / "a", **{setting: True}), worker_over(tmp_path / "b")

    assert {tool.name for tool in with_them.toolbox.tools} - {tool.name for tool in without.toolbox.tools} == names


# -- calls ---------------------------------------------------------------------------------------------------------


def test_a_memory_is_stored_found_read_changed_listed_and_deleted(worker: Worker) -> None:
    stored = call(worker, "store_memory", content="Dana drinks oat flat white.", key="dana", namespace="life")
    found = call(worker, "retrieve_memory", query="what does Dana drink?", namespace="life")
    changed = call(worker, "update_memory", key="dana", namespace="life", metadata={"lead": "acme", "gone": None})
    read = call(worker, "get_memory", key="dana", namespace="life")
    listed = call(worker, "list_memories", namespace="life", filter={"lead": "acme"})
    status = call(worker, "memory_status", namespace="life")
    would = call(worker, "delete_memory", key="dana", namespace="life", dry_run=True)
    deleted = call(worker, "delete_memory", filter={"lead": "acme"}, namespace="life")

    assert (stored["key"], stored["status"], changed["status"]) == ("dana", "stored", "updated")
    assert [memory["key"] for memory in found["memories"]] == ["dana"]
    assert (read["content"], read["metadata"], read["truncated"]) == (
        "Dana drinks oat flat white.",
        {"lead": "acme"},
        False,
    )
    assert ([memory["key"] for memory in listed["memories"]], listed["next_cursor"]) == (["dana"], None)
    assert status["memories"] == 1
    assert (would["deleted"], would["dry_run"], deleted["deleted"]) == (1, True, 1)
    assert "dana" in refused(worker, "get_memory", key="dana", namespace="life").message


def test_research_answers_with_the_keys_that_it_cites(worker: Worker) -> None:
    call(worker, "store_memory", content="Acme stalled on price in March.", key="acme/1", namespace="research")

    answer = call(worker, "research", query="Why did Acme stall?", namespace="research")

    assert "[1]" in answer["answer"]
    assert [each["key"] for each in answer["citations"]] == ["acme/1"]


def test_research_without_a_model_says_what_to_do_instead(tmp_path: Path) -> None:
    bare = worker_over(tmp_path / "memory")
    bare.load()

    error = refused(bare, "research", query="Why?")

    assert error.code == "llm_not_configured"
    assert "retrieve_memory" in error.message


def test_search_and_fetch_have_the_shapes_of_chatgpts_connectors(worker: Worker) -> None:
    call(worker, "store_memory", content="The lighthouse keeper collects barometers. " * 5, key="keeper/ö 1")

    found = call(worker, "search", query="lighthouse")["results"]
    document = call(worker, "fetch", id="keeper/ö 1")

    assert {"id", "title", "url"} == set(found[0])
    assert (found[0]["id"], found[0]["url"]) == ("keeper/ö 1", "memory://default/keeper%2F%C3%B6%201")
    assert set(document) == {"id", "title", "text", "url", "metadata"}
    assert document["text"].startswith("The lighthouse keeper")
    assert len(document["title"]) <= 80


def test_null_parameters_count_as_left_out(worker: Worker) -> None:
    assert call(worker, "list_memories", namespace="empty", filter=None, cursor=None)["memories"] == []


@pytest.mark.parametrize(
    ("tool", "parameters", "field"),
    [
        ("store_memory", {}, "content"),
        ("store_memory", {"content": ""}, "content"),
        ("store_memory", {"content": 7}, "content"),
        ("store_memory", {"content": "x", "tags": ["a"]}, "tags"),
        ("store_memory", {"content": "half \udc00"}, "content"),
        ("retrieve_memory", {"query": " "}, "query"),
        ("retrieve_memory", {"query": "x", "k": 51}, "k"),
        ("retrieve_memory", {"query": "x", "k": "5"}, "k"),
        ("retrieve_memory", {"query": "x", "max_tokens": 199}, "max_tokens"),
        ("retrieve_memory", {"query": "x", "filter": {"a": {"$like": 1}}}, "filter.a.$like"),
        ("list_memories", {"limit": 101}, "limit"),
        ("list_memories", {"cursor": "nonsense"}, "cursor"),
        ("get_memory", {"key": "x", "offset": -1}, "offset"),
        ("update_memory", {"key": "x"}, "content"),
        ("delete_memory", {}, "key"),
        ("delete_memory", {"key": "x", "filter": {"a": 1}}, "key"),
        ("delete_memory", {"filter": {}}, "filter"),
        ("research", {"query": "x", "max_tokens": 99}, "max_tokens"),
        ("memory_status", {"namespace": ""}, "namespace"),
    ],
)
def test_a_wrong_parameter_is_named_in_a_sentence(
    worker: Worker, tool: str, parameters: dict[str, Any], field: str
) -> None:
    error = refused(worker, tool, **parameters)

    assert (type(error), error.field) == (InvalidInput, field)
    assert error.message.endswith((".", "?"))


def test_what_is_not_there_is_not_found(worker: Worker) -> None:
    for tool in ("get_memory", "update_memory", "delete_memory"):
        extra = {"content": "x"} if tool == "update_memory" else {}
        assert isinstance(refused(worker, tool, key="nobody", **extra), NotFound)
    assert isinstance(refused(worker, "delete_memory", key="nobody", dry_run=True), NotFound)
    assert "store_memory" in refused(worker, "no_such_tool").message


async def test_a_call_that_comes_while_the_worker_loads_waits_for_it(tmp_path: Path) -> None:
    loading = worker_over(tmp_path / "memory")
    answer = asyncio.create_task(loading.toolbox.invoke("memory_status", {}))
    await asyncio.sleep(0)  # the call begins

    await asyncio.to_thread(loading.load)

    assert (await answer)["status"] == "healthy"
    await loading.close()


def test_a_worker_that_could_not_load_says_why(tmp_path: Path) -> None:
    failed = worker_over(tmp_path / "no" / "volume")
    failed.load()

    error = refused(failed, "memory_status")

    assert isinstance(error, Unavailable)
    assert "volume" in error.message


# -- caps ----------------------------------------------------------------------------------------------------------


def test_an_answer_keeps_whole_memories_within_its_tokens_and_the_keys_of_the_others(worker: Worker) -> None:
    for at in range(30):
        call(worker, "store_memory", content=f"Harbour report {at}. " + "calm sea " * 60, key=f"r{at}", namespace="cap")

    found = call(worker, "retrieve_memory", query="harbour report", k=30, namespace="cap")

    assert tokens_of(found) <= TOKENS
    assert found["truncated"] is True
    assert len(found["memories"]) >= 4
    assert all(memory["content"].endswith("calm sea ") for memory in found["memories"])
    assert len(found["memories"]) + len(found["more"]) + found.get("more_omitted", 0) == 30


def test_pages_of_a_listing_keep_within_their_tokens_and_leave_none_out(worker: Worker) -> None:
    keys = {f"p{at}" for at in range(25)}
    for at, key in enumerate(sorted(keys)):
        text = '"quoted"\n' * 50 if at % 3 else "x"
        call(worker, "store_memory", content=f"{key} {text}", key=key, namespace="pages", metadata={"n": at})
    call(worker, "store_memory", content="very long " * 9_000, key="long", namespace="pages")

    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = call(worker, "list_memories", namespace="pages", cursor=cursor, max_tokens=1_000)
        assert tokens_of(page) <= 1_000
        assert page["truncated"] or page["next_cursor"] is None
        seen += [memory["key"] for memory in page["memories"]]
        cursor, pages = page["next_cursor"], pages + 1

    assert sorted(seen) == sorted([*keys, "long"])


def test_a_long_memory_is_read_in_parts_that_make_up_the_whole(worker: Worker) -> None:
    content = "".join(f"Line {at}: tabs\tand “quotes” \\ 漢字 🙂\n" for at in range(1_500))
    call(worker, "store_memory", content=content, key="long", namespace="parts")

    read = ""
    offset: int | None = 0
    while offset is not None:
        piece = call(worker, "get_memory", key="long", namespace="parts", offset=offset, max_tokens=5_000)
        assert tokens_of(piece) <= 5_000
        read, offset = read + piece["content"], piece.get("next_offset")

    assert read == content
    assert "length" in refused(worker, "get_memory", key="long", namespace="parts", offset=99_000).message


def test_metadata_that_fill_an_answer_are_left_out_and_that_is_told(worker: Worker) -> None:
    metadata = {f"field{at}": "words and words" for at in range(200)}
    call(worker, "store_memory", content="Short.", key="m", namespace="metadata", metadata=metadata)

    small = call(worker, "get_memory", key="m", namespace="metadata")
    large = call(worker, "get_memory", key="m", namespace="metadata", max_tokens=20_000)

    assert (small["content"], small["metadata_omitted"], "metadata" in small) == ("Short.", True, False)
    assert large["metadata"] == metadata


_memories = st.lists(
    st.fixed_dictionaries(
        {"key": st.text(min_size=1, max_size=60), "content": st.text(min_size=1, max_size=900)},
        optional={"metadata": st.dictionaries(st.text(max_size=9), st.text(max_size=200), max_size=4)},
    ),
    max_size=12,
)


@given(_memories, st.integers(400, 3_000))
def test_no_answer_is_larger_than_asked_and_none_loses_a_memory(
    memories: list[dict[str, Any]], max_tokens: int
) -> None:
    shown = fitted(memories, max_tokens)

    assert tokens_of(shown) <= max_tokens
    assert len(shown["memories"]) + len(shown.get("more", [])) + shown.get("more_omitted", 0) == len(memories)
    assert shown["truncated"] == (
        shown["memories"] != memories and bool("more" in shown or "next_offset" in shown["memories"][0])
    )


def test_a_part_has_at_least_one_character_so_that_reading_on_ends() -> None:
    assert part({"key": "k", "content": "🙂🙂"}, 1)["content"] == "🙂"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_a_memorys_uri_leads_back_to_it(namespace: str, key: str) -> None:
    uri = memory_uri(namespace, key)

    assert uri.isascii()
    assert parsed(uri) == (namespace, key)


@pytest.mark.parametrize(
    "uri", ["", "memory://", "memory://a", "memory://a/", "memory:///k", "http://a/k", "memory://a/%ff"]
)
def test_what_is_no_uri_of_a_memory_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        parsed(uri)


# -- libraries -----------------------------------------------------------------------------------------------------

OWLS = (
    "# Owls\n\n"
    + "".join(f"## Part {n}\n\n{'Owls sleep through the day. ' * 20}\n\n" for n in range(20))
    + "## Boxes\n\nHang a box four metres above the ground.\n"
)


def test_a_library_is_found_and_read_within_the_tokens_that_were_asked_for(worker: Worker) -> None:
    worker.documents.store(NewDocument(OWLS, Form.MARKDOWN, id="owls", namespace="docs", library="Owl Care"))
    [library] = call(worker, "resolve_library", name="owl", namespace="docs")["libraries"]
    for max_tokens in (200, 500, 2_000):
        docs = call(
            worker,
            "get_docs",
            library=library["id"],
            topic="where do I hang a box?",
            namespace="docs",
            max_tokens=max_tokens,
        )
        assert tokens_of(docs) <= max_tokens
        assert docs["truncated"] is True
        assert any("four metres" in chunk["content"] for chunk in docs["chunks"])
    begins = call(worker, "get_docs", library="owl-care", namespace="docs")
    assert begins["chunks"][0]["headings"][0] == "Owls"
    assert tokens_of(begins) <= TOKENS
    assert call(worker, "resolve_library", namespace="docs")["libraries"] == [{**library, "match": "all"}]
    assert refused(worker, "get_docs", library="owl-care").code == "not_found"
    assert refused(worker, "get_docs", library="owl-care", max_tokens=1).field == "max_tokens"


# -- the gateway ---------------------------------------------------------------------------------------------------


def test_tools_are_listed_and_called_over_http(client: TestClient) -> None:
    listed = client.get("/v1/tools").json()
    stored = client.post("/v1/tools/store_memory", json={"content": "Rye grows in Öland.", "namespace": "http"})
    envelope = {"action": "invoke_tool", "data": {"tool_name": "list_memories", "parameters": {"namespace": "http"}}}
    page = client.post("/v1/tools", json=envelope).json()

    assert listed["success"] is True
    assert [tool["name"] for tool in listed["result"]["tools"]][:8] == [tool.name for tool in TOOLS]
    assert client.post("/v1/tools", json={"action": "list_tools"}).json()["result"] == listed["result"]
    assert stored.json()["result"]["status"] == "stored"
    assert page["result"]["memories"][0]["content"] == "Rye grows in Öland."
    assert page["latency_ms"] >= 0


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/tools/get_memory", {"key": "nobody"}, 404, "not_found"),
        ("/v1/tools/get_memory", {}, 422, "invalid"),
        ("/v1/tools/no_such_tool", {}, 404, "not_found"),
        ("/v1/tools", {"action": "invoke_tool"}, 422, "invalid"),
        ("/v1/tools", {"action": "invoke_tool", "data": {"tool_name": "nope"}}, 404, "not_found"),
    ],
)
def test_a_failed_call_has_one_shape(client: TestClient, path: str, body: object, status: int, code: str) -> None:
    response = client.post(path, json=body)

    failed = response.json()
    assert (response.status_code, failed["success"], failed["error"]["code"]) == (status, False, code)
    assert {"message", "request_id"} <= set(failed["error"])
    assert failed["latency_ms"] >= 0


@pytest.mark.parametrize("body", [[], {"action": "destroy"}, {"action": "list_tools", "more": 1}, {"data": {}}])
def test_what_is_no_envelope_is_refused(client: TestClient, body: object) -> None:
    assert client.post("/v1/tools", json=body).status_code == 422


def test_the_envelope_is_a_job_too(tmp_path: Path) -> None:
    worker = worker_over(tmp_path / "memory")
    worker.load()

    async def run(*inputs: dict[str, Any]) -> list[Any]:
        runner = JobRunner(worker)
        return [await runner.run({"id": f"job-{at}", "input": input}) for at, input in enumerate(inputs)]

    listed, stored, missing = asyncio.run(
        run(
            {"action": "list_tools", "data": {}},
            {"action": "invoke_tool", "data": {"tool_name": "store_memory", "parameters": {"content": "Bo sails."}}},
            {"action": "invoke_tool", "data": {"tool_name": "get_memory", "parameters": {"key": "nobody"}}},
        )
    )

    assert [tool["name"] for tool in listed["result"]["tools"]] == [tool.name for tool in TOOLS]
    assert (stored["success"], stored["result"]["status"]) == (True, "stored")
    assert json.loads(missing["error"])["code"] == "not_found"


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [
        ("store_memory", {"content": "Bo rows."}),
        ("update_memory", {"key": "bo", "metadata": {"n": 1}}),
        ("delete_memory", {"key": "bo"}),
        ("delete_memory", {"filter": {"kind": "x"}}),
    ],
)
def test_a_call_that_is_delivered_twice_is_carried_out_once(
    client: TestClient, tool: str, parameters: dict[str, Any]
) -> None:
    namespace = f"twice {tool} {sorted(parameters)}"
    memory = {"content": "Bo sails.", "key": "bo", "namespace": namespace, "metadata": {"kind": "x"}}
    client.post("/v1/memories", json=memory)
    body = {"action": "invoke_tool", "data": {"tool_name": tool, "parameters": {**parameters, "namespace": namespace}}}

    first = client.post("/v1/tools", json=body, headers={"Idempotency-Key": "job-1"})
    client.post("/v1/memories", json={**memory, "metadata": {"kind": "x", "again": True}})
    second = client.post("/v1/tools", json=body, headers={"Idempotency-Key": "job-1"})

    assert first.status_code == second.status_code == 200
    assert first.json()["result"] == second.json()["result"]
    held = client.get("/v1/memories/bo", params={"namespace": namespace}).json()
    assert held["metadata"] == {"kind": "x", "again": True}


# -- tools of others -----------------------------------------------------------------------------------------------


class Anything(Parameters):
    pass


def own(name: str, run: Callable[[Services, Anything], Any] = lambda _worker, _asked: {}) -> Tool[Anything]:
    return Tool(name, "A tool of somebody.", Anything, run)


def test_the_example_joins_through_its_entry_point(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    toolbox = Toolbox(worker, [*TOOLS, *installed([EXAMPLE])])
    call(worker, "store_memory", content="Acme asked for a quote.", namespace="crm", metadata={"lead": "acme"})
    call(worker, "store_memory", content="Acme signed.", namespace="crm", metadata={"lead": "acme"})

    result = asyncio.run(toolbox.invoke("lead_summary", {"lead": "acme", "namespace": "crm"}))

    assert result["lead"] == "acme"
    assert [note["content"] for note in result["notes"]] == ["Acme signed.", "Acme asked for a quote."]
    with pytest.raises(InvalidInput):
        asyncio.run(toolbox.invoke("lead_summary", {}))


def test_a_name_that_is_taken_ends_the_start(worker: Worker) -> None:
    with pytest.raises(StartupError, match="two tools named store_memory"):
        Toolbox(worker, [*TOOLS, own("store_memory")])


@pytest.mark.parametrize("name", ["", "has space", "1st", "x" * 65, "käse"])
def test_a_name_that_clients_refuse_ends_the_start(worker: Worker, name: str) -> None:
    with pytest.raises(StartupError, match="cannot be a tool's name"):
        Toolbox(worker, [own(name)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module_of_ours:TOOL", "cannot be loaded"),
        ("json:NO_SUCH", "cannot be loaded"),
        ("json:dumps", "neither"),
    ],
)
def test_an_entry_point_that_is_no_tool_ends_the_start_by_its_name(value: str, message: str) -> None:
    with pytest.raises(StartupError, match=message) as refusal:
        installed([EntryPoint("broken", value, "vector_memory.tools")])

    assert "broken" in str(refusal.value)


def test_a_worker_does_not_start_with_a_broken_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "json:dumps", "vector_memory.tools")
    monkeypatch.setattr("gateway.tools.toolbox.entry_points", lambda group: [broken])

    with pytest.raises(StartupError, match="broken"):
        worker_over(tmp_path / "memory").check()


@pytest.mark.parametrize(
    "returned",
    [
        lambda: 1 / 0,
        lambda: None,
        lambda: {"x": object()},
        lambda: {"x": float("nan")},
        lambda: {"x": "\ud800"},
        lambda: sys.exit,
        lambda: sys.exit(3),
        lambda: next(iter([])),  # its caller once waited for ever
    ],
)
def test_what_a_tool_does_wrong_reaches_the_caller_as_one_sentence(
    worker: Worker, caplog: pytest.LogCaptureFixture, returned: Callable[[], Any]
) -> None:
    async def wrongly(_worker: Services, _asked: Anything) -> Any:
        return returned()

    for run in (wrongly, lambda _worker, _asked: returned()):
        toolbox = Toolbox(worker, [own("secret_tool", run)])
        with pytest.raises(ServiceError) as error:
            asyncio.run(toolbox.invoke("secret_tool", {}))

        assert error.value.code == "internal"
        assert error.value.message == "The tool secret_tool failed inside the service; its log has the details."
        assert "tool.crashed" in caplog.text
