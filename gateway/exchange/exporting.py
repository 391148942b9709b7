"""Exporting: every memory with all its fields, as one JSON object per line.

The first line says what the file is. Each other line has the fields of a listing, `embedding` among them. Lines are
independent of each other, so the usual tools for lines can split and join files.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from memory_service.clock import wall_ms
from vector_memory import Client, Stats
from vector_memory.errors import LimitExceeded, NotFound
from vector_memory.memories import Page
from vector_memory.times import iso_time

FORMAT = "vector-memory"
FORMAT_VERSION = 1

PAGE_SIZE = 500
"""Memories per page. 500 short ones with their vectors are about 1.5 MB; a page that is too large is halved."""


def header(stats: Stats) -> dict[str, Any]:
    """Return the first line."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "exported_at": iso_time(wall_ms()),
        "embedder": stats.embedder.model_dump(include={"model", "revision", "dim"}),
    }


def lines(client: Client, namespaces: Sequence[str], *, vectors: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the other lines: every memory that exists during the whole export, by namespace, newest first.

    Raises:
        NotFound: a namespace has no memories.
    """
    counts = client.stats().namespaces
    for namespace in namespaces:
        if namespace not in counts:
            raise NotFound(f"There are no memories in namespace {namespace!r}.")
        for page in _pages(client, namespace, vectors=vectors):
            for memory in page.memories:
                yield memory.body()


def _pages(client: Client, namespace: str, *, vectors: bool) -> Iterator[Page]:
    size, cursor = PAGE_SIZE, None
    while True:
        try:
            page = client.page(namespace=namespace, limit=size, cursor=cursor, embeddings=vectors, consistency="strong")
        except LimitExceeded:  # a RunPod job cannot return so much
            if size == 1:
                raise
            size //= 2
            continue
        yield page
        if page.cursor is None:
            return
        cursor = page.cursor
