"""The worker: builds the services from the settings, in the background, and takes them down again.

The composition root. A door asks for `memories` or `researcher` and gets it, or `Unavailable` while loading.
"""

import json
import logging
import threading
import time
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

from gateway.observability import traces
from gateway.observability.metrics import Metrics
from gateway.observability.traces import Traces
from gateway.serving.response_cache import LocalShelf, RedisShelf, ResponseCache, Shelf
from gateway.settings import GatewaySettings, Settings
from memory_service.embedding.embedder import Embedder
from memory_service.embedding.minilm import FINGERPRINTS, MiniLM
from memory_service.errors import StartupError, Unavailable
from memory_service.journal.data_folder import DataFolder
from memory_service.private_folder import PrivateFolder
from memory_service.settings import MemorySettings

if TYPE_CHECKING:  # imported where they are used: FAISS and ONNX Runtime would delay the port's opening
    from gateway.tools.toolbox import Toolbox
    from memory_service.clock import HybridClock
    from memory_service.documents.libraries import Libraries
    from memory_service.documents.service import DocumentService
    from memory_service.service import MemoryService
    from research.chat import Chat
    from research.researcher import Researcher

log = logging.getLogger(__name__)

_LOADING = "The worker is loading its model and memories; try again in a moment."


class Worker:
    """One process's services, from `check` over `load` to `close`."""

    def __init__(self, settings: Settings, clock: "HybridClock | None" = None) -> None:
        self.settings = settings
        self._clock = clock
        self._memories: MemoryService | None = None
        self._documents: DocumentService | None = None
        self._libraries: Libraries | None = None
        self._researcher: Researcher | None = None
        self._chat: Chat | None = None
        self._temporary: PrivateFolder | None = None
        self._folder: DataFolder | None = None
        self._failure: StartupError | None = None
        self._loaded = threading.Event()
        self.metrics = Metrics()
        self.cache = ResponseCache(None, "")
        self.traces = Traces(LocalShelf(traces.TTL_S))

    @property
    def memories(self) -> "MemoryService":
        """The memories.

        Raises:
            Unavailable: the worker is loading or stopping.
        """
        if self._memories is None:
            raise Unavailable(_LOADING)
        return self._memories

    @property
    def documents(self) -> "DocumentService":
        """Documents.

        Raises:
            Unavailable: the worker is loading or stopping.
        """
        if self._documents is None:
            raise Unavailable(_LOADING)
        return self._documents

    @property
    def libraries(self) -> "Libraries":
        """Libraries of documents.

        Raises:
            Unavailable: the worker is loading or stopping.
        """
        if self._libraries is None:
            raise Unavailable(_LOADING)
        return self._libraries

    @property
    def researcher(self) -> "Researcher":
        """Research.

        Raises:
            Unavailable: the worker is loading or stopping.
        """
        if self._researcher is None:
            raise Unavailable(_LOADING)
        return self._researcher

    @cached_property
    def toolbox(self) -> "Toolbox":
        """The tools: ours, and those that installed packages bring.

        Raises:
            StartupError: one cannot be loaded, or two have one name.
        """
        from gateway.tools.ours import LIBRARIES, SEARCH_FETCH, TOOLS
        from gateway.tools.toolbox import Toolbox, installed

        wanted = self.settings.mcp
        more = (*(LIBRARIES if wanted.libraries else ()), *(SEARCH_FETCH if wanted.search_fetch else ()))
        return Toolbox(self, [*TOOLS, *more, *installed()])

    @property
    def chat(self) -> "Chat":
        """Chat with memory.

        Raises:
            Unavailable: the worker is loading or stopping.
        """
        if self._chat is None:
            raise Unavailable(_LOADING)
        return self._chat

    @property
    def is_ready(self) -> bool:
        """Whether requests are served."""
        return self._researcher is not None

    @property
    def failure(self) -> StartupError | None:
        """Why loading ended without services."""
        return self._failure

    def wait(self, timeout_s: float) -> None:
        """Wait until loading has ended, well or not, or the time is over."""
        self._loaded.wait(timeout_s)

    def check(self) -> None:
        """Find out in milliseconds whether the data folder and the tools can be used.

        Raises:
            StartupError: it cannot.
        """
        settings = self.settings.memory
        if settings.ephemeral:
            self._temporary = PrivateFolder(settings.cache_dir)
        self._folder = DataFolder(self._temporary.path / "memory" if self._temporary else settings.data_dir)
        if settings.embedder == "minilm":
            self._folder.require(FINGERPRINTS[settings.embedding_precision])
        else:
            self._folder.embedder()  # whether it is of this model is known when the model is loaded
        _ = self.toolbox

    def load(self) -> None:
        """Load model and memories; returns when they are served or when `failure` says why not."""
        started = time.perf_counter()
        try:
            self._load()
        except StartupError as error:
            self._failure = error
        except Exception as error:
            log.exception("worker.failed")
            self._failure = StartupError(f"The worker could not load: {error}")
        else:
            log.info("worker.ready", extra={"load_ms": round((time.perf_counter() - started) * 1000)})
        self._loaded.set()

    def _load(self) -> None:
        if self._folder is None:
            self.check()
        assert self._folder is not None, "check leaves a folder"
        from memory_service.documents.libraries import Libraries
        from memory_service.documents.service import DocumentService
        from memory_service.service import MemoryService
        from research.chat import Chat
        from research.llm.endpoints import connect
        from research.researcher import Researcher

        embedder = _embedder(self.settings.memory)
        memories = MemoryService(self._folder, embedder, self.settings.memory, self._clock)
        self.cache = _cache(self.settings)
        self.traces = Traces(_shelf(self.settings.gateway, traces.TTL_S))
        self._memories = memories
        self._documents = DocumentService(memories, embedder)
        self._libraries = Libraries(memories)
        llm = connect(self.settings.llm)
        self._chat = Chat(memories, self.settings.llm, llm)
        self._researcher = Researcher(
            memories,
            self.settings.llm,
            llm,
            keep_trace=self.traces.keep,
            count=self.metrics.count_answer,
        )

    async def close(self) -> None:
        """Finish what was accepted and release everything."""
        memories, researcher = self._memories, self._researcher
        self._memories = self._researcher = self._chat = None
        self._documents = self._libraries = None
        if researcher is not None:
            await researcher.close()
        if memories is not None:
            memories.close()
        if self._temporary is not None:
            self._temporary.close()


