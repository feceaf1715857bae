"""Records in Valkey of what is under way and of what has ended: each in one piece, replaced by who has seen it.

| key | holds |
|---|---|
| `trireme:{control}:rollouts` | id → record of a rollout, JSON |
| `trireme:{control}:trials` | id → record of an experiment or a mirroring, JSON |
| `trireme:{control}:lease` | who acts |
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from redis.asyncio import Redis

from control_plane.errors import NotFound, NotPossible, Raced
from control_plane.lease import LEASE

log = logging.getLogger(__name__)

# Rollouts and experiments of the same model exclude each other, so each looks at the other's before it begins.
ROLLOUTS: Final = "trireme:{control}:rollouts"
TRIALS: Final = "trireme:{control}:trials"
# Of those that are over.
KEPT: Final = 50
_DONE, _RACED, _LOST = "done", "raced", "lost"

# KEYS: records, lease, the others' records. ARGV: id, revision that is replaced (0: none yet), record, owner of the
# lease ('': anybody). What stands in the middle returns a word where the `new` record cannot begin.
_PUT: Final = """
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return 'lost' end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = stored and cjson.decode(stored).revision or 0
if revision ~= tonumber(ARGV[2]) then return 'raced' end
if revision == 0 then
  local new = cjson.decode(ARGV[3])
  %s
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 'done'
"""


class Record(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def started_at(self) -> float: ...
    @property
    def settled(self) -> bool: ...


Kind = TypeVar("Kind", bound=Record)


class Records(Generic[Kind]):
    """Of one kind. `called`: in sentences. `conflicts`: Lua, which may read `KEYS[3]`, the key `others`.

    Raises RedisError, OSError.
    """

    def __init__(
        self, redis: Redis, key: str, others: str, *, called: str, conflicts: str, decode: Callable[[bytes], Kind]
    ) -> None:
        self._redis = redis
        self._keys = (key, LEASE, others)
        self._called = called
        self._put_script = _PUT % conflicts
        self._decode = decode

    async def all(self) -> list[Kind]:
        """The newest first. What cannot be read is left out, and logged."""
        stored: Any = await self._redis.hgetall(self._keys[0])
        return sorted(self._readable(stored), key=lambda one: (-one.started_at, one.id))

    async def get(self, identifier: str) -> Kind:
        """Raises NotFound, NotPossible."""
        stored: Any = await self._redis.hget(self._keys[0], identifier)
        if stored is None:
            raise NotFound(f"there is no {self._called} {identifier!r}")
        try:
            return self._decode(stored)
        except msgspec.DecodeError as error:
            raise NotPossible(f"{self._called} {identifier} cannot be read: {error}") from error

    async def replace(self, held: Kind, changed: Kind, owner: str = "") -> None:
        """`owner`: of the lease, when only its holder may write. Raises Raced when `held` is not what is stored."""
        await self._put(changed, held.revision, owner)

    async def begin(self, record: Kind) -> str:
        """What conflicts with it, or "". Raises Raced when there is one of this id."""
        return await self._put(record, 0, "")

    async def forget(self) -> list[str]:
        """Delete the oldest that are over. Their ids."""
        over = [one.id for one in await self.all() if one.settled][KEPT:]
        if over:
            await self._redis.hdel(self._keys[0], *over)
        return over

    async def _put(self, record: Kind, held: int, owner: str) -> str:
        arguments = (record.id, str(held), msgspec.json.encode(record).decode(), owner)
        answer: Any = await self._redis.eval(self._put_script, len(self._keys), *self._keys, *arguments)
        verdict = str(answer.decode())
        if verdict == _RACED:
            raise Raced(f"{self._called} {record.id} was changed by somebody else")
        if verdict == _LOST:
            raise Raced("the lease is somebody else's")
        return "" if verdict == _DONE else verdict

    def _readable(self, stored: dict[bytes, bytes]) -> Iterator[Kind]:
        for identifier, text in stored.items():
            try:
                yield self._decode(text)
            except msgspec.DecodeError as error:
                log.warning("%s %s cannot be read: %s", self._called, identifier.decode(errors="replace"), error)
