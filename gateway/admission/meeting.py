"""Where gateways meet to share fairness: one hash in Valkey, a field for each gateway."""

import msgspec

from gateway.admission.sharing import Served
from gateway.core.identity import PriorityClass
from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeyAway

KEY = "trireme:{admission}:served"
# A gateway that did not publish for so long is gone; its totals are forgotten.
LIFETIME_S = 10

_PUBLISH = Script.of("""
local now = redis.call('TIME')[1]
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
""")
_READ = Script.of("""
local now, found = redis.call('TIME')[1], {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, served = string.match(all[i + 1], '^(%d+) (.*)$')
  if now - at > tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], all[i])
  else
    found[#found + 1] = all[i]
    found[#found + 1] = served
  end
end
return found
""")
_DECODER = msgspec.json.Decoder(dict[PriorityClass, dict[str, float]])


class ValkeyCounters:
    """Counters in Valkey. While it is away each gateway is fair on its own; totals catch up afterwards."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def publish(self, gateway: str, served: Served) -> None:
        try:
            await self._valkey.run(ScriptCall(_PUBLISH, [KEY], [gateway, msgspec.json.encode(served), LIFETIME_S]))
        except ValkeyAway:
            return

    async def read(self) -> dict[str, Served]:
        try:
            found: list[bytes] = await self._valkey.run(ScriptCall(_READ, [KEY], [LIFETIME_S]))
        except ValkeyAway:
            return {}
        return {name.decode(): _DECODER.decode(served) for name, served in zip(found[::2], found[1::2], strict=True)}
