"""The two distributions agree with each other and with the folders that they are built from."""

import sys
import tomllib
from pathlib import Path

import pytest

import handler
from gateway.serving.worker import Worker
from gateway.settings import load
from vector_memory.errors import StartupError

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "vector_memory"


@pytest.fixture
def service():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def client():
    return tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_service_needs_the_client_of_its_own_version(service, client):
    assert client["project"]["version"] == service["project"]["version"]
    assert f"vector-memory-client=={client['project']['version']}" in service["project"]["dependencies"]


def test_the_client_needs_httpx_and_pydantic_alone_in_the_versions_of_the_service(service, client):
    needed = client["project"]["dependencies"]
    assert sorted(one.split(">=")[0] for one in needed) == ["httpx", "pydantic"]
    assert set(needed) <= set(service["project"]["dependencies"])


def test_the_client_lists_every_one_of_its_packages(client):
    folders = sorted(path.parent.relative_to(ROOT) for path in CLIENT.rglob("__init__.py") if "build" not in path.parts)
    assert sorted(client["tool"]["setuptools"]["packages"]) == [".".join(folder.parts) for folder in folders]


def test_both_carry_the_same_license_and_run_on_the_same_versions_of_python(service, client):
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert client["project"]["requires-python"] == service["project"]["requires-python"]


def test_the_sdk_of_runpod_and_the_parsers_of_documents_come_with_extras_alone(service):
    needed = " ".join(service["project"]["dependencies"])
    extras = service["project"]["optional-dependencies"]
    for name, extra in [("runpod", "runpod"), ("pypdf", "documents"), ("selectolax", "documents")]:
        assert name not in needed
        assert name in " ".join(extras[extra])


def test_a_worker_for_jobs_without_the_sdk_names_the_extra_before_it_loads(monkeypatch):
    monkeypatch.setitem(sys.modules, "runpod", None)
    worker = Worker(load({"MEMORY_EPHEMERAL": "true"}))
    with pytest.raises(StartupError, match=r"pip install \"vector-memory\[runpod\]\""):
        handler.run_jobs(worker)
