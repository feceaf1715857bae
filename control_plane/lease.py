"""Only one control plane acts at a time: the one that holds the lease in Valkey."""

from typing import Final

from redis.asyncio import Redis

LEASE: Final = "trireme:{control}:lease"

# KEYS: lease. ARGV: owner, milliseconds.
_HOLD = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """`owner`: no other process has it. `ttl_s`: how long after a crash another one may begin.

    Raises RedisError, OSError.
    """

    def __init__(self, redis: Redis, owner: str, ttl_s: float) -> None:
        self._redis = redis
        self.owner = owner
        self._milliseconds = int(ttl_s * 1000)

    async def hold(self) -> bool:
        """Take or prolong it, if it is nobody else's."""
        return bool(await self._redis.eval(_HOLD, 1, LEASE, self.owner, str(self._milliseconds)))

    async def release(self) -> None:
        """So that another one need not wait."""
        await self._redis.eval(_RELEASE, 1, LEASE, self.owner)
