"""The Python client: one interface over HTTP, over a RunPod endpoint, and in this process.

    from gateway.client import Client

    with Client("http://127.0.0.1:8000") as memories:
        memories.store("Dana drinks an oat flat white.", key="dana/coffee")
        print(memories.retrieve("what does Dana drink?").hits[0].memory.content)

`Client.runpod(endpoint_id, api_key=...)` and `Client.local(folder)` have the same methods, and so has `AsyncClient`.
Importing this loads neither the service nor its model.
"""

from gateway.client.asynchronous import AsyncClient
from gateway.client.retries import Retries
from gateway.client.synchronous import Client
from gateway.client.values import (
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
from memory_service.documents.model import Document, Library, Uploaded
from memory_service.model import Embedding, Memory, NewMemory
from memory_service.retrieval.request import Retrieval
from research.events import Cited, Context, Token
from research.model import Answer

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
