"""Where the registry lies in Valkey: one document, changed by compare-and-set on its version."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.adapters.registry import Registry
from gateway.core.document import REPLACE
from gateway.errors import AdaptersUnavailable

KEY: Final = "trireme:{adapters}:registry"
CHANGED: Final = "trireme:{adapters}:changed"


class AdapterStorage:
    """Raises AdaptersUnavailable when Valkey cannot be reached. `timeout_s`: for one answer."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def read(self) -> bytes | None:
        """JSON, not checked yet; None where there was never an adapter."""
        data: bytes | None = await self._ask(self._redis.get(KEY))
        return data

    async def replace(self, held: int, registry: Registry) -> bool:
        """Write it and tell all gateways, if the version in Valkey is still `held`."""
        document = msgspec.json.encode(registry).decode()
        answer = self._redis.eval(REPLACE, 1, KEY, str(held), str(registry.version), document, CHANGED)
        return bool(await self._ask(answer))

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
        raise AdaptersUnavailable("the registry of adapters cannot be reached right now", retry_after=1.0) from error
