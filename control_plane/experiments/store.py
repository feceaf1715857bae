"""Experiments and mirrorings in Valkey, and what they have shown so far.

| key | holds |
|---|---|
| `trireme:{control}:trials` | id → record of an experiment or a mirroring, JSON |
| `trireme:{control}:evidence` | `position` in the ledger; id → what was seen until there, JSON |

Position and evidence are written together, so that every event counts once, however often the control plane dies.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.errors import NotFound, NotPossible, Raced
from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.state import Experiment, Trial
from control_plane.lease import LEASE
from control_plane.rollouts.store import ROLLOUTS, TRIALS

log = logging.getLogger(__name__)

EVIDENCE: Final = "trireme:{control}:evidence"
KEPT: Final = 50
POSITION: Final = "position"
_DONE, _RACED, _LOST, _BUSY, _ROLLOUT = "done", "raced", "lost", "busy", "rollout"

# KEYS: trials, lease, rollouts. ARGV: id, revision that is replaced (0: none yet), record, owner of the lease
# ('': anybody).
_PUT = f"""
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return '{_LOST}' end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local revision = stored and cjson.decode(stored).revision or 0
if revision ~= tonumber(ARGV[2]) then return '{_RACED}' end
if revision == 0 then
  local new = cjson.decode(ARGV[3])
  for _, text in ipairs(redis.call('HVALS', KEYS[1])) do
    local other = cjson.decode(text)
    if other.model == new.model and other.kind == new.kind and not other.settled then return '{_BUSY}' end
  end
  for _, text in ipairs(new.kind == 'experiment' and redis.call('HVALS', KEYS[3]) or {{}}) do
    local rollout = cjson.decode(text)
    if rollout.definition.model == new.model and not rollout.settled then return '{_ROLLOUT}' end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return '{_DONE}'
"""
# KEYS: evidence, lease. ARGV: owner of the lease, then fields and values.
_SAVE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
_TRIAL = msgspec.json.Decoder(Trial)


class TrialStore:
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def all(self) -> list[Trial]:
        """The newest first. What cannot be read is left out, and logged."""
        stored: Any = await self._redis.hgetall(TRIALS)
        return sorted(_readable(stored), key=lambda one: (-one.started_at, one.id))

    async def get(self, identifier: str) -> Trial:
        """Raises NotFound, NotPossible."""
        stored: Any = await self._redis.hget(TRIALS, identifier)
        if stored is None:
            raise NotFound(f"there is no experiment or mirroring {identifier!r}")
        try:
            trial: Trial = _TRIAL.decode(stored)
        except msgspec.DecodeError as error:
            raise NotPossible(f"the record {identifier} cannot be read: {error}") from error
        return trial

    async def create(self, trial: Trial) -> None:
        """Raises NotPossible while another one of the same kind and model is under way, and for an experiment also
        while a rollout is. The oldest that are over are deleted.
        """
        verdict = await self._put(trial, 0, "")
        if verdict == _BUSY:
            kind = "experiment" if isinstance(trial, Experiment) else "mirroring"
            raise NotPossible(f"another {kind} of {trial.model} is under way: end it first")
        if verdict == _ROLLOUT:
            raise NotPossible(f"a rollout of {trial.model} is under way: its arms cannot be divided twice")
        over = [one.id for one in await self.all() if one.settled][KEPT:]
        if over:
            await self._redis.hdel(TRIALS, *over)
            await self._redis.hdel(EVIDENCE, *over)

    async def replace(self, held: Trial, changed: Trial, owner: str = "") -> None:
        """`owner`: of the lease, when only its holder may write. Raises Raced when `held` is not what is stored."""
        verdict = await self._put(changed, held.revision, owner)
        if verdict != _DONE:
            lost = verdict == _LOST
            raise Raced("the lease is somebody else's" if lost else f"{held.id} was changed by somebody else")

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

    async def _put(self, trial: Trial, held: int, owner: str) -> str:
        record = msgspec.json.encode(trial).decode()
        arguments = (trial.id, str(held), record, owner)
        verdict: Any = await self._redis.eval(_PUT, 3, TRIALS, LEASE, ROLLOUTS, *arguments)
        return str(verdict.decode())


def _readable(stored: dict[bytes, bytes]) -> Iterator[Trial]:
    for identifier, text in stored.items():
        try:
            yield _TRIAL.decode(text)
        except msgspec.DecodeError as error:
            log.warning("%s cannot be read: %s", identifier.decode(errors="replace"), error)
