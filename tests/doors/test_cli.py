"""The command line as people and pipes use it."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli.failing import EXIT_CODES
from gateway.cli.showing import safe
from tests.stand_in_llm import StandInLLM, answering, in_turn, stream_of, streaming
from tests.stand_in_platform import QueueWorker, StandInPlatform
from tests.worker_process import WorkerProcess, environment, free_port
from vector_memory import NewMemory, ResearchRequest, Retrieval, errors
from vector_memory.errors import look_up
from vector_memory.fields import Request
from vector_memory.memories import Get, Update

ROOT = Path(__file__).parents[2]
ENDS_S_MAX = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path_factory.mktemp("cli") / "memory", LLM_FALLBACK="extractive") as worker:
        yield worker


@pytest.fixture
def at(served: WorkerProcess, request: pytest.FixtureRequest) -> list[str]:
    """Arguments for the running service, in a namespace of the test's own."""
    return ["--url", f"http://127.0.0.1:{served.port}", "-n", request.node.name[-100:]]


def run(*arguments: object, input: str | None = None, **variables: str) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=input, env=variables)


def as_json(*arguments: object, input: str | None = None) -> Any:
    done = run(*arguments, "--json", input=input)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def process(
    *arguments: object, input: bytes | None = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)],
        env=environment(**variables),
        input=input,
        cwd=cwd,
        capture_output=True,
        timeout=ENDS_S_MAX,
        check=False,
    )


# -- memories ------------------------------------------------------------------------------------------------------


def test_store_retrieve_get_list_history_and_delete(at: list[str]) -> None:
    stored = as_json("store", "Dana drinks an oat flat white.", "--key", "dana", "--metadata", '{"lead": "acme"}', *at)
    assert (stored["key"], stored["status"]) == ("dana", "stored")
    assert as_json("store", "-", *at, input="Acme stalled on price.\n")["status"] == "stored"

    found = as_json("retrieve", "what does Dana drink?", "--filter", '{"lead": "acme"}', *at)
    assert [hit["key"] for hit in found["memories"]] == ["dana"]
    shown = run("retrieve", "what does Dana drink?", "--explain", *at)
    assert "Dana drinks an oat flat white." in shown.stdout
    assert "terms:" in shown.stdout

    assert as_json("get", "dana", *at)["metadata"] == {"lead": "acme"}
    lines = run("list", "--json", *at).stdout.splitlines()
    assert [json.loads(line)["content"] for line in lines] == [
        "Acme stalled on price.",
        "Dana drinks an oat flat white.",
    ]
    assert len(run("list", "--json", "--limit", "1", *at).stdout.splitlines()) == 1
    assert [event["event"] for event in as_json("history", "dana", *at)["events"]] == ["stored"]
    assert as_json("delete", "dana", *at)["deleted"] == 1
    gone = run("get", "dana", *at)
    assert (gone.exit_code, gone.stdout) == (3, "")
    assert "no memory with key 'dana'" in gone.stderr


def test_deleting_many_is_asked_about_unless_told(at: list[str]) -> None:
    for n in range(3):
        as_json("store", f"note {n}", "--key", f"k{n}", "--metadata", json.dumps({"n": n}), *at)
    dry = as_json("delete", "--filter", '{"n": {"$gte": 1}}', "--dry-run", *at)
    assert (dry["deleted"], dry["dry_run"]) == (2, True)
    refused = run("delete", "k0", "k1", *at, input="")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert len(run("list", "--json", *at).stdout.splitlines()) == 3
    deleted = as_json("delete", "k0", "k1", "zz", "--yes", "--receipt", *at)
    assert (deleted["deleted"], deleted["missing"]) == (2, ["zz"])
    assert deleted["receipt"]["files"]
    assert run("delete", *at).exit_code == 2
    assert run("delete", "k0", "--filter", "{}", *at).exit_code == 2


