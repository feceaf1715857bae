"""Where the routing document lies in Valkey, and how whoever changes it does so: gateways, and the control plane."""

from typing import Final

from gateway.core.snapshot import RoutingSnapshot, encode_snapshot

KEY: Final = "trireme:{routing}:snapshot"
CHANGED: Final = "trireme:{routing}:changed"

# KEYS: document. ARGV: version that is replaced (0: none yet), new version, document, channel.
# 1: done, 0: somebody else was faster.
REPLACE: Final = """
local held = redis.call('GET', KEYS[1])
local version = held and cjson.decode(held).version or 0
if version ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[2])
return 1
"""


def replacement(held: int, document: RoutingSnapshot) -> tuple[str, str, str, str]:
    """The arguments of REPLACE. `held`: the version that is replaced."""
    return str(held), str(document.version), encode_snapshot(document).decode(), CHANGED
