"""Keeps the snapshot as new as Valkey, tells Valkey what it has lost, and writes down when keys were used."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import CHANGED_CHANNEL, KEY_CHANGED, TENANT_CHANGED, Storage, Stored, valkey_faults

log = logging.getLogger(__name__)

# Reading all keys may take longer than one answer may.
RELOAD_PATIENCE = 10


class Follower:
    """`synced`: 1 while changes arrive. `restored`: counts records that were written back.

    `used`: gives, and forgets, the times of last use since it was asked before (key id → Unix seconds).
    `timeout_s`: for one answer of Valkey.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        storage: Storage,
        *,
        synced: Gauge,
        restored: Counter,
        used: Callable[[], dict[str, int]],
        timeout_s: float = 0.5,
    ) -> None:
        self._snapshot = snapshot
        self._storage = storage
        self._synced = synced
        self._restored = restored
        self._used = used
        self._timeout_s = timeout_s
        self._version: bytes | str | None = None

    async def follow(self, redis: Redis, refresh_s: float) -> None:
        """Hear of changes and look for others each `refresh_s`, until Valkey is away. Raises KeysUnavailable."""
        self._version = None
        try:
            with valkey_faults():
                async with redis.pubsub(ignore_subscribe_messages=True) as channel:
                    async with asyncio.timeout(self._timeout_s):
                        await channel.subscribe(CHANGED_CHANNEL)
                    while True:
                        async with asyncio.timeout(self._timeout_s * RELOAD_PATIENCE):
                            await self._reload()
                        self._synced.set(1)
                        await self._hear(channel, time.monotonic() + refresh_s)
        finally:
            self._synced.set(0)

    async def _hear(self, channel: PubSub, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            message = await channel.get_message(timeout=left)
            if message is not None:
                async with asyncio.timeout(self._timeout_s):
                    await self._read(message)

    async def _read(self, message: Any) -> None:
        """What a message names, again."""
        name = message["data"].decode()
        if name.startswith(KEY_CHANGED):
            key = await self._storage.read_key(name.removeprefix(KEY_CHANGED))
            if key is not None:
                self._snapshot.put_key(key)
        elif name.startswith(TENANT_CHANGED):
            tenant = await self._storage.read_tenant(name.removeprefix(TENANT_CHANGED))
            if tenant is not None:
                self._snapshot.put_tenant(tenant)

    async def _reload(self) -> None:
        version = await self._storage.version()
        if version is None or version != self._version:
            await self._read_all()
            self._version = version
        if used := self._used():
            await self._storage.put_last_used(used)

    async def _read_all(self) -> None:
        """Thousands of keys take a while, so only when there is something new, or nothing at all."""
        lost = self._snapshot.merge(await self._storage.read_all())
        self._snapshot.loaded.set()
        if lost.keys or lost.tenants:
            await self._restore(lost)

    async def _restore(self, lost: Stored) -> None:
        """Other gateways do the same at the same time: the script takes each record once."""
        log.warning(
            "Valkey has lost or older records of %d keys and %d tenants: writing them back",
            len(lost.keys),
            len(lost.tenants),
        )
        for tenant in lost.tenants:
            await self._storage.put_tenant(tenant)
        for key in lost.keys:
            await self._storage.put_key(key)
        self._restored.inc(len(lost.keys) + len(lost.tenants))
