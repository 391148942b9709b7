"""The worker as an operator meets it: starting, failing to start, stopping, and a disk that fills."""

import contextlib
import subprocess
import sys
import threading

import pytest

from tests.worker_process import WorkerProcess, environment

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."


def failed_start(*flags, cwd=None, **variables):
    """What a start that must fail prints; it ends with exit code 1 and one plain line after the announcement."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "serve", *flags],
        env=environment(**{"MEMORY_PORT": "0", **variables}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if not line.startswith("{")][-1]


def test_a_folder_on_a_missing_volume_is_refused(tmp_path):
    line = failed_start(MEMORY_DATA_DIR=str(tmp_path / "volume" / "memory"))
    assert "is the volume mounted?" in line


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "memory").write_text("not a folder")
    assert "cannot be used" in failed_start(MEMORY_DATA_DIR=str(tmp_path / "memory"))


def test_a_folder_that_takes_no_writes_is_refused():
    assert "cannot be used" in failed_start(MEMORY_DATA_DIR="/proc/memory")


def test_a_corrupt_store_file_is_refused(tmp_path):
    (tmp_path / "store.json").write_text("{broken")
    assert "store.json is corrupt" in failed_start(MEMORY_DATA_DIR=str(tmp_path))


def test_over_a_damaged_journal_a_worker_starts_read_only_and_names_file_and_offset(tmp_path):
    with WorkerProcess(tmp_path / "memory") as worker:
        for at in range(3):
            worker.post("/v1/memories", {"content": f"{COFFEE} {at}"})
    [path] = (tmp_path / "memory" / "journal").iterdir()
    path.write_bytes(path.read_bytes().replace(b"oat flat white", b"oat flat wHite", 1))
    with WorkerProcess(tmp_path / "memory") as worker:
        refused = worker.http.post("/v1/memories", json={"content": COFFEE})
        assert refused.status_code == 503
        assert f"{path} is damaged at byte" in refused.json()["error"]["message"]
        assert "MEMORY_SKIP_DAMAGED" in refused.json()["error"]["message"]
        assert worker.http.get("/health").json()["status"] == "degraded"
    with WorkerProcess(tmp_path / "memory", MEMORY_SKIP_DAMAGED="true") as worker:
        worker.post("/v1/memories", {"content": COFFEE})
        health = worker.http.get("/health").json()
        assert (health["memories"], health["problems"][0].startswith("passed over")) == (3, True)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MEMORY_DATADIR": "x"}, "did you mean MEMORY_DATA_DIR?"),
        ({"LLM_BASEURL": "http://x"}, "did you mean LLM_BASE_URL?"),
        ({"MEMORY_PORT": "http"}, "MEMORY_PORT"),
        ({"MEMORY_PORT": "70000"}, "MEMORY_PORT"),
        ({"LLM_BASE_URL": "ftp://x"}, "LLM_BASE_URL"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, variables, expected):
    assert expected in failed_start(cwd=tmp_path, **variables)


def test_a_port_in_use_is_named(tmp_path):
    with WorkerProcess(tmp_path / "memory") as worker:
        line = failed_start(MEMORY_DATA_DIR=str(tmp_path / "other"), MEMORY_PORT=str(worker.port))
    assert f":{worker.port}" in line


def test_flags_go_before_variables_and_variables_before_the_env_file(tmp_path):
    (tmp_path / ".env").write_text("MEMORY_DATA_DIR=/proc/from-env-file\nMEMORY_HOST=127.0.0.1\n")
    assert "/proc/from-env-file" in failed_start(cwd=tmp_path)
    assert "/proc/from-variable" in failed_start(cwd=tmp_path, MEMORY_DATA_DIR="/proc/from-variable")
    flags = ("--data-dir", "/proc/from-flag")
    assert "/proc/from-flag" in failed_start(*flags, cwd=tmp_path, MEMORY_DATA_DIR="/proc/from-variable")


def test_sigterm_ends_the_worker_cleanly_and_everything_is_kept(tmp_path):
    with WorkerProcess(tmp_path / "memory") as worker:
        answers = []
        threads = [
            threading.Thread(
                target=lambda at=at: answers.append(worker.post("/v1/memories", {"content": f"{COFFEE} {at}"}))
            )
            for at in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert worker.terminate() == 0
    assert len(answers) == 8
    with WorkerProcess(tmp_path / "memory") as worker:
        assert worker.http.get("/health").json()["memories"] == 8


def test_a_worker_reports_to_nobody(tmp_path):
    """ONNX Runtime's telemetry leaves a session file in the temporary folder as soon as it begins."""
    with WorkerProcess(tmp_path / "memory", TMPDIR=str(tmp_path)) as worker:
        worker.post("/v1/memories", {"content": COFFEE})
        assert not (tmp_path / ".ses").exists()


