"""Committing: from requests to durable, visible records.

One commit runs at a time. Requests that arrive while it runs form the next group. A group is planned in order
(`planning.py`), appended with one sync, applied, and only then acknowledged.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memory_service.batching import Batcher
from memory_service.clock import HybridClock
from memory_service.embedding.embedder import Fingerprint
from memory_service.journal.records import Record
from memory_service.journal.writer import JournalWriter, storage_unavailable
from memory_service.projection.applying import Projection
from memory_service.writing.group import Group
from memory_service.writing.planning import plan, settle
from memory_service.writing.requests import DeleteRequest, StoreRequest, WriteOutcome, WriteRequest
from vector_memory.errors import ServiceError, Unavailable

log = logging.getLogger(__name__)

GROUP_ITEMS_MAX = 4_096
"""Memories of one group commit: about four batches of the largest size."""

WAITING_REQUESTS_MAX = 10_000
"""Requests that may wait for a commit; further ones are refused as unavailable."""


@dataclass(frozen=True, slots=True)
class SealRequest:
    """Leave the current journal for good. The answer is `Sealed`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The next write goes to a new journal."""


class Committer:
    """Writes this process's journal, and applies its records to the projection."""

    def __init__(self, projection: Projection, journal_folder: Path, embedder: Fingerprint, clock: HybridClock) -> None:
        self._projection = projection
        self._folder = journal_folder
        self._clock = clock
        self._journal = JournalWriter(journal_folder, embedder, clock.next_ms)
        self._behind = False
        self._batcher: Batcher[WriteRequest | SealRequest, WriteOutcome | Sealed | ServiceError] = Batcher(
            "committer",
            self._commit_all,
            cost=lambda request: len(request.items) if isinstance(request, StoreRequest) else 1,
            batch_cost_max=GROUP_ITEMS_MAX,
            waiting_max=WAITING_REQUESTS_MAX,
        )

    def commit(self, request: WriteRequest) -> WriteOutcome:
        """Write durably and visibly, then return the outcome.

        Raises:
            StorageUnavailable: the data folder took nothing of it.
            Conflict: the idempotency key was used for another request.
            Unavailable: the queue is full, or the service is stopping.
        """
        outcome = self._batcher.submit([request])[0].result()
        if isinstance(outcome, ServiceError):
            raise outcome
        assert not isinstance(outcome, Sealed), "Sealed answers a SealRequest only"
        return outcome

    def seal(self) -> None:
        """Leave the current journal for good, so that compaction may remove it.

        Raises:
            Unavailable: the queue is full, or the service is stopping.
        """
        self._batcher.submit([SealRequest()])[0].result()

    @property
    def sealed(self) -> set[str]:
        """The names of the journals that this process has left for good."""
        return set(self._journal.sealed)

    @property
    def writer(self) -> str:
        """The name of the current journal; empty if there is none."""
        return self._journal.writer

    def close(self) -> None:
        """Commit the waiting requests, then close the journal."""
        self._batcher.close()
        self._journal.close()

    def _commit_all(self, requests: list[WriteRequest | SealRequest]) -> list[WriteOutcome | Sealed | ServiceError]:
        outcomes: list[WriteOutcome | Sealed | ServiceError] = []
        group: list[WriteRequest] = []
        for request in requests:
            if isinstance(request, SealRequest):
                # What came before is committed to the journal that is left now.
                outcomes += [*self._commit_group(group), Sealed()]
                group = []
                self._journal.close()
                continue
            # A filter is evaluated by the catalog, so all requests before it have to be applied first.
            if isinstance(request, DeleteRequest) and request.filter is not None and group:
                outcomes += self._commit_group(group)
                group = []
            group.append(request)
        return [*outcomes, *self._commit_group(group)]

    def _commit_group(self, requests: Sequence[WriteRequest]) -> list[WriteOutcome | ServiceError]:
        try:
            self._catch_up()
            now_ms = self._clock.now_ms()
            self._projection.expire(now_ms)
            writer = self._journal.begin()
            group = Group(projection=self._projection, tick=lambda: self._clock.tick(writer), now_ms=now_ms)
            # No other journal is applied in between, so all plans of the group see one state.
            with self._projection.apply_lock:
                plans = [plan(request, group) for request in requests]
            if not group.records:
                return [planned.outcome for planned in plans]
            durable, error = self._append(group.records)
        except Exception as failure:
            log.exception("commit.failed")
            return [Unavailable(f"The write could not be completed ({type(failure).__name__}).")] * len(requests)
        return [settle(planned, durable, error) for planned in plans]

    def _catch_up(self) -> None:
        """Apply what an earlier group made durable and could not apply."""
        if self._behind:
            self._projection.pull(self._folder)
            self._behind = False

    def _append(self, records: list[Record]) -> tuple[int, ServiceError | None]:
        """Make records durable, then visible. Return how many are durable, and why the others are not."""
        appended = self._journal.append(records)
        if appended.error is not None:
            log.error("journal.append_failed", extra={"error": str(appended.error), "journal": appended.writer})
        # Should applying fail, the records are durable and not visible yet; the next group applies them first.
        self._behind = True
        if appended.durable:
            self._projection.apply(records[: appended.durable], {appended.writer: appended.end})
        self._behind = False
        return appended.durable, storage_unavailable(appended.error) if appended.error else None
