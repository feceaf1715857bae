"""The routing document that all gateways follow: read, and changed by compare-and-set on its version."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from redis.asyncio import Redis

from control_plane.errors import NotPossible, Raced
from gateway.core.document import KEY, REPLACE, replacement
from gateway.core.snapshot import RoutingSnapshot, decode_snapshot

_RACES: Final = 10


class RoutingDocument:
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self) -> RoutingSnapshot:
        """An empty one when nothing was changed so far. Raises NotPossible for one that makes no sense."""
        data: Any = await self._redis.get(KEY)
        try:
            return RoutingSnapshot() if data is None else decode_snapshot(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise NotPossible(f"the routing document cannot be read: {error}") from error

    async def change(self, change: Callable[[RoutingSnapshot], RoutingSnapshot]) -> bool:
        """Whether there was something to change. Raises NotPossible, Raced."""
        for _ in range(_RACES):
            held = await self.read()
            wanted = change(held)
            if wanted == held:
                return False
            wanted = replace(wanted, version=held.version + 1)
            if problems := wanted.validate():
                raise NotPossible("; ".join(problems))
            if await self._redis.eval(REPLACE, 1, KEY, *replacement(held.version, wanted)):
                return True
        raise Raced("too many others are changing the routing document")
