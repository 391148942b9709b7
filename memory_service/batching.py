"""Many callers, one batch at a time: items that arrive while a batch runs form the next batch.

It is used twice: concurrent embeddings share a run of the model, and concurrent writes share a sync of the journal.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from vector_memory.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: "Future[Result]"


class Batcher(Generic[Item, Result]):
    """Runs a function over batches of what callers submit, never two batches at the same time.

        batcher = Batcher("embedder", embed_all, cost=len, batch_cost_max=256, waiting_max=100_000)
        vector = batcher.submit([text])[0].result()

    A batch that arrives while nothing runs is run in its caller's thread, which saves two thread switches; the others
    are run by a thread of the batcher. Urgent items go first, so a query waits for at most one batch of a bulk load. If
    both kinds wait, their batches alternate, so neither starves.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        cost: Callable[[Item], int],
        batch_cost_max: int,
        waiting_max: int,
    ) -> None:
        """Args:
        name: of the batcher's thread.
        run: returns results in the order of the items. If it raises, every caller of the batch gets the error.
        cost: weight of an item. A batch costs its longest item times its number of items, because of padding.
        batch_cost_max: largest cost of a batch of two and more items; a single item may cost more.
        waiting_max: items that may wait; `submit` refuses more.
        """
        self._run = run
        self._cost = cost
        self._batch_cost_max = batch_cost_max
        self._waiting_max = waiting_max
        self._urgent: deque[_Job[Item, Result]] = deque()
        self._patient: deque[_Job[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._last_was_urgent = False
        self._running = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, items: Sequence[Item], *, urgent: bool = False, background: bool = False
    ) -> "list[Future[Result]]":
        """Submit items, which may run in different batches, and return a future for each.

        Args:
            items: to run.
            urgent: run them before items that are not urgent.
            background: return at once, because the caller does something else before it waits. Otherwise a single
                batch runs in the caller's thread if nothing else runs.

        Raises:
            Unavailable: too many items wait already, or the batcher is closed.
        """
        jobs = [_Job(item, Future[Result]()) for item in items]
        with self._changed:
            if self._closed:
                raise Unavailable("The service is stopping.")
            if len(self._urgent) + len(self._patient) + len(jobs) > self._waiting_max and self._has_waiting():
                raise Unavailable(f"More than {self._waiting_max} items are waiting already; try again later.")
            # A single batch that finds the batcher idle needs no thread switch: its caller runs it.
            is_idle = not self._running and not self._has_waiting()
            run_here = is_idle and not background and self._is_one_batch(items)
            if run_here:
                self._running = True
            else:
                (self._urgent if urgent else self._patient).extend(jobs)
                self._changed.notify()
        # Outside the lock, so that others can submit while this batch runs.
        if run_here:
            self._finish(jobs)
        return [job.future for job in jobs]

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _has_waiting(self) -> bool:
        return bool(self._urgent or self._patient)

    def _is_one_batch(self, items: Sequence[Item]) -> bool:
        longest = max((self._cost(item) for item in items), default=0)
        return len(items) == 1 or longest * len(items) <= self._batch_cost_max

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running and (self._has_waiting() or self._closed))
                if not self._has_waiting():
                    return  # closed, and nothing is left
                batch = self._take()
                self._running = True
            self._finish(batch)

    def _take(self) -> list[_Job[Item, Result]]:
        """The next batch. It comes from one lane only, so an urgent batch is never delayed by long texts in it."""
        # Alternate between the lanes if both have items.
        patient_turn = self._last_was_urgent or not self._urgent
        lane = self._patient if self._patient and patient_turn else self._urgent
        self._last_was_urgent = lane is self._urgent
        batch = [lane.popleft()]
        longest = self._cost(batch[0].item)
        while lane:
            longest = max(longest, self._cost(lane[0].item))
            # All items are padded to the longest, so one long item makes the whole batch dear.
            if longest * (len(batch) + 1) > self._batch_cost_max:
                break
            batch.append(lane.popleft())
        return batch

    def _finish(self, batch: list[_Job[Item, Result]]) -> None:
        try:
            results = self._run([job.item for job in batch])
        except BaseException as error:  # noqa: BLE001 - the callers raise it; this thread must go on for the others
            for job in batch:
                job.future.set_exception(error)
        else:
            for job, result in zip(batch, results, strict=True):
                job.future.set_result(result)
        with self._changed:
            self._running = False
            self._changed.notify()
