"""How long a connection to Triton may take."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.triton.connector import Connector

TIMEOUT_S = 0.1


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=Connector(TIMEOUT_S, 10)) as one:
        yield one


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


async def test_a_server_that_accepts_nobody_is_given_up(session: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        started = time.monotonic()
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await session.get(f"http://127.0.0.1:{full.getsockname()[1]}")
        assert time.monotonic() - started < 10 * TIMEOUT_S
        for one in waiting:
            one.close()


async def test_time_in_which_our_own_loop_was_busy_does_not_count(session: aiohttp.ClientSession) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    asyncio.get_running_loop().call_soon(time.sleep, 3 * TIMEOUT_S)
    async with session.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as response:
        assert response.status == 200
    server.close()
