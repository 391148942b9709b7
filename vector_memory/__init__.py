"""Long-term memory for AI agents: the Python client, its request and answer types, and its errors.

    from vector_memory import Client

    with Client("http://127.0.0.1:8000") as memories:
        memories.store("Dana drinks an oat flat white.", key="dana/coffee")
        print(memories.retrieve("what does Dana drink?").hits[0].content)

`Client.runpod(endpoint_id, api_key=...)` and `Client.local(folder)` have the same methods, and so has `AsyncClient`.
This package imports nothing of the service. Each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vector_memory.administration import Compacted as Compacted
    from vector_memory.administration import Health as Health
    from vector_memory.administration import Stats as Stats
    from vector_memory.administration import ToolDescription as ToolDescription
    from vector_memory.client.asynchronous import AsyncClient as AsyncClient
    from vector_memory.client.asynchronous import ResearchEvent as ResearchEvent
    from vector_memory.client.retries import Retries as Retries
    from vector_memory.client.synchronous import Client as Client
    from vector_memory.documents import DeletedDocument as DeletedDocument
    from vector_memory.documents import Docs as Docs
    from vector_memory.documents import DocsChunk as DocsChunk
    from vector_memory.documents import Document as Document
    from vector_memory.documents import Library as Library
    from vector_memory.documents import Part as Part
    from vector_memory.documents import PlacedDocument as PlacedDocument
    from vector_memory.documents import Uploaded as Uploaded
    from vector_memory.errors import Conflict as Conflict
    from vector_memory.errors import InvalidInput as InvalidInput
    from vector_memory.errors import LimitExceeded as LimitExceeded
    from vector_memory.errors import LLMNotConfigured as LLMNotConfigured
    from vector_memory.errors import LLMTimeout as LLMTimeout
    from vector_memory.errors import LLMUnreachable as LLMUnreachable
    from vector_memory.errors import NotFound as NotFound
    from vector_memory.errors import RateLimited as RateLimited
    from vector_memory.errors import ServiceError as ServiceError
    from vector_memory.errors import StartupError as StartupError
    from vector_memory.errors import StorageUnavailable as StorageUnavailable
    from vector_memory.errors import Unauthorized as Unauthorized
    from vector_memory.errors import Unavailable as Unavailable
    from vector_memory.memories import Consistency as Consistency
    from vector_memory.memories import Deleted as Deleted
    from vector_memory.memories import Deletion as Deletion
    from vector_memory.memories import DuplicatesPage as DuplicatesPage
    from vector_memory.memories import Embedding as Embedding
    from vector_memory.memories import Event as Event
    from vector_memory.memories import Memory as Memory
    from vector_memory.memories import NewMemory as NewMemory
    from vector_memory.memories import Page as Page
    from vector_memory.memories import Receipt as Receipt
    from vector_memory.memories import Refused as Refused
    from vector_memory.memories import Stored as Stored
    from vector_memory.memories import StoreStatus as StoreStatus
    from vector_memory.research import Answer as Answer
    from vector_memory.research import Citation as Citation
    from vector_memory.research import Cited as Cited
    from vector_memory.research import Context as Context
    from vector_memory.research import Passage as Passage
    from vector_memory.research import ResearchRequest as ResearchRequest
    from vector_memory.research import Token as Token
    from vector_memory.retrieval import Explanation as Explanation
    from vector_memory.retrieval import Hit as Hit
    from vector_memory.retrieval import Mode as Mode
    from vector_memory.retrieval import Retrieval as Retrieval
    from vector_memory.retrieval import Retrieved as Retrieved

_HOMES = {
    "vector_memory.client.asynchronous": "AsyncClient ResearchEvent",
    "vector_memory.client.retries": "Retries",
    "vector_memory.client.synchronous": "Client",
    "vector_memory.memories": "Consistency Deleted Deletion DuplicatesPage Embedding Event "
    "Memory NewMemory Page Receipt Refused Stored StoreStatus",
    "vector_memory.retrieval": "Explanation Hit Mode Retrieval Retrieved",
    "vector_memory.research": "Answer Citation Cited Context Passage ResearchRequest Token",
    "vector_memory.documents": "DeletedDocument Docs DocsChunk Document Library Part PlacedDocument Uploaded",
    "vector_memory.administration": "Compacted Health Stats ToolDescription",
    "vector_memory.errors": "Conflict InvalidInput LimitExceeded LLMNotConfigured LLMTimeout LLMUnreachable "
    "NotFound RateLimited ServiceError StartupError StorageUnavailable Unauthorized Unavailable",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a list of names


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
