"""Where tenants and keys lie in Valkey, all in one slot.

| key | holds |
|---|---|
| `trireme:{keys}:records` | key id → record, JSON |
| `trireme:{keys}:digests` | digest of a secret → key id |
| `trireme:{keys}:tenants` | tenant id → record, JSON |
| `trireme:{keys}:last_used` | key id → Unix seconds |
| `trireme:{keys}:version` | a number that grows with every change, and starts at another one if it is lost |

Every write goes through one script, which keeps the higher revision and announces the change. Nothing is ever removed,
only marked as revoked or deleted: so what is missing was lost, and a gateway that knows it writes it back.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.auth.records import KeyRecord, Record, TenantRecord, read_key, read_tenant
from gateway.errors import KeysUnavailable

log = logging.getLogger(__name__)

RECORDS: Final = "trireme:{keys}:records"
DIGESTS: Final = "trireme:{keys}:digests"
TENANTS: Final = "trireme:{keys}:tenants"
LAST_USED: Final = "trireme:{keys}:last_used"
VERSION: Final = "trireme:{keys}:version"
CHANGED_CHANNEL: Final = "trireme:{keys}:changed"
KEY_CHANGED: Final = "key:"
TENANT_CHANGED: Final = "tenant:"

Text = bytes | str  # what redis-py says that it returns

# KEYS: the record's hash, digests, tenants, version. ARGV: channel, message, id, record, its revision, tenant that must
# exist ('': any), how many digests to add, those, and those to remove.
_PUT = """
if ARGV[6] ~= '' then
  local tenant = redis.call('HGET', KEYS[3], ARGV[6])
  if not tenant or cjson.decode(tenant).deleted_at then return 'no tenant' end
end
local stored = redis.call('HGET', KEYS[1], ARGV[3])
if stored and (cjson.decode(stored).revision or 0) >= tonumber(ARGV[5]) then return 'older' end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
local added = 7 + tonumber(ARGV[7])
for number = 8, added do redis.call('HSET', KEYS[2], ARGV[number], ARGV[3]) end
for number = added + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[number]) end
if redis.call('EXISTS', KEYS[4]) == 0 then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[4], time[1] .. string.format('%06d', time[2]))
end
redis.call('INCR', KEYS[4])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 'done'
"""

# KEYS: digests, records, tenants. ARGV: digest. Gives the key's record and its tenant's.
_FIND = """
local id = redis.call('HGET', KEYS[1], ARGV[1])
local record = id and redis.call('HGET', KEYS[2], id)
if not record then return {} end
return {record, redis.call('HGET', KEYS[3], cjson.decode(record).tenant)}
"""


class Put(Enum):
    """What became of a write. `OLDER`: what is stored is as new or newer, so nothing was written."""

    DONE = b"done"
    OLDER = b"older"
    NO_TENANT = b"no tenant"


@dataclass(frozen=True)
class Stored:
    """Everything at one time."""

    keys: Sequence[KeyRecord]
    tenants: Sequence[TenantRecord]


@dataclass(frozen=True)
class Found:
    """A key with its tenant, which is None only if it was lost."""

    key: KeyRecord
    tenant: TenantRecord | None


class Storage:
    """Raises redis.exceptions.RedisError when Valkey cannot be reached: see `valkey_faults`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.register_script(_PUT)
        self._find = redis.register_script(_FIND)
        self._keys = _Reader(read_key)
        self._tenants = _Reader(read_tenant)

    async def version(self) -> Text | None:
        """Another one after every change, and after a loss; None when there is nothing."""
        version: Text | None = await self._redis.get(VERSION)
        return version

    async def read_all(self) -> Stored:
        async with self._redis.pipeline(transaction=True) as both:
            both.hgetall(RECORDS)
            both.hgetall(TENANTS)
            keys, tenants = await both.execute()
        return Stored(self._keys.read_all(keys), self._tenants.read_all(tenants))

    async def read_key(self, key_id: str) -> KeyRecord | None:
        return self._keys.read_one(key_id, await self._redis.hget(RECORDS, key_id))

    async def read_tenant(self, tenant: str) -> TenantRecord | None:
        return self._tenants.read_one(tenant, await self._redis.hget(TENANTS, tenant))

    async def find(self, digest: str) -> Found | None:
        """The key that has, or once had, a secret with this digest; good or not."""
        answer = await self._find(keys=[DIGESTS, RECORDS, TENANTS], args=[digest])
        if not answer:
            return None
        key, tenant = answer
        return Found(read_key(key), None if tenant is None else read_tenant(tenant))

    async def put_key(self, record: KeyRecord, *, drop: Sequence[str] = (), needs_tenant: bool = False) -> Put:
        """`drop`: digests under which it is no longer found. `needs_tenant`: only if its tenant exists."""
        digests = record.digests
        tenant = record.tenant if needs_tenant else ""
        return await self._write(RECORDS, KEY_CHANGED, record.key_id, record, [tenant, len(digests), *digests, *drop])

    async def put_tenant(self, record: TenantRecord) -> Put:
        return await self._write(TENANTS, TENANT_CHANGED, record.id, record, ["", 0])

    async def put_last_used(self, times: Mapping[str, int]) -> None:
        """Key id → Unix seconds."""
        mapping: dict[Any, Any] = dict(times)
        await self._redis.hset(LAST_USED, mapping=mapping)

    async def last_used(self) -> dict[str, int]:
        """Key id → Unix seconds, of all keys that were ever used."""
        stored = await self._redis.hgetall(LAST_USED)
        return {_text(key_id): int(time) for key_id, time in stored.items()}

    async def last_used_of(self, key_id: str) -> int | None:
        stored = await self._redis.hget(LAST_USED, key_id)
        return None if stored is None else int(stored)

    async def _write(
        self, place: str, kind: str, name: str, record: KeyRecord | TenantRecord, rest: Sequence[str | int]
    ) -> Put:
        """`rest`: the script's arguments from the tenant on."""
        first: list[str | bytes | int] = [
            CHANGED_CHANNEL,
            f"{kind}{name}",
            name,
            msgspec.json.encode(record),
            record.revision,
        ]
        return Put(await self._put(keys=[place, DIGESTS, TENANTS, VERSION], args=[*first, *rest]))


class _Reader(Generic[Record]):
    """Decodes what has changed since it was last read; what makes no sense is told once and left out."""

    def __init__(self, decode: Callable[[Text], Record]) -> None:
        self._decode: Callable[[Text], Record] = decode
        self._seen: dict[str, tuple[Text, Record | None]] = {}

    def read_all(self, stored: Mapping[Text, Text]) -> list[Record]:
        self._seen = {_text(name): self._read(_text(name), raw) for name, raw in stored.items()}
        return [record for _, record in self._seen.values() if record is not None]

    def read_one(self, name: str, stored: Text | None) -> Record | None:
        return None if stored is None else self._read(name, stored)[1]

    def _read(self, name: str, raw: Text) -> tuple[Text, Record | None]:
        seen = self._seen.get(name)
        if seen is not None and seen[0] == raw:
            return seen
        try:
            return raw, self._decode(raw)
        except msgspec.DecodeError as error:
            log.warning("the stored record %r makes no sense and is left out: %s", name, error)
            return raw, None


def _text(name: Text) -> str:
    return name if isinstance(name, str) else name.decode()


@contextmanager
def valkey_faults() -> Iterator[None]:
    """Failures of Valkey → KeysUnavailable."""
    try:
        yield
    except (RedisError, TimeoutError, msgspec.DecodeError) as error:
        raise KeysUnavailable("API keys cannot be checked right now", retry_after=1.0) from error
