"""Rollouts in Valkey, and how far the ledger was read for them.

| key | holds |
|---|---|
| `trireme:{control}:rollouts` | rollout id → record, JSON |
| `trireme:{control}:checkpoint` | position in the ledger, and what the steps under way have shown until there, JSON |
| `trireme:{control}:lease` | who acts |

Position and evidence are written together, so that every entry counts once, however often the control plane dies.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.errors import NotFound, NotPossible, Raced
from control_plane.lease import LEASE
from control_plane.rollouts.evidence import Evidence
from control_plane.rollouts.state import Rollout

log = logging.getLogger(__name__)

ROLLOUTS: Final = "trireme:{control}:rollouts"
CHECKPOINT: Final = "trireme:{control}:checkpoint"
KEPT: Final = 50
_DONE, _RACED, _LOST, _BUSY, _EXPERIMENT = "done", "raced", "lost", "busy", "experiment"
# Of experiments: they and rollouts of the same model exclude each other.
TRIALS: Final = "trireme:{control}:trials"

# KEYS: rollouts, lease, trials. ARGV: id, revision that is replaced (0: none yet), record, owner of the lease
# ('': anybody).
_PUT = f"""
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return '{_LOST}' end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = stored and cjson.decode(stored).revision or 0
if revision ~= tonumber(ARGV[2]) then return '{_RACED}' end
if revision == 0 then
  local model = cjson.decode(ARGV[3]).definition.model
  for _, text in ipairs(redis.call('HVALS', KEYS[1])) do
    local other = cjson.decode(text)
    if other.definition.model == model and not other.settled then return '{_BUSY}' end
  end
  for _, text in ipairs(redis.call('HVALS', KEYS[3])) do
    local trial = cjson.decode(text)
    if trial.model == model and trial.kind == 'experiment' and not trial.settled then return '{_EXPERIMENT}' end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return '{_DONE}'
"""
# KEYS: checkpoint, lease. ARGV: checkpoint, owner of the lease.
_SAVE = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


class Checkpoint(msgspec.Struct, kw_only=True):
    """`position`: behind the last entry of the ledger that counts in `evidence`, which is by rollout id."""

    position: str
    evidence: dict[str, Evidence] = {}


class Store:
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def all(self) -> list[Rollout]:
        """The newest first. What cannot be read is left out, and logged."""
        stored: Any = await self._redis.hgetall(ROLLOUTS)
        return sorted(_readable(stored), key=lambda one: (-one.history[0].at, one.id))

    async def get(self, identifier: str) -> Rollout:
        """Raises NotFound, NotPossible."""
        stored: Any = await self._redis.hget(ROLLOUTS, identifier)
        if stored is None:
            raise NotFound(f"there is no rollout {identifier!r}")
        try:
            return msgspec.json.decode(stored, type=Rollout)
        except msgspec.DecodeError as error:
            raise NotPossible(f"rollout {identifier} cannot be read: {error}") from error

    async def create(self, rollout: Rollout) -> None:
        """Raises NotPossible while another one of the same model, or an experiment, is under way. The oldest that are
        over are deleted.
        """
        verdict = await self._put(rollout, 0, "")
        if verdict == _BUSY:
            raise NotPossible(f"another rollout of {rollout.definition.model} is under way")
        if verdict == _EXPERIMENT:
            raise NotPossible(f"an experiment divides {rollout.definition.model}: stop it first")
        over = [one.id for one in await self.all() if one.settled][KEPT:]
        if over:
            await self._redis.hdel(ROLLOUTS, *over)

    async def replace(self, held: Rollout, changed: Rollout, owner: str = "") -> None:
        """`owner`: of the lease, when only its holder may write. Raises Raced when `held` is not what is stored."""
        verdict = await self._put(changed, held.revision, owner)
        if verdict != _DONE:
            raise Raced(
                f"rollout {held.id} was changed by somebody else"
                if verdict == _RACED
                else "the lease is somebody else's"
            )

    async def checkpoint(self) -> Checkpoint | None:
        """None when there is none, or none that can be read."""
        stored: Any = await self._redis.get(CHECKPOINT)
        if stored is None:
            return None
        try:
            return msgspec.json.decode(stored, type=Checkpoint)
        except msgspec.DecodeError as error:
            log.warning("the checkpoint cannot be read, the steps under way begin anew: %s", error)
            return None

    async def save(self, checkpoint: Checkpoint, owner: str) -> None:
        """Raises Raced when the lease is somebody else's."""
        text = msgspec.json.encode(checkpoint).decode()
        if not await self._redis.eval(_SAVE, 2, CHECKPOINT, LEASE, text, owner):
            raise Raced("the lease is somebody else's")

    async def _put(self, rollout: Rollout, held: int, owner: str) -> str:
        record = msgspec.json.encode(rollout).decode()
        arguments = (rollout.id, str(held), record, owner)
        verdict: Any = await self._redis.eval(_PUT, 3, ROLLOUTS, LEASE, TRIALS, *arguments)
        return str(verdict.decode())


def _readable(stored: dict[bytes, bytes]) -> Iterator[Rollout]:
    for identifier, text in stored.items():
        try:
            yield msgspec.json.decode(text, type=Rollout)
        except msgspec.DecodeError as error:
            log.warning("rollout %s cannot be read: %s", identifier.decode(errors="replace"), error)
