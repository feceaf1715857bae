"""How long a call may take."""

import asyncio

import pytest

from gateway.core.limit import TimeLimit
from gateway.errors import DeadlineExceeded, ShuttingDown


async def test_work_within_the_limit_is_left_alone() -> None:
    async with TimeLimit(10) as limit:
        assert 9 < limit.remaining <= 10


async def test_the_deadline_ends_the_work_and_names_the_limit() -> None:
    with pytest.raises(DeadlineExceeded, match="10 ms"):
        async with TimeLimit(0.01):
            await asyncio.Event().wait()


async def test_somebody_can_end_it_earlier_with_an_error_of_theirs() -> None:
    limit = TimeLimit(10)
    asyncio.get_running_loop().call_soon(limit.end, ShuttingDown("bye"))
    with pytest.raises(ShuttingDown):
        async with limit:
            await asyncio.Event().wait()
    assert limit.remaining == 0


async def test_ended_before_it_began() -> None:
    limit = TimeLimit(10)
    limit.end(ShuttingDown("bye"))
    with pytest.raises(ShuttingDown):
        async with limit:
            await asyncio.Event().wait()


async def test_the_first_error_wins() -> None:
    limit = TimeLimit(10)
    with pytest.raises(ShuttingDown, match="first"):
        async with limit:
            limit.end(ShuttingDown("first"))
            limit.end(ShuttingDown("second"))
            await asyncio.Event().wait()


async def test_ending_what_is_over_does_nothing() -> None:
    limit = TimeLimit(10)
    async with limit:
        pass
    limit.end(ShuttingDown("late"))


async def test_a_cancellation_from_outside_stays_a_cancellation() -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with TimeLimit(10):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
