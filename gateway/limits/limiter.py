"""Reserve, run, settle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.core.call import Call


class Limiter:
    @asynccontextmanager
    async def hold(self, call: Call) -> AsyncIterator[None]:
        yield