def test_ephemeral_memories_leave_nothing_behind(tmp_path):
    with WorkerProcess(tmp_path / "unused", MEMORY_EPHEMERAL="true", TMPDIR=str(tmp_path)) as worker:
        worker.post("/v1/memories", {"content": COFFEE})
        assert worker.terminate() == 0
    assert [path for path in tmp_path.iterdir() if path.suffix != ".log"] == []


def test_what_a_killed_ephemeral_worker_kept_is_removed_by_the_next(tmp_path):
    with WorkerProcess(tmp_path / "unused", MEMORY_EPHEMERAL="true", TMPDIR=str(tmp_path)) as killed:
        killed.post("/v1/memories", {"content": COFFEE})
        killed.kill()
    assert list(tmp_path.glob("vector-memory-*/memory/journal/*.log"))
    with WorkerProcess(tmp_path / "unused", MEMORY_EPHEMERAL="true", TMPDIR=str(tmp_path)) as worker:
        assert worker.http.get("/health").json()["memories"] == 0
        assert worker.terminate() == 0
    assert [path for path in tmp_path.iterdir() if path.suffix != ".log"] == []


def test_a_killed_workers_local_files_are_removed_by_the_next_and_a_living_ones_are_not(tmp_path):
    with WorkerProcess(tmp_path / "a", MEMORY_CACHE_DIR=str(tmp_path)) as living:
        living.post("/v1/memories", {"content": COFFEE, "key": "k"})
        with WorkerProcess(tmp_path / "b", MEMORY_CACHE_DIR=str(tmp_path)) as killed:
            assert len(list(tmp_path.glob("vector-memory-*"))) == 2
            killed.kill()
        with WorkerProcess(tmp_path / "c", MEMORY_CACHE_DIR=str(tmp_path)):
            assert len(list(tmp_path.glob("vector-memory-*"))) == 2
            assert living.http.get("/v1/memories/k").status_code == 200


def test_the_log_is_json_with_request_ids_and_without_memory_texts(tmp_path):
    with WorkerProcess(tmp_path / "memory", LLM_FALLBACK="extractive") as worker:
        worker.post("/v1/memories", {"content": COFFEE, "key": "secret-key"}, **{"X-Request-ID": "req-17"})
        worker.post("/v1/memories/retrieve", {"query": "what does Dana drink?"})
        worker.post("/v1/research", {"query": "what does Dana drink?"})
        worker.http.post("/v1/memories", json={"content": COFFEE * 5_000})
        worker.terminate()
        text = worker.log.read_text()
        events = worker.events()
    assert any(event.get("request_id") == "req-17" and event["event"] == "request.served" for event in events)
    for private in ("Dana", "oat flat white", "secret-key"):
        assert private not in text


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 3 MB."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


LARGE = {"metadata": {"note": "x" * 12_000}}
"""More than what is left in the last page of a file when the disk is full."""


def fill(path):
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_on_a_full_disk_writes_fail_reads_go_on_and_writes_come_back(small_disk, tmp_path):
    filler = small_disk / "filler"
    with WorkerProcess(small_disk / "memory", logs=tmp_path) as worker:
        worker.post("/v1/memories", {"content": COFFEE, "key": "before"})
        fill(filler)
        refused = worker.http.post("/v1/memories", json={"content": "A second fact.", "key": "during", **LARGE})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "unavailable")
        assert "No space left" in refused.json()["error"]["message"]
        batch = worker.http.post("/v1/memories/batch", json={"memories": [{"content": "x", **LARGE}] * 2})
        assert batch.status_code == 507
        assert worker.http.get("/v1/memories/before").json()["content"] == COFFEE
        assert worker.post("/v1/memories/retrieve", {"query": "drink"})["memories"][0]["key"] == "before"
        assert worker.http.get("/v1/memories/during").status_code == 404

        filler.unlink()
        worker.post("/v1/memories", {"content": "A third fact.", "key": "after"})
        worker.kill()
    with WorkerProcess(small_disk / "memory", logs=tmp_path) as worker:
        held = {memory["key"] for memory in worker.http.get("/v1/memories").json()["memories"]}
        assert held == {"before", "after"}


def test_a_worker_starts_on_a_full_disk_and_serves_reads(small_disk, tmp_path):
    with WorkerProcess(small_disk / "memory", logs=tmp_path) as worker:
        worker.post("/v1/memories", {"content": COFFEE, "key": "before"})
    fill(small_disk / "filler")
    with WorkerProcess(small_disk / "memory", logs=tmp_path) as worker:
        assert worker.http.get("/v1/memories/before").status_code == 200
