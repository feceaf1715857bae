"""Which request was that? The newest ones by tenant and id, so that feedback finds them.

They lie in a few hashes, the generations, of which the newest is filled; when it is full the oldest one goes, so that
there are never more than so many, however many come.

| key | holds |
|---|---|
| `trireme:{ledger}:requests` | number of the newest generation |
| `trireme:{ledger}:requests:<number>` | tenant/request id → `Known`, JSON; with `/score` → how often, the last |
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.accounting.entries import Entry
from gateway.valkey.wire import Argument

GENERATION: Final = "trireme:{ledger}:requests"
GENERATIONS: Final = 8
_ANSWERED: Final = frozenset({"ok", "cancelled"})
_ENCODER = msgspec.json.Encoder()

# Part of a script. `field`, `known`: what is remembered; `most`: in one generation; `seconds`: for how long.
REMEMBER: Final = f"""
local function remember(counter, field, known, most, seconds)
  local number = tonumber(redis.call('GET', counter) or '0')
  local held = counter .. ':' .. number
  if redis.call('HLEN', held) >= tonumber(most) then
    number = number + 1
    held = counter .. ':' .. number
    redis.call('SET', counter, number)
    redis.call('UNLINK', counter .. ':' .. (number - {GENERATIONS}))
  end
  redis.call('HSET', held, field, known)
  redis.call('HDEL', held, field .. '/score')
  redis.call('EXPIRE', held, seconds)
end
"""


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a request is remembered. `at`: its end, Unix milliseconds."""

    at: int
    model: str
    arm: str | None = None
    experiment: str | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class RequestIndex:
    """Of `requests` requests, about, each for `seconds`; 0: of none."""

    requests: int = 0
    seconds: int = 0

    def arguments(self, entry: Entry) -> list[Argument]:
        """For `remember`: field, what is known, most, seconds. The first is empty where nothing was answered."""
        if not self.requests or entry.kind != "request" or entry.model is None or entry.outcome not in _ANSWERED:
            return ["", "", 0, 0]
        known = Known(entry.at, entry.model, entry.arm, entry.experiment, entry.unit)
        most = max(1, self.requests // GENERATIONS)
        return [field_of(entry.tenant, entry.request_id), _ENCODER.encode(known), most, self.seconds]


NO_INDEX: Final = RequestIndex()


def field_of(tenant: str, request_id: str) -> str:
    """Neither can have a slash in it."""
    return f"{tenant}/{request_id}"