def test_research_shows_what_it_cites(at: list[str]) -> None:
    as_json("store", "Dana drinks an oat flat white.", "--key", "dana", *at)
    shown = run("research", "What does Dana drink?", *at)
    assert "[1]" in shown.stdout
    assert "dana" in shown.stdout
    assert as_json("research", "What does Dana drink?", *at)["citations"][0]["key"] == "dana"


def test_what_exists_is_updated(at: list[str]) -> None:
    as_json("store", "Dana drinks tea.", "--key", "dana", "--metadata", '{"lead": "acme", "draft": 1}', *at)
    done = as_json(
        "update", "dana", "--content", "-", "--metadata", '{"draft": null}', *at, input="Dana drinks coffee.\n"
    )
    assert done["status"] == "updated"
    memory = as_json("get", "dana", *at)
    assert (memory["content"], memory["metadata"]) == ("Dana drinks coffee.", {"lead": "acme"})
    as_json("update", "dana", "--ttl-seconds", "3600", *at)
    assert as_json("get", "dana", *at)["expires_at"]
    assert run("update", "dana", *at).exit_code == 2
    assert run("update", "nobody", "--content", "x", *at).exit_code == 3


def test_documents_are_added_listed_and_deleted(at: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owls.md").write_text("# Owls\n\n## Feeding\n\nTwo mice.\n\n## Housing\n\nA box of oak.\n")
    Path("boxes.html").write_text("<h1>Boxes</h1><p>Four metres above the ground.")
    Path("odd.docx").write_text("x")
    added = run("documents", "add", "owls.md", "odd.docx", "boxes.html", "--library", "Owl Care", *at)
    assert added.exit_code == 1
    assert added.stdout.splitlines() == ["owls.md  2 chunks: 2 stored", "boxes.html  1 chunk: 1 stored"]
    assert "odd.docx: The form of odd.docx cannot be told from its name" in added.stderr

    Path("owls.md").write_text("# Owls\n\n## Feeding\n\nThree voles.\n\n## Housing\n\nA box of oak.\n")
    again = as_json("documents", "add", "owls.md", "--library", "Owl Care", *at)
    assert (again["stored"], again["unchanged"], again["deleted"]) == (1, 1, 1)
    assert as_json("documents", "add", "-", "--id", "note", *at, input="A note.")["form"] == "text"
    lines = run("documents", "list", "--json", *at).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["boxes.html", "note", "owls.md"]
    assert "owl-care  2 chunks" in run("documents", "list", "--library", "owl-care", *at).stdout
    assert as_json("documents", "delete", "note", "owls.md", *at)["deleted"] == {"note": 1, "owls.md": 2}
    assert run("documents", "delete", "note", *at).exit_code == 3
    assert run("documents", "add", "owls.md", "boxes.html", "--id", "x", *at).exit_code == 2
    assert run("documents", "add", "missing.md", *at).exit_code == 1


def test_every_control_of_retrieve_has_an_option(at: list[str]) -> None:
    as_json("store", "Dana drinks an oat flat white.", "--key", "a", *at)
    options = {
        "-k": 2,
        "--after": "2020-01-01",
        "--before": "2090-01-01",
        "--mode": "hybrid",
        "--half-life": 30,
        "--importance": 0.1,
        "--diversity": 0.1,
        "--per-session": 3,
        "--min-score": -1,
        "--min-relevance": 0,
        "--max-tokens": 100,
        "--why-not": "b",
    }
    arguments = [str(each) for pair in options.items() for each in pair]
    found = as_json("retrieve", "what does Dana drink?", "--explain", "--strong", *arguments, *at)
    assert found["memories"][0]["key"] == "a"
    assert {"abstained", "tokens", "truncated", "explanation"} <= set(found)
    assert as_json("retrieve", "--like", "a", *at)["memories"] == []


@pytest.mark.parametrize(
    ("name", "request_type", "absent"),
    [
        ("store", NewMemory, {"embedding"}),
        ("retrieve", Retrieval, set()),
        ("research", ResearchRequest, set()),
        ("get", Get, set()),
        ("update", Update, set()),
    ],
)
def test_every_field_of_a_request_has_an_option_that_quotes_its_description(
    name: str, request_type: type[Request], absent: set[str]
) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    context = typer.Context(command, info_name=name, parent=typer.Context(group))
    options = [each for each in command.get_params(context) if isinstance(each, (TyperArgument, TyperOption))]
    help_of = {option.name: option.help or "" for option in options}
    assert request_type.model_fields.keys() - absent <= help_of.keys()
    for field, info in request_type.model_fields.items():
        if info.description is not None and field not in {"namespace", "consistency", "stream", *absent}:
            assert help_of[field].startswith(info.description.replace("[", "\\["))


def test_a_bound_and_a_default_are_shown_and_the_request_checks_the_bound() -> None:
    shown = process("retrieve", "--help", COLUMNS="200").stdout.decode()
    assert re.search(r"-k +1\.\.1000 +Memories to return;.*\[default: 5\]", shown)
    assert re.search(r"--min-score +-1\.\.1 ", shown)
    refused = run("retrieve", "x", "-k", "1001")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "vector-memory: k must be a whole number from 1 to 1000.\n",
    )


