"""The part of the routing document that changes at run time: in Valkey, changed by compare-and-set on its version."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.document import CHANGED, KEY, REPLACE, replacement
from gateway.core.snapshot import RoutingSnapshot
from gateway.errors import Unavailable


class Document:
    """Raises Unavailable when Valkey cannot be reached. `timeout_s`: for one answer."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def read(self) -> bytes | None:
        """JSON, not checked yet; None when nothing was changed so far."""
        data: bytes | None = await self._ask(self._redis.get(KEY))
        return data

    async def replace(self, held: int, document: RoutingSnapshot) -> bool:
        """Write it and tell all gateways, if the version in Valkey is still `held`."""
        return bool(await self._ask(self._redis.eval(REPLACE, 1, KEY, *replacement(held, document))))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator["Changes"]:
        with _faults():
            async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                async with asyncio.timeout(self._timeout_s):
                    await channel.subscribe(CHANGED)
                yield Changes(channel)

    async def _ask(self, answer: Any) -> Any:
        with _faults():
            async with asyncio.timeout(self._timeout_s):
                return await answer


class Changes:
    """Announcements of new versions."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def wait(self, seconds: float) -> None:
        """Until the next one, or so long."""
        await self._channel.get_message(timeout=seconds)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        raise Unavailable("the routing document cannot be reached right now", retry_after=1.0) from error