def _cache(settings: Settings) -> ResponseCache:
    """The response cache that the settings ask for.

    Raises:
        StartupError: REDIS_URL cannot be used.
    """
    llm = settings.llm
    endpoints = [(one.base_url, one.model) for one in llm.endpoints]
    answers = [llm.fallback, llm.min_relevance, llm.context_tokens, llm.timeout_s, endpoints]
    salt = json.dumps([version("vector-memory"), settings.memory.embedder, answers])
    ttl_s = settings.gateway.cache_ttl_s
    return ResponseCache(None if ttl_s == 0 else _shelf(settings.gateway, ttl_s), salt)


def _shelf(gateway: GatewaySettings, ttl_s: float) -> Shelf:
    """Where what is kept for a while is kept: in Redis if there is one, else in this process.

    Raises:
        StartupError: REDIS_URL cannot be used.
    """
    if gateway.redis_url is None:
        return LocalShelf(ttl_s)
    try:
        return RedisShelf(gateway.redis_url.get_secret_value(), ttl_s)
    except ImportError as error:
        raise StartupError("REDIS_URL needs the extra redis: pip install 'vector-memory[redis]'.") from error
    except ValueError as error:
        raise StartupError("REDIS_URL must be such as redis://host:6379/0.") from error


def _embedder(settings: MemorySettings) -> Embedder:
    kind, _, name = settings.embedder.partition(":")
    if kind == "minilm":
        return MiniLM.load(threads=settings.embedding_threads, precision=settings.embedding_precision)
    from memory_service.embedding.sentence_transformer import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder.load(name)
