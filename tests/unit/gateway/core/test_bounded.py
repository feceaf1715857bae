"""Time-outs that tell a slow server from a busy event loop."""

import asyncio
import time

import pytest

from gateway.core.bounded import Bounded


async def test_what_never_comes_times_out() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Bounded(0.05):
            await asyncio.Event().wait()
    assert time.monotonic() - started < 0.5


async def test_what_comes_in_time_is_left_alone() -> None:
    async with Bounded(0.05):
        await asyncio.sleep(0)
    timers = [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert not timers


async def test_an_answer_that_came_while_the_loop_was_busy_counts() -> None:
    """The loop is blocked beyond the bound, and its timers run before the one that waits for the answer."""
    answer = asyncio.get_running_loop().create_future()
    reader, writer = await _pipe()
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    writer.write(b"x")
    async with Bounded(0.05):
        answer.set_result(await reader.read(1))
    writer.close()
    assert answer.result() == b"x"


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        async with Bounded(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _pipe() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Both ends of a local connection, which may live as long as the test."""
    accepted: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda reader, _: accepted.set_result(reader), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    server.close()
    return await accepted, writer
