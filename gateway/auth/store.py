"""API keys in Valkey: `trireme:{keys}:records` maps digest → record (JSON), `trireme:{keys}:ids` key id → digest."""

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec
from redis.asyncio import Redis

from gateway.auth.secret import digest_of, new_secret, well_formed

SCOPES: Final = frozenset({"inference", "embeddings", "admin", "metrics"})
RECORDS: Final = "trireme:{keys}:records"
IDS: Final = "trireme:{keys}:ids"
REVOKED_CHANNEL: Final = "trireme:{keys}:revoked"


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A key as it is stored. `digest` is all that is left of the secret; times are Unix seconds."""

    key_id: str
    digest: str
    tenant: str
    name: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def usable(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


KeyRecords = list[KeyRecord]  # KeyStore.list hides the builtin within its class
_RECORD = msgspec.json.Decoder(KeyRecord)


class KeyStore:
    """Raises redis.exceptions.RedisError when Valkey cannot be reached. `clock`: Unix seconds."""

    def __init__(self, redis: Redis, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._pepper = pepper
        self._clock = clock

    async def create(
        self, *, tenant: str, name: str, scopes: frozenset[str], expires_at: int | None = None
    ) -> tuple[KeyRecord, str]:
        """The record and the secret, which can never be read again. Raises ValueError for scopes that do not exist."""
        if unknown := scopes - SCOPES:
            raise ValueError(f"unknown scopes: {', '.join(sorted(unknown))}; known: {', '.join(sorted(SCOPES))}")
        secret = new_secret()
        record = KeyRecord(
            key_id=f"key_{secrets.token_hex(8)}",
            digest=digest_of(secret, self._pepper),
            tenant=tenant,
            name=name,
            scopes=scopes,
            created_at=int(self._clock()),
            expires_at=expires_at,
        )
        await self._write(record)
        return record, secret

    async def list(self) -> KeyRecords:
        """All keys that ever were, oldest first, revoked ones included."""
        stored = await self._redis.hgetall(RECORDS)
        return sorted((_RECORD.decode(one) for one in stored.values()), key=lambda record: record.created_at)

    async def revoke(self, key_id: str) -> bool:
        """End a key everywhere, at once. False when there is no such key, or it was revoked before."""
        digest = await self._redis.hget(IDS, key_id)
        stored = None if digest is None else await self._redis.hget(RECORDS, digest)
        record = None if stored is None else _RECORD.decode(stored)
        if record is None or record.revoked_at is not None:
            return False
        await self._write(msgspec.structs.replace(record, revoked_at=int(self._clock())))
        await self._redis.publish(REVOKED_CHANNEL, record.digest)
        return True

    async def find(self, secret: str) -> KeyRecord | None:
        """The key with this secret, if it can be used now."""
        if not well_formed(secret):
            return None
        return await self.find_digest(self.digest(secret))

    async def find_digest(self, digest: str) -> KeyRecord | None:
        stored = await self._redis.hget(RECORDS, digest)
        record = None if stored is None else _RECORD.decode(stored)
        if record is None or not hmac.compare_digest(record.digest, digest):
            return None
        return record if record.usable(self._clock()) else None

    def digest(self, secret: str) -> str:
        return digest_of(secret, self._pepper)

    async def _write(self, record: KeyRecord) -> None:
        async with self._redis.pipeline(transaction=True) as both:
            both.hset(RECORDS, record.digest, msgspec.json.encode(record))
            both.hset(IDS, record.key_id, record.digest)
            await both.execute()
