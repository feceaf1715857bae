"""API keys: made, changed, rotated and revoked. What is stored is in `gateway.auth.records`, where in `storage`."""

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis

from gateway.auth.records import KeyRecord, OldDigest, changed
from gateway.auth.secret import digest_of, new_secret, well_formed
from gateway.auth.storage import Put, Storage
from gateway.core.identity import (
    NO_LIMITS,
    NO_QUOTAS,
    SCOPES,
    SERVERS_CACHE,
    CachePolicy,
    Limits,
    PriorityClass,
    Quotas,
)
from gateway.errors import Conflict, InvalidRequest, NotFound

KeyRecords = list[KeyRecord]  # KeyStore.list hides the builtin within its class

# How long a secret that is rotated away stays good, unless somebody says otherwise.
DEFAULT_OVERLAP_S: Final = 3600

__all__ = ["DEFAULT_OVERLAP_S", "SCOPES", "KeyRecord", "KeyStore"]


class KeyStore:
    """Raises redis.exceptions.RedisError when Valkey cannot be reached. `clock`: Unix seconds."""

    def __init__(self, redis: Redis, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        self._storage = Storage(redis)
        self._pepper = pepper
        self._clock = clock

    async def create(
        self,
        *,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        models: frozenset[str] | None = None,
        max_priority: PriorityClass = "interactive",
        limits: Limits = NO_LIMITS,
        quotas: Quotas = NO_QUOTAS,
        cache: CachePolicy = SERVERS_CACHE,
        expires_at: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """The record and the secret, which can never be read again.

        Raises InvalidRequest for scopes or a tenant that do not exist, and for a time that has passed.
        """
        now = self._clock()
        check_scopes(scopes)
        check_expiry(expires_at, now)
        secret = new_secret()
        record = KeyRecord(
            key_id=f"key_{secrets.token_hex(8)}",
            revision=1,
            digest=digest_of(secret, self._pepper),
            tenant=tenant,
            name=name,
            scopes=scopes,
            models=models,
            max_priority=max_priority,
            limits=limits,
            quotas=quotas,
            cache=cache,
            created_at=int(now),
            expires_at=expires_at,
        )
        if await self._storage.put_key(record, needs_tenant=True) is Put.NO_TENANT:
            raise InvalidRequest(
                f"there is no tenant {tenant!r}: create it with `trireme tenants create {tenant}` "
                "or POST /admin/v1/tenants",
                param="tenant",
            )
        return record, secret

    async def list(self, tenant: str | None = None) -> KeyRecords:
        """All keys that ever were, oldest first, revoked ones included. `tenant`: its keys only."""
        stored = (await self._storage.read_all()).keys
        chosen = (record for record in stored if tenant in (None, record.tenant))
        return sorted(chosen, key=lambda record: (record.created_at, record.key_id))

    async def get(self, key_id: str) -> KeyRecord:
        """Raises NotFound."""
        record = await self._storage.read_key(key_id)
        if record is None:
            raise NotFound(f"there is no key {key_id!r}: see the list of keys", param="id")
        return record

    async def change(self, key_id: str, **fields: Any) -> KeyRecord:
        """Replace fields of the record. Raises NotFound, Conflict, InvalidRequest."""
        record = changed(await self._living(key_id), **fields)
        check_scopes(record.scopes)
        if "expires_at" in fields:
            check_expiry(record.expires_at, self._clock())
        await self._replace(record)
        return record

    async def rotate(self, key_id: str, overlap_s: int) -> tuple[KeyRecord, str]:
        """A new secret for the same key; the one it has stays good for `overlap_s`. Raises NotFound, Conflict."""
        now = int(self._clock())
        before = await self._living(key_id)
        secret = new_secret()
        ending = [*before.old, OldDigest(before.digest, now + overlap_s)]
        old = tuple(one for one in ending if one.until > now)
        record = changed(before, digest=digest_of(secret, self._pepper), old=old)
        await self._replace(record, before)
        return record, secret

    async def revoke(self, key_id: str) -> KeyRecord:
        """End a key everywhere, at once; one that has been revoked stays as it is. Raises NotFound, Conflict."""
        before = await self.get(key_id)
        if before.revoked_at is not None:
            return before
        record = changed(before, revoked_at=int(self._clock()))
        await self._replace(record)
        return record

    async def find(self, secret: str) -> KeyRecord | None:
        """The key with this secret, if it can be used now."""
        if not well_formed(secret):
            return None
        digest, now = digest_of(secret, self._pepper), self._clock()
        found = await self._storage.find(digest)
        if found is None or found.key.state(now) != "active" or not found.key.takes(digest, now):
            return None
        return found.key

    async def last_used(self) -> dict[str, int]:
        """Key id → Unix seconds, at most some seconds old."""
        return await self._storage.last_used()

    async def last_used_of(self, key_id: str) -> int | None:
        return await self._storage.last_used_of(key_id)

    async def _living(self, key_id: str) -> KeyRecord:
        record = await self.get(key_id)
        if record.revoked_at is not None:
            raise Conflict(f"key {key_id!r} is revoked and stays so: create another one", param="id")
        return record

    async def _replace(self, record: KeyRecord, before: KeyRecord | None = None) -> None:
        drop = [] if before is None else [one for one in before.digests if one not in record.digests]
        if await self._storage.put_key(record, drop=drop) is not Put.DONE:
            raise Conflict(f"key {record.key_id!r} was changed by somebody else at the same time: try again")


def check_scopes(scopes: frozenset[str]) -> None:
    """Raises InvalidRequest."""
    if unknown := scopes - SCOPES:
        raise InvalidRequest(
            f"unknown scopes: {', '.join(sorted(unknown))}; known: {', '.join(sorted(SCOPES))}", param="scopes"
        )
    if not scopes:
        raise InvalidRequest(f"a key needs at least one scope of: {', '.join(sorted(SCOPES))}", param="scopes")


def check_expiry(expires_at: int | None, now: float) -> None:
    """Raises InvalidRequest."""
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("expires_at has passed already: choose a later time, or none", param="expires_at")
