"""The examples of the client's and the command line's pages run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker_process import environment

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def run(command, folder):
    (folder / "vector-memory").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli "$@"\n')
    (folder / "vector-memory").chmod(0o755)
    env = environment()
    env["PATH"] = f"{folder}:{env['PATH']}"
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", blocks("client.md", "python"), ids=lambda code: code.split("\n")[0])
def test_the_examples_of_the_client_run(code, tmp_path):
    done = run([sys.executable, "-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("code", blocks("cli.md", "sh"), ids=lambda code: code.split("\n")[0])
def test_the_examples_of_the_command_line_run(code, tmp_path):
    done = run(["bash", "-euo", "pipefail", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "oat flat white" in done.stdout
