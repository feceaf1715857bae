"""Names of the sums by day that are kept beside the stream of entries."""

from datetime import date
from typing import Final, NamedTuple

import msgspec

from gateway.accounting.entries import Entry
from gateway.telemetry.metrics import UNKNOWN

# Whose copies are, since no tenant asked for them. No tenant and no key can have this name.
MIRRORS: Final = "(mirror)"
# What the cache did, for those who got an answer that was made for somebody else.
HITS: Final = frozenset({"hit-exact", "hit-semantic", "coalesced"})
_ENCODER = msgspec.json.Encoder()


class Group(NamedTuple):
    """Whose sums. `model`: "unknown" for requests that named none. `ok`: of requests that succeeded."""

    tenant: str
    key: str
    model: str
    ok: bool


_DECODER = msgspec.json.Decoder(Group)


def usage_key(day: date) -> str:
    return f"trireme:{{ledger}}:usage:{day.isoformat()}"


def field_prefix(entry: Entry) -> bytes:
    """A field is this and the name of the sum."""
    tenant, key = (entry.tenant, entry.key_id) if entry.kind == "request" else (MIRRORS, MIRRORS)
    return _ENCODER.encode(Group(tenant, key, entry.model or UNKNOWN, entry.outcome == "ok"))


def read_field(field: bytes) -> tuple[Group, str]:
    """Raises msgspec.DecodeError."""
    group, bracket, name = field.rpartition(b"]")
    return _DECODER.decode(group + bracket), name.decode()
