"""What the tests share: one loaded model, and services over fresh folders."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_service.embedding.minilm import MiniLM
from memory_service.journal.data_folder import DataFolder
from memory_service.service import MemoryService
from memory_service.settings import MemorySettings


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
