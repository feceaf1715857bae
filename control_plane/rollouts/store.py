"""Rollouts in Valkey, and how far the ledger was read for them.

| key | holds |
|---|---|
| `trireme:{control}:checkpoint` | position in the ledger, and what the steps under way have shown until there, JSON |

Position and evidence are written together, so that every entry counts once, however often the control plane dies.
"""

import logging
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.errors import NotPossible, Raced
from control_plane.lease import LEASE
from control_plane.records import ROLLOUTS, TRIALS, Records
from control_plane.rollouts.evidence import Evidence
from control_plane.rollouts.state import Rollout

log = logging.getLogger(__name__)

CHECKPOINT: Final = "trireme:{control}:checkpoint"
_BUSY, _EXPERIMENT = "busy", "experiment"

_CONFLICTS: Final = f"""
  local model = new.definition.model
  for _, text in ipairs(redis.call('HVALS', KEYS[1])) do
    local other = cjson.decode(text)
    if other.definition.model == model and not other.settled then return '{_BUSY}' end
  end
  for _, text in ipairs(redis.call('HVALS', KEYS[3])) do
    local trial = cjson.decode(text)
    if trial.model == model and trial.kind == 'experiment' and not trial.settled then return '{_EXPERIMENT}' end
  end
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


class Store(Records[Rollout]):
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        decode = msgspec.json.Decoder(Rollout).decode
        super().__init__(redis, ROLLOUTS, TRIALS, called="rollout", conflicts=_CONFLICTS, decode=decode)

    async def create(self, rollout: Rollout) -> None:
        """Raises NotPossible while another one of the same model, or an experiment, is under way. The oldest that are
        over are deleted.
        """
        conflict = await self.begin(rollout)
        if conflict == _BUSY:
            raise NotPossible(f"another rollout of {rollout.definition.model} is under way")
        if conflict == _EXPERIMENT:
            raise NotPossible(f"an experiment divides {rollout.definition.model}: stop it first")
        await self.forget()

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
