"""The values that only the service knows; the types of requests and answers are in `vector_memory`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOutcome:
    """A durable delete.

    Attributes:
        keys: what was deleted (or would be, on a dry run), in order of key.
        missing: keys that were sent and are not there.
        receipt: id that `MemoryService.receipt` takes; None when nothing was deleted.
    """

    namespace: str
    keys: tuple[str, ...]
    missing: tuple[str, ...]
    dry_run: bool
    receipt: str | None = None
