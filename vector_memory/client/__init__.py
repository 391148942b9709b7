"""The Python client: one interface over HTTP, over a RunPod endpoint, and in this process.

    from vector_memory.client import Client

    with Client("http://127.0.0.1:8000") as memories:
        memories.store("Dana drinks an oat flat white.", key="dana/coffee")
        print(memories.retrieve("what does Dana drink?").hits[0].memory.content)

`Client.runpod(endpoint_id, api_key=...)` and `Client.local(folder)` have the same methods, and so has `AsyncClient`.
Importing this loads neither the service nor its model.
"""

from memory_service.documents.model import Document, Library, Uploaded
from memory_service.model import Embedding, Memory, NewMemory
from memory_service.retrieval.request import Retrieval
from research.events import Cited, Context, Token
from research.model import Answer
from vector_memory.client.asynchronous import AsyncClient
from vector_memory.client.retries import Retries
from vector_memory.client.synchronous import Client
from vector_memory.client.values import (
    Deletion,
    Docs,
    DocsChunk,
    Health,
    Part,
    PlacedDocument,
    ResearchEvent,
    Stats,
    ToolDescription,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Cited",
    "Client",
    "Context",
    "Deletion",
    "Docs",
    "DocsChunk",
    "Document",
    "Embedding",
    "Health",
    "Library",
    "Memory",
    "NewMemory",
    "Part",
    "PlacedDocument",
    "ResearchEvent",
    "Retries",
    "Retrieval",
    "Stats",
    "Token",
    "ToolDescription",
    "Uploaded",
]
