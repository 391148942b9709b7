"""What the tests share: one loaded model, services over fresh folders, and the number of examples of a property."""

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from memory_service.embedding.minilm import MiniLM
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings

# `make test` tries each property on a hundred examples, `make test-thorough` on thousands. A property whose examples
# are costly takes a share of them. How long one example takes says nothing on a busy machine.
settings.register_profile("ci", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=3_000)
settings.load_profile("ci")

# A model never changes once it is loaded, so every worker that a test starts in this process can share one.
MiniLM.load = cache(MiniLM.load)  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What a command configures in this process is not for the tests after it."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The real model, loaded once."""
    return MiniLM.load()


@pytest.fixture
def open_service(minilm: MiniLM) -> Iterator[Callable[..., MemoryService]]:
    """Opens services over folders, and closes those that a test leaves open."""
    opened: list[MemoryService] = []

    def open_(folder: Path, settings: MemorySettings | None = None) -> MemoryService:
        service = MemoryService(DataFolder(folder), minilm, settings)
        opened.append(service)
        return service

    yield open_
    for service in opened:
        if not service.is_closed:
            service.close()


@pytest.fixture
def service(open_service: Callable[..., MemoryService], tmp_path: Path) -> MemoryService:
    """A service over an empty folder."""
    return open_service(tmp_path / "memory")