# -- on a folder, a service, an endpoint ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "URL", "-n", "NAMESPACE", "store", "x", "--key", "a"],
        ["store", "x", "--key", "a", "--url=URL", "-nNAMESPACE"],
        ["store", "--namespace=NAMESPACE", "--key", "a", "--url", "URL", "--", "x"],
        ["--url", "URL", "store", "-", "--key", "a", "-n", "NAMESPACE"],
        ["--url", "http://127.0.0.1:1", "-nother", "store", "x", "--key", "a", "--url", "URL", "-n", "NAMESPACE"],
    ],
)
def test_where_to_work_is_said_before_or_after_the_command_and_the_last_word_counts(
    at: list[str], arguments: list[str]
) -> None:
    words = {"URL": at[1], "NAMESPACE": at[3][:60]}
    filled = [re.sub("URL|NAMESPACE", lambda match: words[match[0]], each) for each in arguments]
    assert run(*filled, input="x\n").exit_code == 0
    assert as_json("get", "a", "--url", at[1], "-n", at[3][:60])["content"] == "x"
    assert run("--url", at[1], "documents", "list", "-n", at[3][:60]).exit_code == 0


def test_a_value_that_looks_like_one_of_these_options_stays_a_value(at: list[str]) -> None:
    assert run("store", "--key", "--url", *at, "--", "-n").exit_code == 0
    assert json.loads(run("get", "--json", *at, "--", "--url").stdout)["content"] == "-n"


def test_variables_stand_for_the_options_and_the_command_line_overrides_them(at: list[str], tmp_path: Path) -> None:
    variables = {"VECTOR_MEMORY_URL": at[1], "VECTOR_MEMORY_NAMESPACE": at[3], "VECTOR_MEMORY_API_KEY": "key"}
    assert run("store", "x", "--key", "a", **variables).exit_code == 0
    assert as_json("get", "a", *at)["content"] == "x"
    assert run("get", "a", "-n", "other", **variables).exit_code == 3
    exported = run("export", **variables).stdout.splitlines()
    assert [json.loads(line)["namespace"] for line in exported[1:]] == [at[3]]
    in_a_folder = run("get", "a", "--data-dir", tmp_path / "none", **variables)
    assert (in_a_folder.exit_code, "is not a folder" in in_a_folder.stderr) == (2, True)


