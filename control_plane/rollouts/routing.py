"""The routing document that all gateways follow: read, and changed by compare-and-set on its version."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from redis.asyncio import Redis

from control_plane.errors import NotPossible, Raced
from gateway.core.snapshot import RoutingSnapshot, decode_snapshot, encode_snapshot

KEY: Final = "trireme:{routing}:snapshot"
CHANGED: Final = "trireme:{routing}:changed"
_RACES: Final = 10

# KEYS: document. ARGV: version that is replaced (0: none yet), new version, document, channel.
_REPLACE = """
local held = redis.call('GET', KEYS[1])
local version = held and cjson.decode(held).version or 0
if version ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[2])
return 1
"""


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
            arguments = (held.version, wanted.version, encode_snapshot(wanted), CHANGED)
            if await self._redis.eval(_REPLACE, 1, KEY, *map(_text, arguments)):
                return True
        raise Raced("too many others are changing the routing document")


def _text(argument: object) -> str:
    return argument.decode() if isinstance(argument, bytes) else str(argument)
