"""What the ledger of a running stack holds."""

import msgspec
import redis

from gateway.accounting.entries import Entry
from gateway.accounting.stream import STREAM
from trireme.stack import EmbeddedStack

_DECODER = msgspec.json.Decoder(Entry)


def entries(stack: EmbeddedStack) -> list[Entry]:
    """All of them, in the order in which they were stored."""
    with redis.Redis.from_url(stack.valkey_url) as valkey:
        return [_DECODER.decode(fields[b"entry"]) for _, fields in valkey.xrange(STREAM) if b"entry" in fields]


def usage_sums(stack: EmbeddedStack) -> dict[str, int]:
    """Of all days, tenants, keys and models together, by the name of the sum."""
    sums: dict[str, int] = {}
    with redis.Redis.from_url(stack.valkey_url) as valkey:
        for key in valkey.scan_iter("trireme:{ledger}:usage:*"):
            for field, value in valkey.hgetall(key).items():
                name = field.decode().rpartition("]")[2]
                sums[name] = sums.get(name, 0) + int(value)
    return sums