def test_a_misspelt_variable_is_named_and_one_of_another_program_is_not(at: list[str]) -> None:
    refused = run("stats", *at[:2], VECTOR_MEMORY_NAMESPCE="team")
    assert refused.exit_code == 1
    assert "did you mean VECTOR_MEMORY_NAMESPACE?" in refused.stderr
    assert run("stats", *at[:2], VECTOR_MEMORY_PORT="tcp://10.0.0.1:80").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["stats", "--namespace", "team"],
        ["--namespace", "team", "stats"],
        ["serve", "--url", "http://127.0.0.1:1"],
        ["--runpod", "endpoint", "doctor"],
        ["mcp", "--api-key", "key"],
        ["stats", "--url"],
    ],
)
def test_an_option_that_means_nothing_to_a_command_is_refused(arguments: list[str]) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert next(each for each in arguments if each.startswith("-"))[:3] in refused.stderr


def test_the_options_that_say_where_are_explained_once() -> None:
    explained = process("--help", COLUMNS="120").stdout.decode()
    assert "Where" in explained
    assert {"VECTOR_MEMORY_URL", "VECTOR_MEMORY_NAMESPACE", "VECTOR_MEMORY_API_KEY"} <= set(
        re.findall(r"\w+", explained)
    )
    shown = process("get", "--help", COLUMNS="120").stdout.decode()
    assert shown.count("--url") == 1
    assert "Also takes --data-dir, --url" in shown


def test_a_folder_is_worked_on_without_a_service(tmp_path: Path) -> None:
    folder = ["--data-dir", str(tmp_path / "memory")]
    assert run("get", "a", *folder).exit_code == 2, "reading makes no folder"
    assert not (tmp_path / "memory").exists()
    assert process("store", "Dana drinks an oat flat white.", "--key", "a", *folder).returncode == 0
    done = process("retrieve", "what does Dana drink?", "--json", *folder)
    assert json.loads(done.stdout)["memories"][0]["key"] == "a"
    assert done.stderr == b""
    assert json.loads(process("stats", "--json", *folder).stdout)["namespaces"] == {"default": 1}
    assert json.loads(process("snapshot", "--json", *folder).stdout)["snapshot"]
    assert json.loads(process("compact", "--json", *folder).stdout)["removed_bytes"] >= 0


def test_an_endpoint_of_runpod_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    assert run("stats", "--runpod", "endpoint").exit_code == 2
    monkeypatch.setenv("RUNPOD_API_KEY", "key")
    with StandInPlatform() as platform, QueueWorker(platform, tmp_path):
        monkeypatch.setattr("vector_memory.client.runpod.RUNPOD_URL", platform.url)
        assert as_json("store", "x", "--key", "a", "--runpod", "endpoint")["status"] == "stored"
        assert as_json("stats", "--runpod", "endpoint")["memories"] == 1
        assert run("get", "b", "--runpod", "endpoint").exit_code == 3
        assert run("get", "b", "--runpod", "endpoint", "--api-key", "wrong").exit_code == 1


def test_export_and_import_go_through_pipes_and_files(at: list[str], tmp_path: Path) -> None:
    for n in range(3):
        as_json("store", f"note {n}", "--key", f"k{n}", *at)
    whole = run("export", *at)
    assert len(whole.stdout.splitlines()) == 4
    folder = ["--data-dir", str(tmp_path / "memory")]
    done = process("import", "-", "--json", *folder, input=whole.stdout.encode())
    assert json.loads(done.stdout) == {"stored": 3, "updated": 0, "unchanged": 0, "expired": 0, "problems": []}
    assert run("export", tmp_path / "out.jsonl", *at).exit_code == 0
    assert [path.name for path in tmp_path.glob("out*")] == ["out.jsonl"]
    again = run("import", tmp_path / "out.jsonl", *folder)
    assert "3 unchanged" in again.stderr
    dry = run("import", tmp_path / "out.jsonl", "--dry-run")
    assert len(dry.stdout.splitlines()) == 3


