"""How many run, how many wait, and who is turned away."""

import asyncio

import pytest

from research.llm.admission import Admission
from research.llm.deadline import Deadline
from vector_memory.errors import Unavailable

LONG_S = 60.0


class Crowd:
    """Requests that hold their places until they are told to leave, and the most that ever ran at once."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.leave = asyncio.Event()
        self.running = self.most = 0

    async def enter(self, timeout_s: float = LONG_S) -> None:
        async with self.admission.place(Deadline.after(timeout_s)):
            self.running += 1
            self.most = max(self.most, self.running)
            await self.leave.wait()
            self.running -= 1


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_so_many_run_so_many_wait_and_the_next_is_turned_away_at_once() -> None:
    crowd = Crowd(Admission(at_once=2, waiting_max=3))
    inside = [asyncio.create_task(crowd.enter()) for _ in range(5)]
    await settled()

    with pytest.raises(Unavailable, match="LLM_CONCURRENCY") as caught:
        await crowd.enter()

    assert caught.value.retry_after_s
    crowd.leave.set()
    await asyncio.gather(*inside)
    assert crowd.most == 2


async def test_nobody_waits_where_no_queue_is_allowed() -> None:
    crowd = Crowd(Admission(at_once=1, waiting_max=0))
    inside = asyncio.create_task(crowd.enter())
    await settled()

    with pytest.raises(Unavailable):
        await crowd.enter()

    crowd.leave.set()
    await inside
    await crowd.enter()


async def test_waiting_ends_with_the_deadline() -> None:
    crowd = Crowd(Admission(at_once=1, waiting_max=1))
    inside = asyncio.create_task(crowd.enter())
    await settled()

    with pytest.raises(Unavailable, match="timeout_s"):
        await crowd.enter(timeout_s=0.01)

    crowd.leave.set()
    await inside


async def test_who_is_cancelled_while_waiting_or_running_leaves_a_free_place() -> None:
    crowd = Crowd(Admission(at_once=1, waiting_max=1))
    running, waiting = asyncio.create_task(crowd.enter()), None
    await settled()
    waiting = asyncio.create_task(crowd.enter())
    await settled()

    for task in (waiting, running):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)

    crowd.leave.set()
    await crowd.enter()


def test_another_event_loop_finds_every_place_free() -> None:
    admission = Admission(at_once=1, waiting_max=0)

    async def abandoned() -> None:
        task = asyncio.create_task(Crowd(admission).enter())
        await settled()
        assert not task.done()

    async def once() -> None:
        async with admission.place(Deadline.after(LONG_S)):
            pass

    asyncio.run(abandoned())
    asyncio.run(once())
