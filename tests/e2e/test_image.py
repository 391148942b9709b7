"""The container image: built, started without a network, stopped and started again on the same volume.

Needs docker or podman; what those need here (storage, runtime) comes from their own variables and files.
"""

import json
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

pytestmark = pytest.mark.image

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "scripts" / "image.sh"
BASE = "python:3.11-slim"

BUILD_S_MAX = 1_800.0
COMMAND_S_MAX = 120.0

# Runs in the container, where there is no network but its own loopback: one call, or looks at /ping until it is 200.
CALL = """
import json, sys, time, urllib.error, urllib.request
method, path, body = json.loads(sys.argv[1])
data = None if body is None else json.dumps(body).encode()
headers = {"content-type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:80" + path, data, headers, method=method)
deadline = time.monotonic() + 60
while True:
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.status == 200:
                print(json.dumps({"at": time.time(), "body": json.load(response)}))
                break
    except (urllib.error.URLError, ConnectionError) as error:
        if path != "/ping":
            raise
    if time.monotonic() > deadline:
        sys.exit("not ready within 60 s")
    time.sleep(0.01)
"""


@dataclass(frozen=True, slots=True)
class Image:
    engine: str
    tag: str

    def run(self, *arguments: str, timeout_s: float = COMMAND_S_MAX) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.engine, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)

    def output(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


class Container:
    """The image as an HTTP server on a volume, without a network. A context manager that always removes it."""

    def __init__(self, image: Image, volume: Path) -> None:
        self.name = f"vector-memory-test-{uuid.uuid4().hex[:8]}"
        self._image = image
        self.began = time.time()
        mount = ["--volume", f"{volume}:/runpod-volume"]
        mode = ["--env", "MEMORY_SERVICE_MODE=load_balancing"]
        image.output("run", "--detach", "--name", self.name, "--network", "none", *mount, *mode, image.tag)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.run("rm", "--force", self.name)

    def until_ready(self) -> float:
        """Seconds from the order to run it until /ping was 200."""
        at: float = self._call("GET", "/ping", None)["at"]
        return at - self.began

    def call(self, method: str, path: str, body: object = None) -> Any:
        return self._call(method, path, body)["body"]

    def user_id(self) -> int:
        """Of the process that serves."""
        status = self._image.output("exec", self.name, "cat", "/proc/1/status")
        return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])

    def stop(self) -> int:
        self._image.output("stop", self.name)
        return int(self._image.output("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        call = json.dumps([method, path, body])
        answer: dict[str, Any] = json.loads(self._image.output("exec", self.name, "python", "-c", CALL, call))
        return answer


@pytest.fixture(scope="module")
def image() -> Image:
    engine = subprocess.run([SCRIPT, "engine"], capture_output=True, text=True, check=False)
    if engine.stdout.strip() not in ("docker", "podman"):
        pytest.skip("no docker and no podman works here")
    tag = subprocess.run([SCRIPT, "tag"], capture_output=True, text=True, check=True).stdout.strip()
    image = Image(engine.stdout.strip(), tag)
    if image.run("image", "inspect", BASE).returncode and image.run("pull", BASE).returncode:
        pytest.skip(f"{BASE} is not here and cannot be pulled")
    built = subprocess.run([SCRIPT, "build"], capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
    assert built.returncode == 0, built.stdout[-5_000:] + built.stderr[-5_000:]
    return image


def test_memories_outlive_the_container_on_a_volume_that_belongs_to_root(
    image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)

    with Container(image, tmp_path) as first:
        first_s = first.until_ready()
        first.call("POST", "/v1/memories", {"content": "Dana drinks oat flat white.", "key": "dana"})
        user_id, code = first.user_id(), first.stop()
    with Container(image, tmp_path) as second:
        second_s = second.until_ready()
        found = second.call("POST", "/v1/memories/retrieve", {"query": "what does Dana drink?"})

    size = int(image.output("image", "inspect", "--format", "{{.Size}}", image.tag))
    with capsys.disabled():
        print(f"\nimage {size / 1e6:.0f} MB; from `run` to 200 on /ping {first_s:.2f} s, then {second_s:.2f} s")
    assert (user_id, code) == (10_001, 0)
    assert [memory["key"] for memory in found["memories"]] == ["dana"]


def test_on_a_volume_that_only_root_may_enter_it_stays_root_and_says_so(image: Image, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with Container(image, tmp_path) as container:
        container.until_ready()
        stored = container.call("POST", "/v1/memories", {"content": "Dana drinks oat flat white."})
        user_id, logs = container.user_id(), image.run("logs", container.name)

    assert stored["status"] == "stored"
    assert user_id == 0
    assert "root.kept" in logs.stdout + logs.stderr


def test_without_a_volume_it_ends_with_one_plain_line(image: Image) -> None:
    done = image.run("run", "--rm", "--network", "none", image.tag)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("vector-memory: /runpod-volume does not exist")


def test_it_runs_a_job_without_a_network(image: Image) -> None:
    job = json.dumps({"input": {"action": "store", "content": "Dana drinks oat flat white."}})
    command = ["python", "/app/handler.py", "--test_input", job]

    done = image.run("run", "--rm", "--network", "none", "--env", "MEMORY_EPHEMERAL=true", image.tag, *command)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "completed successfully" in done.stdout


def test_nothing_of_the_building_machine_is_left_in_it(image: Image) -> None:
    look = ["find", "/etc/pip.conf", "/src", "/root/.cache", "/runpod-volume"]

    done = image.run("run", "--rm", "--network", "none", image.tag, *look)

    assert done.stdout == ""