def test_an_import_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    count = 1_200
    (tmp_path / "notes.jsonl").write_text("".join(f'{{"content": "Note {n}.", "key": "{n}"}}\n' for n in range(count)))
    arguments = ["import", str(tmp_path / "notes.jsonl"), "--json", "--data-dir", str(tmp_path / "memory")]
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as killed:
        deadline = time.monotonic() + ENDS_S_MAX
        while not any(path.stat().st_size > 300_000 for path in (tmp_path / "memory").glob("journal/*.log")):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)  # polling another process
        killed.kill()
    outcome = json.loads(process(*arguments).stdout)
    assert outcome["stored"] + outcome["unchanged"] == count
    assert outcome["unchanged"] > 0
    assert outcome["problems"] == []
    again = json.loads(process(*arguments).stdout)
    assert (again["stored"], again["unchanged"]) == (0, count)


def test_an_import_tells_the_lines_that_it_could_not_read(at: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"content": "good"}\nbad\n')
    done = run("import", tmp_path / "x.jsonl", *at)
    assert done.exit_code == 1
    assert "x.jsonl:2" in done.stderr
    assert "1 stored" in done.stderr
    assert run("import", tmp_path / "nothing.jsonl", *at).exit_code == 1
    assert run("import", tmp_path / "x.jsonl", "--format", "nonsense", *at).exit_code == 2
    assert run("export", tmp_path / "no" / "such" / "folder.jsonl", *at).exit_code == 1
    assert run("export", "--namespace", "none such", "--url", at[1]).exit_code == 3


def test_the_bench_measures_and_leaves_nothing_behind(served: WorkerProcess) -> None:
    url = f"http://127.0.0.1:{served.port}"
    rates = as_json("bench", "--count", "100", "--url", url)
    assert all(rate["per_second"] > 0 for rate in rates.values())
    assert not [name for name in as_json("stats", "--url", url)["namespaces"] if name.startswith("bench-")]
    assert run("bench", "--count", "5", "--url", url).exit_code == 2


