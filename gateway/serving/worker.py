"""The worker: loads the services that the settings ask for, in the background, and closes them again."""

import json
import logging
import time
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

from gateway.observability import traces
from gateway.observability.metrics import Metrics
from gateway.observability.traces import Traces
from gateway.serving.response_cache import ResponseCache
from gateway.serving.services import LoadedServices, Services
from gateway.serving.shelves import LocalShelf, open_shelf
from gateway.settings import Settings
from memory_service.embedding.embedder import Embedder
from memory_service.embedding.minilm import FINGERPRINTS, MiniLM
from memory_service.journal.data_folder import DataFolder
from memory_service.private_folder import PrivateFolder
from memory_service.settings import MemorySettings
from vector_memory.errors import StartupError

if TYPE_CHECKING:  # the tools take a while to import
    from gateway.tools.toolbox import Toolbox
    from memory_service.clock import HybridClock

log = logging.getLogger(__name__)


class Worker(Services):
    """One process's services, from `check` over `load` to `close`."""

    def __init__(self, settings: Settings, clock: "HybridClock | None" = None) -> None:
        super().__init__(settings)
        self._clock = clock
        self._temporary: PrivateFolder | None = None
        self._folder: DataFolder | None = None
        self.metrics = Metrics()
        self.cache = ResponseCache(None, "")
        self.traces = Traces(LocalShelf(traces.TTL_S))

    @cached_property
    def toolbox(self) -> "Toolbox":
        """All tools: ours, and those of installed packages.

        Raises:
            StartupError: one cannot be loaded, or two have one name.
        """
        from gateway.tools.ours import LIBRARIES, SEARCH_FETCH, TOOLS
        from gateway.tools.toolbox import Toolbox, installed

        wanted = self.settings.mcp
        more = (*(LIBRARIES if wanted.libraries else ()), *(SEARCH_FETCH if wanted.search_fetch else ()))
        return Toolbox(self, [*TOOLS, *more, *installed()])

    def check(self) -> None:
        """Find out in milliseconds whether the data folder and the tools can be used.

        Raises:
            StartupError: they cannot.
        """
        settings = self.settings.memory
        if settings.ephemeral:
            self._temporary = PrivateFolder(settings.cache_dir)
        self._folder = DataFolder(self._temporary.path / "memory" if self._temporary else settings.data_dir)
        if settings.embedder == "minilm":
            self._folder.require(FINGERPRINTS[settings.embedding_precision])
        else:
            self._folder.embedder()  # only the loaded model tells whether the folder is its own
        _ = self.toolbox

    def load(self) -> None:
        """Load the model and the memories. Afterwards they are served, or `failure` says why not."""
        started = time.perf_counter()
        try:
            self._loaded = self._load()
        except StartupError as error:
            self.failure = error
        except Exception as error:
            log.exception("worker.failed")
            self.failure = StartupError(f"The worker could not load: {error}")
        else:
            log.info("worker.ready", extra={"load_ms": round((time.perf_counter() - started) * 1000)})
        self._loading_ended.set()

    def _load(self) -> LoadedServices:
        if self._folder is None:
            self.check()
        assert self._folder is not None, "check leaves a folder"
        from memory_service.documents.libraries import LibraryService
        from memory_service.documents.service import DocumentService
        from memory_service.service import MemoryService
        from research.chat import Chat
        from research.llm.endpoints import connect
        from research.researcher import Researcher

        settings = self.settings
        self.cache = _cache(settings)
        self.traces = Traces(open_shelf(settings.gateway, traces.TTL_S))
        embedder = _embedder(settings.memory)
        llm = connect(settings.llm)
        memories = MemoryService(self._folder, embedder, settings.memory, self._clock)
        return LoadedServices(
            memories=memories,
            documents=DocumentService(memories, embedder),
            libraries=LibraryService(memories),
            researcher=Researcher(
                memories, settings.llm, llm, keep_trace=self.traces.keep, count=self.metrics.count_answer
            ),
            chat=Chat(memories, settings.llm, llm),
        )

    async def close(self) -> None:
        """Finish the accepted requests and release everything."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await loaded.researcher.close()
            loaded.memories.close()
        if self._temporary is not None:
            self._temporary.close()


def _cache(settings: Settings) -> ResponseCache:
    """Return the response cache that the settings ask for.

    Raises:
        StartupError: REDIS_URL cannot be used.
    """
    llm = settings.llm
    endpoints = [(one.base_url, one.model) for one in llm.endpoints]
    options = [llm.fallback, llm.min_relevance, llm.context_tokens, llm.timeout_s, endpoints]
    salt = json.dumps([version("vector-memory"), settings.memory.embedder, options])
    ttl_s = settings.gateway.cache_ttl_s
    return ResponseCache(None if ttl_s == 0 else open_shelf(settings.gateway, ttl_s), salt)


def _embedder(settings: MemorySettings) -> Embedder:
    kind, _, name = settings.embedder.partition(":")
    if kind == "minilm":
        return MiniLM.load(threads=settings.embedding_threads, precision=settings.embedding_precision)
    from memory_service.embedding.sentence_transformer import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder.load(name)
