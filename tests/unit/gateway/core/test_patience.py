"""Bounds on many short waits."""

import asyncio

import pytest

from gateway.core.patience import Patience


async def test_one_wait_that_lasts_too_long_ends_the_work() -> None:
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            async with Patience(0.02) as patience:
                patience.wait()
                await asyncio.Event().wait()


async def test_only_waits_count() -> None:
    """What is done between two waits may take any time."""
    async with Patience(0.01) as patience:
        patience.wait()
        patience.done()
        await asyncio.sleep(0.05)


async def test_many_short_waits_may_take_longer_together() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with Patience(0.05) as patience:
        while loop.time() - start < 0.2:
            patience.wait()
            await asyncio.sleep(0.001)
            patience.done()


async def test_a_cancellation_from_outside_stays_one() -> None:
    waiting = asyncio.Event()

    async def work() -> None:
        async with Patience(10) as patience:
            patience.wait()
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