# -- how it fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ServiceError, 1),
        (errors.InvalidInput, 1),
        (errors.UnsupportedForm, 1),
        (errors.Conflict, 1),
        (errors.NotFound, 3),
        (errors.RateLimited, 4),
        (errors.Unavailable, 4),
        (errors.StorageUnavailable, 4),
        (type("ErrorOfATool", (errors.NotFound,), {}), 3),
    ],
)
def test_an_error_has_the_exit_code_of_its_class_or_of_the_nearest_base_class(
    error: type[errors.ServiceError], code: int
) -> None:
    assert look_up(EXIT_CODES, error("Something failed.")) == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["get", "x", "--url", f"http://127.0.0.1:{free_port()}"], 4),
        (["get", "x", "--url", "nonsense"], 1),
        (["get", "x", "--url", "http://x", "--data-dir", "y"], 2),
        (["retrieve"], 2),
        (["retrieve", "x", "--filter", "{"], 2),
        (["retrieve", "x", "--filter", "[]"], 2),
        (["retrieve", "x", "--mode", "psychic"], 2),
        (["retrieve", "x", "-k", "0"], 1),
        (["store", "x", "--metadata", "5"], 2),
        (["nonsense"], 2),
        (["list", "--limit", "0"], 2),
    ],
)
def test_a_failure_is_a_sentence_and_a_code(arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_folder_is_a_sentence_too(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{")
    done = process("get", "x", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert b"corrupt" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_interrupted_command_says_so(tmp_path: Path) -> None:
    listening = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "store", "-", "--data-dir", str(tmp_path / "m")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until_reading(listening.pid)
    listening.send_signal(signal.SIGINT)
    _, stderr = listening.communicate(timeout=ENDS_S_MAX)
    assert (listening.returncode, stderr.strip()) == (130, b"vector-memory: interrupted")


def wait_until_reading(pid: int) -> None:
    """Until the process waits for its stdin."""
    deadline = time.monotonic() + ENDS_S_MAX
    while time.monotonic() < deadline:
        is_in_a_pipe = "pipe" in Path(f"/proc/{pid}/wchan").read_text()
        if is_in_a_pipe or Path(f"/proc/{pid}/syscall").read_text().split()[:2] == ["0", "0x0"]:
            return
        time.sleep(0.02)  # polling another process
    raise AssertionError("the command never read its stdin")


@pytest.mark.parametrize("for_whom", [[], ["--json"]], ids=["people", "programs"])
def test_a_reader_that_has_seen_enough_is_no_failure(at: list[str], for_whom: list[str]) -> None:
    for n in range(30):
        as_json("store", f"note {n} " + "x" * 5_000, "--key", f"k{n}", *at)
    command = [sys.executable, "-m", "gateway.cli", "list", *for_whom, *at]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        stderr = listing.stderr.read()
        assert (listing.wait(ENDS_S_MAX), stderr) == (0, b"")


# -- how it looks --------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: object, columns: int, **variables: str) -> str:
    """What a command writes to a terminal of that width."""
    main, other = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS=str(columns), **variables)
    child = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *map(str, arguments)], env=env, stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    written = b""
    while select.select([main], [], [], ENDS_S_MAX)[0]:
        try:
            part = os.read(main, 65_536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(main)
    assert child.wait(ENDS_S_MAX) == 0, written
    return written.decode()


@pytest.mark.parametrize("where", ["service", "folder"])
def test_on_a_terminal_an_answer_streams_and_then_come_the_citations_with_their_verdicts(
    tmp_path: Path, where: str
) -> None:
    pieces = ("Dana drinks an oat flat white [1]", ". Who", " paid? \x1b[2J[7]")
    cut_off = streaming(*stream_of(*pieces)[:3], cut=True)
    place = ["--data-dir", str(tmp_path / "memory")]
    with contextlib.ExitStack() as stack:
        llm = stack.enter_context(StandInLLM(in_turn(streaming(*stream_of(*pieces)), cut_off)))
        if where == "service":
            worker = stack.enter_context(WorkerProcess(tmp_path / "memory", LLM_BASE_URL=llm.base_url))
            place = ["--url", f"http://127.0.0.1:{worker.port}"]
        assert process("store", "Dana drinks an oat flat white.", "--key", "dana", *place).returncode == 0
        asked = ("research", "What does Dana drink?", *place)
        shown = on_a_terminal(*asked, columns=100, NO_COLOR="1", LLM_BASE_URL=llm.base_url).replace("\r", "")
        broken = process(*asked, "--stream", LLM_BASE_URL=llm.base_url)
    assert llm.requests[0].body["stream"] is True
    text, _, rest = re.sub(r"\x1b\[[0-9;]*m", "", shown).partition("\n\n")
    assert text == "Dana drinks an oat flat white [1]. Who paid? \N{REPLACEMENT CHARACTER}[2J[7]"
    assert re.match(r"\[1\]  dana  \d{4}-\d\d-\d\d  supported\n    Dana drinks an oat flat white\.", rest)
    assert "cites 7, which no passage has" in rest
    assert broken.returncode == 1
    assert broken.stdout.decode().startswith("Dana drinks an oat")
    assert broken.stdout.endswith(b"\n\n")
    assert b"Traceback" not in broken.stderr


@pytest.mark.parametrize("where", ["service", "folder"])
def test_interrupting_a_stream_ends_the_models_work(tmp_path: Path, where: str) -> None:
    with contextlib.ExitStack() as stack:
        llm = stack.enter_context(StandInLLM(streaming(*stream_of("Dana drinks")[:2], hang=True)))
        place = ["--data-dir", str(tmp_path / "memory")]
        if where == "service":
            worker = stack.enter_context(WorkerProcess(tmp_path / "memory", LLM_BASE_URL=llm.base_url))
            place = ["--url", f"http://127.0.0.1:{worker.port}"]
        process("store", "Dana drinks an oat flat white.", *place)
        asking = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "research", "What does Dana drink?", "--stream", *place],
                env=environment(LLM_BASE_URL=llm.base_url),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        assert asking.stdout is not None
        assert asking.stdout.read(len("Dana drinks")) == b"Dana drinks"
        asking.send_signal(signal.SIGINT)
        _, stderr = asking.communicate(timeout=ENDS_S_MAX)
        assert (asking.returncode, stderr) == (130, b"vector-memory: interrupted\n")
        assert llm.left.wait(10)


def test_what_is_piped_or_asked_for_as_json_does_not_stream(tmp_path: Path) -> None:
    with StandInLLM(answering("Dana drinks an oat flat white [1].")) as llm:
        place = ["--data-dir", str(tmp_path / "memory")]
        process("store", "Dana drinks an oat flat white.", "--key", "dana", *place)
        asked = ("research", "What does Dana drink?", *place)
        piped = process(*asked, LLM_BASE_URL=llm.base_url)
        whole = process(*asked, "--json", "--stream", LLM_BASE_URL=llm.base_url)
    assert piped.stdout.startswith(b"Dana drinks an oat flat white [1].\n\n[1]  dana")
    assert json.loads(whole.stdout)["citations"][0]["verdict"] == "supported"
    assert not any(request.body.get("stream") for request in llm.requests)


def test_it_fits_a_narrow_terminal_and_respects_no_color(at: list[str]) -> None:
    text = "A long memory that does not fit on one line of a narrow terminal. " * 3
    as_json("store", text, "--key", "long", "--metadata", json.dumps({"where": "a long way from here " * 3}), *at)
    plain = on_a_terminal("get", "long", *at, columns=40, NO_COLOR="1")
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m|\r", "", plain).split("\n")) <= 40
    assert "\x1b[36m" not in plain
    assert "\x1b[1;36m" in on_a_terminal("get", "long", *at, columns=40)


def test_piped_text_is_neither_coloured_nor_wrapped(at: list[str]) -> None:
    text = "word " * 60 + "end"
    as_json("store", text, "--key", "long", *at)
    done = process("get", "long", *at)
    assert b"\x1b" not in done.stdout
    assert text in done.stdout.decode()


def test_a_memory_cannot_steer_the_terminal(at: list[str]) -> None:
    as_json("store", "-", "--key", "evil", *at, input="before \x1b[2J\x1b]0;title\x07 after")
    shown = on_a_terminal("get", "evil", *at, columns=80, NO_COLOR="1")
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert safe("a\x00\x9b\ud800b\n\t") == "a��?b\n\t"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gateway.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = 'fastapi faiss onnxruntime numpy pydantic httpx sqlite3'.split()\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
    assert "retrieve" in done.stdout


@pytest.mark.parametrize("command", ["store", "retrieve", "research", "export", "import", "bench", "serve", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("command", "closed", "code"),
    [
        (["import", "nothing.jsonl"], "<&-", 1),
        (["store", "-"], "<&-", 1),
        (["delete", "a", "b"], "<&-", 2),
        (["list", "--json"], ">&-", 0),
        (["get", "nothing"], "2>&-", 3),
        (["list", "--json"], ">/dev/full", 1),
        (["list"], ">/dev/full", 1),
        (["export"], ">/dev/full", 1),
    ],
)
def test_standard_streams_that_are_closed_or_full_end_no_command_in_a_traceback(
    at: list[str], command: list[str], closed: str, code: int
) -> None:
    as_json("store", "A note.", "--key", "a", *at)
    at = at if command[0] not in ("import", "export") else at[:2]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "gateway.cli", *command, *at]
    done = subprocess.run(shell, env=environment(), capture_output=True, timeout=ENDS_S_MAX, check=False)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_an_export_goes_through_a_named_pipe_and_leaves_it_one(at: list[str], tmp_path: Path) -> None:
    """The finished file once took the place of a pipe or a device, /dev/null among them."""
    as_json("store", "A note.", *at)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "gateway.cli", "export", str(pipe), *at]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as exporting:
        assert len(pipe.read_text().splitlines()) == 2
        assert exporting.wait(ENDS_S_MAX) == 0
    assert pipe.is_fifo()
