"""The services behind every door, and whether they can be used yet.

A door or a tool asks for `memories` or `researcher` and gets it, or `Unavailable` while loading. The worker loads them.
"""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.settings import Settings
from vector_memory.errors import StartupError, Unavailable

if TYPE_CHECKING:  # imported where they are loaded: FAISS and ONNX Runtime would delay the port's opening
    from gateway.observability.metrics import Metrics
    from gateway.observability.traces import Traces
    from gateway.serving.response_cache import ResponseCache
    from gateway.tools.toolbox import Toolbox
    from memory_service.documents.libraries import LibraryService
    from memory_service.documents.service import DocumentService
    from memory_service.service import MemoryService
    from research.chat import Chat
    from research.researcher import Researcher


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedServices:
    """One service for each domain, all over the same memories."""

    memories: "MemoryService"
    documents: "DocumentService"
    libraries: "LibraryService"
    researcher: "Researcher"
    chat: "Chat"


class Services:
    """The services of one process. Each property raises `Unavailable` while they are loading or stopping.

    Attributes:
        metrics: counters of what happens here.
        cache: responses to reads of namespaces that have not changed.
        traces: how answers came about, for an hour.
        failure: why loading ended without services; None unless it did.
    """

    metrics: "Metrics"
    cache: "ResponseCache"
    traces: "Traces"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.failure: StartupError | None = None
        self._loaded: LoadedServices | None = None
        self._loading_ended = threading.Event()

    @property
    def toolbox(self) -> "Toolbox":
        """The tools, ours and those of installed packages."""
        raise NotImplementedError

    @property
    def memories(self) -> "MemoryService":
        """The memories."""
        return self._get().memories

    @property
    def documents(self) -> "DocumentService":
        """The documents."""
        return self._get().documents

    @property
    def libraries(self) -> "LibraryService":
        """The libraries of documents."""
        return self._get().libraries

    @property
    def researcher(self) -> "Researcher":
        """Research over the memories."""
        return self._get().researcher

    @property
    def chat(self) -> "Chat":
        """Chat with memory."""
        return self._get().chat

    @property
    def is_ready(self) -> bool:
        """Whether requests are served."""
        return self._loaded is not None

    def wait(self, timeout_s: float) -> None:
        """Wait until loading has ended, well or not, or the time is over."""
        self._loading_ended.wait(timeout_s)

    def _get(self) -> LoadedServices:
        if self._loaded is None:
            raise Unavailable("The worker is loading its model and memories; try again in a moment.")
        return self._loaded
