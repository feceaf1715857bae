"""Tenants in a real Valkey."""

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.core.identity import Limits
from gateway.errors import Conflict, InvalidRequest, NotFound

SCOPES = frozenset({"inference"})


async def test_a_tenant_is_made_once(tenants: TenantStore) -> None:
    made = await tenants.create("beta", name="Beta", limits=Limits(requests_per_minute=2), weight=2.0)
    assert await tenants.get("beta") == made
    with pytest.raises(Conflict):
        await tenants.create("beta")
    assert [one.id for one in await tenants.list()] == ["acme", "beta"]
    assert await tenants.ensure("beta") == made
    assert (await tenants.ensure("gamma")).id == "gamma"


async def test_of_two_who_make_the_same_tenant_one_is_told(redis: Redis, tenants: TenantStore) -> None:
    outcomes = await asyncio.gather(*(TenantStore(redis).create("beta") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in outcomes) == 4


@pytest.mark.parametrize("tenant", ["", "a b", "a{b}", "ä", "a:b", "a\n", "x" * 65])
async def test_an_id_that_no_tenant_can_have(tenants: TenantStore, tenant: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await tenants.create(tenant)
    assert raised.value.param == "id"


async def test_a_change_leaves_the_rest_as_it_is(tenants: TenantStore) -> None:
    await tenants.create("beta", name="Beta", limits=Limits(requests_per_minute=2))
    changed = await tenants.change("beta", name="Better")
    assert (changed.name, changed.limits) == ("Better", Limits(requests_per_minute=2))
    with pytest.raises(NotFound):
        await tenants.change("nobody", name="x")


async def test_a_tenant_with_keys_that_work_is_deleted_only_by_force(store: KeyStore, tenants: TenantStore) -> None:
    await tenants.create("other")
    mine, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    _, others = await store.create(tenant="other", name="web", scopes=SCOPES)
    with pytest.raises(Conflict, match="1 keys"):
        await tenants.delete("acme")
    assert await store.find(secret) is not None
    await tenants.delete("acme", force=True)
    assert await store.find(secret) is None
    assert (await store.get(mine.key_id)).revoked_at is not None
    assert await store.find(others) is not None
    with pytest.raises(NotFound):
        await tenants.get("acme")
    with pytest.raises(NotFound):
        await tenants.delete("acme")


async def test_a_tenant_without_keys_that_work_is_deleted(store: KeyStore, tenants: TenantStore) -> None:
    record, _ = await store.create(tenant="acme", name="web", scopes=SCOPES)
    await store.revoke(record.key_id)
    deleted = await tenants.delete("acme")
    assert deleted.deleted_at is not None
    assert await tenants.list() == []


async def test_a_deleted_tenant_can_be_made_anew_and_its_old_keys_stay_dead(
    store: KeyStore, tenants: TenantStore
) -> None:
    _, secret = await store.create(tenant="acme", name="web", scopes=SCOPES)
    deleted = await tenants.delete("acme", force=True)
    anew = await tenants.create("acme", name="Again")
    assert anew.revision > deleted.revision
    assert await tenants.get("acme") == anew
    assert await store.find(secret) is None
