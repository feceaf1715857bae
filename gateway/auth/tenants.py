"""Tenants: who pays, and whose limits count."""

import re
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from gateway.auth.records import TENANT_ID, KeyRecord, TenantRecord, changed
from gateway.auth.storage import Put, Storage
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE, CachePolicy, Limits, Quotas
from gateway.errors import Conflict, InvalidRequest, NotFound

TenantRecords = list[TenantRecord]  # TenantStore.list hides the builtin within its class
KeyRecords = list[KeyRecord]


class TenantStore:
    """Raises redis.exceptions.RedisError when Valkey cannot be reached. `clock`: Unix seconds."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.time) -> None:
        self._storage = Storage(redis)
        self._clock = clock

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        limits: Limits = NO_LIMITS,
        quotas: Quotas = NO_QUOTAS,
        weight: float = 1.0,
        cache: CachePolicy = SERVERS_CACHE,
    ) -> TenantRecord:
        """Raises Conflict when it exists, InvalidRequest for an id that no tenant can have."""
        check_id(tenant)
        before = await self._storage.read_tenant(tenant)
        if before is not None and before.deleted_at is None:
            raise _exists(tenant)
        record = TenantRecord(
            id=tenant,
            revision=1 if before is None else before.revision + 1,
            created_at=int(self._clock()),
            name=name,
            limits=limits,
            quotas=quotas,
            weight=weight,
            cache=cache,
        )
        if await self._storage.put_tenant(record) is not Put.DONE:
            raise _exists(tenant)
        return record

    async def ensure(self, tenant: str, name: str = "") -> TenantRecord:
        """The tenant, made if it does not exist."""
        before = await self._storage.read_tenant(tenant)
        return before if before is not None and before.deleted_at is None else await self.create(tenant, name=name)

    async def list(self) -> TenantRecords:
        """By id; deleted ones are left out."""
        stored = (await self._storage.read_all()).tenants
        return sorted((one for one in stored if one.deleted_at is None), key=lambda record: record.id)

    async def get(self, tenant: str) -> TenantRecord:
        """Raises NotFound."""
        record = await self._storage.read_tenant(tenant)
        if record is None or record.deleted_at is not None:
            raise NotFound(f"there is no tenant {tenant!r}: create it first, or see the list of tenants", param="id")
        return record

    async def change(self, tenant: str, **fields: Any) -> TenantRecord:
        """Replace fields of the record. Raises NotFound, Conflict."""
        record = changed(await self.get(tenant), **fields)
        if await self._storage.put_tenant(record) is not Put.DONE:
            raise Conflict(f"tenant {tenant!r} was changed by somebody else at the same time: try again")
        return record

    async def delete(self, tenant: str, *, force: bool = False) -> TenantRecord:
        """Raises NotFound, and Conflict when it has keys that work, unless `force`, which revokes them."""
        await self.get(tenant)
        live = [key for key in await self._live_keys() if key.tenant == tenant]
        if live and not force:
            raise Conflict(
                f"tenant {tenant!r} has {len(live)} keys that are not revoked: revoke them first, "
                "or delete it with force, which does that",
            )
        now = int(self._clock())
        record = await self.change(tenant, deleted_at=now)
        # From here on it gets no new keys; one may have come since the list was read.
        for key in await self._live_keys():
            if key.tenant == tenant:
                await self._storage.put_key(changed(key, revoked_at=now))
        return record

    async def _live_keys(self) -> KeyRecords:
        return [key for key in (await self._storage.read_all()).keys if key.revoked_at is None]


def check_id(tenant: str, param: str = "id") -> None:
    """Raises InvalidRequest."""
    if not re.match(TENANT_ID, tenant):
        raise InvalidRequest(f"{tenant!r} is no tenant id: up to 64 of A-Z a-z 0-9 . _ -", param=param)


def _exists(tenant: str) -> Conflict:
    return Conflict(f"tenant {tenant!r} exists already: change it, or choose another id", param="id")
