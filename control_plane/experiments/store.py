"""Experiments and mirrorings in Valkey, and what they have shown so far.

| key | holds |
|---|---|
| `trireme:{control}:evidence` | `position` in the ledger; id → what was seen until there, JSON |

Position and evidence are written together, so that every event counts once, however often the control plane dies.
"""

import logging
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.errors import NotPossible, Raced
from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.state import Experiment, Trial
from control_plane.lease import LEASE
from control_plane.records import ROLLOUTS, TRIALS, Records

log = logging.getLogger(__name__)

EVIDENCE: Final = "trireme:{control}:evidence"
POSITION: Final = "position"
_BUSY, _ROLLOUT = "busy", "rollout"

_CONFLICTS: Final = f"""
  for _, text in ipairs(redis.call('HVALS', KEYS[1])) do
    local other = cjson.decode(text)
    if other.model == new.model and other.kind == new.kind and not other.settled then return '{_BUSY}' end
  end
  for _, text in ipairs(new.kind == 'experiment' and redis.call('HVALS', KEYS[3]) or {{}}) do
    local rollout = cjson.decode(text)
    if rollout.definition.model == new.model and not rollout.settled then return '{_ROLLOUT}' end
  end
"""
# KEYS: evidence, lease. ARGV: owner of the lease, then fields and values.
_SAVE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""


class TrialStore(Records[Trial]):
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        decode = msgspec.json.Decoder(Trial).decode
        called = "experiment or mirroring"
        super().__init__(redis, TRIALS, ROLLOUTS, called=called, conflicts=_CONFLICTS, decode=decode)

    async def create(self, trial: Trial) -> None:
        """Raises NotPossible while another one of the same kind and model is under way, and for an experiment also
        while a rollout is. The oldest that are over are deleted.
        """
        conflict = await self.begin(trial)
        if conflict == _BUSY:
            kind = "experiment" if isinstance(trial, Experiment) else "mirroring"
            raise NotPossible(f"another {kind} of {trial.model} is under way: end it first")
        if conflict == _ROLLOUT:
            raise NotPossible(f"a rollout of {trial.model} is under way: its arms cannot be divided twice")
        if gone := await self.forget():
            await self._redis.hdel(EVIDENCE, *gone)

    async def position(self) -> str | None:
        stored: Any = await self._redis.hget(EVIDENCE, POSITION)
        return None if stored is None else stored.decode()

    async def evidence(self, trial: Trial) -> Evidence | Pairs:
        """Nothing, as long as there is none, or none that can be read."""
        kind: type[Evidence | Pairs] = Evidence if isinstance(trial, Experiment) else Pairs
        stored: Any = await self._redis.hget(EVIDENCE, trial.id)
        try:
            return kind() if stored is None else msgspec.json.decode(stored, type=kind)
        except msgspec.DecodeError as error:
            log.warning("what %s has shown cannot be read and begins anew: %s", trial.id, error)
            return kind()

    async def with_evidence(self, identifier: str) -> tuple[Trial, Evidence | Pairs]:
        """Raises NotFound, NotPossible."""
        trial = await self.get(identifier)
        return trial, await self.evidence(trial)

    async def save(self, position: str, evidence: dict[str, Evidence | Pairs], owner: str) -> None:
        """Raises Raced when the lease is somebody else's."""
        fields: list[str] = [POSITION, position]
        for identifier, one in evidence.items():
            fields += [identifier, msgspec.json.encode(one).decode()]
        if not await self._redis.eval(_SAVE, 2, EVIDENCE, LEASE, owner, *fields):
            raise Raced("the lease is somebody else's")
