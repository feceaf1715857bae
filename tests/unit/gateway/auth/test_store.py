"""Keys in a real Valkey."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.auth.secret import digest_of, new_secret, well_formed
from gateway.auth.storage import CHANGED_CHANNEL, DIGESTS, RECORDS, Put, Storage
from gateway.auth.store import KeyRecord, KeyStore
from gateway.auth.tenants import TenantStore
from gateway.core.identity import Limits, Quotas
from gateway.errors import Conflict, InvalidRequest, NotFound
from tests.unit.gateway.conftest import PEPPER

SCOPES = frozenset({"inference"})


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def timed(redis: Redis, tenants: TenantStore, clock: Clock) -> KeyStore:
    """A store by that clock."""
    return KeyStore(redis, PEPPER, clock)


async def test_a_new_key_is_found_by_its_secret(store: KeyStore) -> None:
    record, secret = await store.create(
        tenant="acme",
        name="web",
        scopes=SCOPES,
        models=frozenset({"tiny"}),
        max_priority="standard",
        limits=Limits(requests_per_minute=3),
        quotas=Quotas(tokens_per_day=5),
    )
    assert secret.startswith("trk_")
    assert await store.find(secret) == record == await store.get(record.key_id)
    assert (record.tenant, record.name, record.scopes, record.models) == ("acme", "web", SCOPES, {"tiny"})
    assert (record.max_priority, record.limits.requests_per_minute, record.quotas.tokens_per_day) == ("standard", 3, 5)


async def test_the_secret_is_not_in_the_store(store: KeyStore, redis: Redis) -> None:
    record, first = await store.create(tenant="acme", name="web", scopes=SCOPES)
    _, second = await store.rotate(record.key_id, 60)
    hashes = [key for key in await redis.keys("*") if await redis.type(key) == b"hash"]
    everything = str([await redis.hgetall(key) for key in hashes])
    assert record.key_id in everything
    for secret in (first, second):
        assert secret not in everything
        assert secret[4:20] not in everything


async def test_another_pepper_finds_nothing(store: KeyStore, redis: Redis) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    assert await KeyStore(redis, PEPPER[::-1]).find(secret) is None


async def test_a_key_needs_a_tenant_that_exists(store: KeyStore, tenants: TenantStore, redis: Redis) -> None:
    with pytest.raises(InvalidRequest, match="trireme tenants create nobody") as raised:
        await store.create(tenant="nobody", name="web", scopes=SCOPES)
    assert raised.value.param == "tenant"
    await tenants.delete("acme")
    with pytest.raises(InvalidRequest, match="acme"):
        await store.create(tenant="acme", name="web", scopes=SCOPES)
    assert await redis.exists(RECORDS, DIGESTS) == 0


async def test_a_revoked_key_is_listed_and_not_found(store: KeyStore) -> None:
    record, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    revoked = await store.revoke(record.key_id)
    assert revoked.revoked_at is not None
    assert await store.revoke(record.key_id) == revoked
    assert await store.find(secret) is None
    assert await store.list() == [revoked]
    with pytest.raises(NotFound):
        await store.revoke("key_none")


async def test_a_revoked_key_stays_as_it_is(store: KeyStore) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    revoked = await store.revoke(record.key_id)
    with pytest.raises(Conflict):
        await store.rotate(record.key_id, 0)
    with pytest.raises(Conflict):
        await store.change(record.key_id, name="again")
    assert await store.get(record.key_id) == revoked


async def test_every_change_is_announced(store: KeyStore, tenants: TenantStore, redis: Redis) -> None:
    async with redis.pubsub(ignore_subscribe_messages=True) as channel, asyncio.timeout(2):
        await channel.subscribe(CHANGED_CHANNEL)
        record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
        await store.change(record.key_id, name="renamed")
        await store.rotate(record.key_id, 0)
        await store.revoke(record.key_id)
        await tenants.change("acme", name="Acme")
        heard: list[str] = []
        while len(heard) < 5:
            message = await channel.get_message(timeout=1)
            if message is not None:
                heard.append(message["data"].decode())
    assert heard == [f"key:{record.key_id}"] * 4 + ["tenant:acme"]


async def test_an_expired_key_is_not_found(timed: KeyStore, clock: Clock) -> None:
    _, secret = await timed.create(tenant="acme", name="web", scopes=SCOPES, expires_at=1_000_001)
    assert await timed.find(secret) is not None
    clock.now += 1
    assert await timed.find(secret) is None


async def test_a_key_cannot_expire_in_the_past(timed: KeyStore) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await timed.create(tenant="acme", name="web", scopes=SCOPES, expires_at=1_000_000)
    assert raised.value.param == "expires_at"
    record, _ = await timed.create(tenant="acme", name="web", scopes=SCOPES)
    with pytest.raises(InvalidRequest):
        await timed.change(record.key_id, expires_at=999_999)


async def test_both_secrets_are_good_while_a_rotation_overlaps(timed: KeyStore, clock: Clock) -> None:
    record, first = await timed.create(tenant="acme", name="web", scopes=SCOPES)
    rotated, second = await timed.rotate(record.key_id, 60)
    assert rotated.key_id == record.key_id
    assert await timed.find(first) == await timed.find(second) == rotated
    clock.now += 60
    assert await timed.find(first) is None
    assert await timed.find(second) == rotated


async def test_a_rotation_without_overlap_ends_the_old_secret_at_once(timed: KeyStore, redis: Redis) -> None:
    record, first = await timed.create(tenant="acme", name="web", scopes=SCOPES)
    _, second = await timed.rotate(record.key_id, 0)
    assert await timed.find(first) is None
    assert await timed.find(second) is not None
    assert list(await redis.hgetall(DIGESTS)) == [digest_of(second, PEPPER).encode()]


async def test_secrets_of_several_rotations_end_each_at_its_time(timed: KeyStore, clock: Clock) -> None:
    record, first = await timed.create(tenant="acme", name="web", scopes=SCOPES)
    _, second = await timed.rotate(record.key_id, 100)
    clock.now += 50
    _, third = await timed.rotate(record.key_id, 10)
    assert [await timed.find(one) is not None for one in (first, second, third)] == [True, True, True]
    clock.now += 10
    assert [await timed.find(one) is not None for one in (first, second, third)] == [True, False, True]
    clock.now += 40
    assert [await timed.find(one) is not None for one in (first, second, third)] == [False, False, True]


async def test_no_change_is_lost_to_another_at_the_same_time(store: KeyStore, redis: Redis) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    changes = [KeyStore(redis, PEPPER).change(record.key_id, name=f"n{number}") for number in range(20)]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    done = [one for one in outcomes if isinstance(one, KeyRecord)]
    assert all(isinstance(one, KeyRecord | Conflict) for one in outcomes)
    assert [one.revision for one in sorted(done, key=lambda one: one.revision)] == list(range(2, len(done) + 2))
    assert await store.get(record.key_id) == max(done, key=lambda one: one.revision)


async def test_an_older_record_never_replaces_a_newer_one(store: KeyStore, redis: Redis) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    revoked = await store.revoke(record.key_id)
    assert await Storage(redis).put_key(record) is Put.OLDER
    assert await store.get(record.key_id) == revoked


async def test_keys_are_listed_oldest_first_and_by_tenant(timed: KeyStore, tenants: TenantStore, clock: Clock) -> None:
    await tenants.create("other")
    for created, name, tenant in ((30, "c", "acme"), (10, "a", "other"), (20, "b", "acme")):
        clock.now = created
        await timed.create(tenant=tenant, name=name, scopes=SCOPES)
    assert [record.name for record in await timed.list()] == ["a", "b", "c"]
    assert [record.name for record in await timed.list("acme")] == ["b", "c"]


async def test_what_makes_no_sense_is_left_out_and_told_once(
    store: KeyStore, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    await redis.hset(RECORDS, "key_broken", "{}")
    storage = Storage(redis)
    for _ in range(3):
        assert [key.key_id for key in (await storage.read_all()).keys] == [record.key_id]
    (line,) = [one.getMessage() for one in caplog.records]
    assert "key_broken" in line


@pytest.mark.parametrize("scopes", [frozenset({"inferrence"}), frozenset[str]()])
async def test_scopes_that_do_not_exist_are_refused(store: KeyStore, redis: Redis, scopes: frozenset[str]) -> None:
    with pytest.raises(InvalidRequest, match="inference") as raised:
        await store.create(tenant="acme", name="web", scopes=scopes)
    assert raised.value.param == "scopes"
    assert await redis.exists(RECORDS) == 0


async def test_times_of_use_are_kept(store: KeyStore, redis: Redis) -> None:
    await Storage(redis).put_last_used({"key_a": 5, "key_b": 7})
    assert await store.last_used() == {"key_a": 5, "key_b": 7}
    assert (await store.last_used_of("key_b"), await store.last_used_of("key_c")) == (7, None)


@given(st.integers(min_value=0, max_value=52), st.characters(codec="utf-8"))
def test_a_typing_error_is_noticed_without_asking_anybody(place: int, typed: str) -> None:
    """One wrong character: CRC-32 finds all of them."""
    secret = new_secret()
    assert well_formed(secret)
    mistyped = secret[:place] + typed + secret[place + 1 :]
    assert mistyped == secret or not well_formed(mistyped)


@given(st.text(max_size=80))
def test_nothing_else_is_a_key(text: str) -> None:
    assert not well_formed(text)


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s + "0", lambda s: "sk-" + s[3:], str.swapcase])
def test_what_only_resembles_a_key_is_none(change: object) -> None:
    assert callable(change)
    assert not well_formed(change(new_secret()))


def test_secrets_are_never_the_same() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
