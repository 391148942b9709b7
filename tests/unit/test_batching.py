"""Many callers, one worker thread."""

import threading

import pytest

from memory_service.batching import Batcher
from vector_memory.errors import Unavailable


class Gate:
    """A batch function that waits, so that a test decides what arrives while a batch runs."""

    def __init__(self):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(items)
        self.entered.release()
        assert self.allowed.acquire(timeout=10)
        return [item * 2 for item in items]

    def let(self, batches):
        for _ in range(batches):
            self.allowed.release()


def running(batch, item):
    """Submit from a thread of its own, since what comes while nothing runs is run by its caller."""
    futures = []
    thread = threading.Thread(target=lambda: futures.extend(batch.submit([item])))
    thread.start()
    return thread, futures


def batcher(run, **bounds):
    return Batcher("test", run, cost=lambda item: item, **{"batch_cost_max": 100, "waiting_max": 100} | bounds)


def test_what_arrives_while_a_batch_runs_becomes_the_next_batch():
    gate = Gate()
    batch = batcher(gate)
    thread, first = running(batch, 1)
    assert gate.entered.acquire(timeout=10)
    second = batch.submit([2]) + batch.submit([3, 4])
    gate.let(2)
    thread.join(10)
    assert [future.result(10) for future in first + second] == [2, 4, 6, 8]
    assert gate.batches == [[1], [2, 3, 4]]
    batch.close()


def test_a_batch_never_costs_more_than_its_bound_counting_padding():
    gate = Gate()
    batch = batcher(gate, batch_cost_max=30)
    running(batch, 1)
    assert gate.entered.acquire(timeout=10)
    futures = batch.submit([10, 10, 10, 16, 40])
    gate.let(5)
    assert [future.result(10) for future in futures] == [20, 20, 20, 32, 80]
    assert gate.batches[1:] == [[10, 10, 10], [16], [40]]
    batch.close()


def test_urgent_items_go_first_and_the_patient_do_not_starve():
    gate = Gate()
    batch = batcher(gate, batch_cost_max=5)
    running(batch, 1)
    assert gate.entered.acquire(timeout=10)
    patient = batch.submit([5, 5])
    urgent = batch.submit([3], urgent=True) + batch.submit([4], urgent=True)
    gate.let(5)
    for future in patient + urgent:
        future.result(10)
    assert gate.batches[1:] == [[3], [5], [4], [5]]
    batch.close()


def test_what_comes_while_nothing_runs_is_run_by_its_caller_and_more_than_a_batch_is_not():
    threads = []

    def run(items):
        threads.append(threading.current_thread())
        return items

    batch = batcher(run, batch_cost_max=10)
    batch.submit([1, 2])[0].result(10)
    assert threads == [threading.current_thread()]
    for future in batch.submit([5, 5, 5]):
        future.result(10)
    assert threading.current_thread() not in threads[1:]
    batch.close()


def test_an_error_reaches_every_caller_of_the_batch_and_nobody_else():
    def run(items):
        if 13 in items:
            raise ValueError("unlucky")
        return items

    batch = batcher(run)
    with pytest.raises(ValueError, match="unlucky"):
        batch.submit([13])[0].result(10)
    assert batch.submit([1])[0].result(10) == 1
    batch.close()


def test_too_many_waiting_items_are_refused_and_the_others_are_served():
    gate = Gate()
    batch = batcher(gate, waiting_max=2)
    thread, served = running(batch, 1)
    assert gate.entered.acquire(timeout=10)
    waiting = batch.submit([1, 1])
    with pytest.raises(Unavailable, match="2 items"):
        batch.submit([1])
    gate.let(3)
    thread.join(10)
    assert [future.result(10) for future in served + waiting] == [2, 2, 2]
    batch.close()


def test_closing_finishes_what_was_accepted_and_refuses_what_comes_after():
    batch = batcher(lambda items: items)
    futures = batch.submit(list(range(50)))
    batch.close()
    assert [future.result(0) for future in futures] == list(range(50))
    with pytest.raises(Unavailable):
        batch.submit([1])
