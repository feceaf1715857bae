"""Keys in a real Valkey."""

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.auth.secret import new_secret, well_formed
from gateway.auth.store import RECORDS, REVOKED_CHANNEL, KeyStore
from tests.unit.gateway.conftest import PEPPER

SCOPES = frozenset({"inference"})


async def test_a_new_key_is_found_by_its_secret(store: KeyStore) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    assert secret.startswith("trk_")
    assert await store.find(secret) == record
    assert (record.tenant, record.name, record.scopes) == ("acme", "web", SCOPES)


async def test_the_secret_is_not_in_the_store(store: KeyStore, redis: Redis) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    everything = str([await redis.hgetall(key) for key in await redis.keys("*")])
    assert secret not in everything
    assert secret[4:20] not in everything


async def test_another_pepper_finds_nothing(store: KeyStore, redis: Redis) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    assert await KeyStore(redis, PEPPER[::-1]).find(secret) is None


async def test_a_revoked_key_is_listed_and_not_found(store: KeyStore) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    assert await store.revoke(record.key_id) is True
    assert await store.revoke(record.key_id) is False
    assert await store.revoke("key_none") is False
    assert await store.find(secret) is None
    (listed,) = await store.list()
    assert listed.revoked_at is not None


async def test_a_revocation_is_announced(store: KeyStore, redis: Redis) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    async with redis.pubsub(ignore_subscribe_messages=True) as channel, asyncio.timeout(2):
        await channel.subscribe(REVOKED_CHANNEL)
        await store.revoke(record.key_id)
        message = None
        while message is None:
            message = await channel.get_message(timeout=1)
    assert message["data"].decode() == record.digest


async def test_an_expired_key_is_not_found(redis: Redis) -> None:
    now = 1000.0
    store = KeyStore(redis, PEPPER, clock=lambda: now)
    _, secret = await store.create(tenant="acme", name="web", scopes=SCOPES, expires_at=1001)
    assert await store.find(secret) is not None
    now = 1001.0
    assert await store.find(secret) is None


async def test_keys_are_listed_oldest_first(redis: Redis) -> None:
    now = iter([30.0, 10.0, 20.0])
    store = KeyStore(redis, PEPPER, clock=lambda: next(now))
    for name in ("c", "a", "b"):
        await store.create(tenant="acme", name=name, scopes=SCOPES)
    assert [record.name for record in await store.list()] == ["a", "b", "c"]


async def test_a_scope_that_does_not_exist_is_refused(store: KeyStore, redis: Redis) -> None:
    with pytest.raises(ValueError, match="inferrence"):
        await store.create(tenant="acme", name="web", scopes=frozenset({"inferrence"}))
    assert await redis.exists(RECORDS) == 0


def test_typing_errors_are_noticed_without_asking_anybody() -> None:
    secret = new_secret()
    assert well_formed(secret)
    swapped = secret[:10] + secret[11] + secret[10] + secret[12:]
    assert swapped == secret or not well_formed(swapped)
    for wrong in ("", "trk_", secret[:-1], secret + "0", "sk-" + secret[3:], secret[:-1] + "é", secret.swapcase()):
        assert not well_formed(wrong)


def test_secrets_are_never_the_same() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
