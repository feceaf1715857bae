"""Limits as clients meet them: a whole gateway, a fake Triton, a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from gateway.api.keys import LIMITER
from gateway.auth.store import KeyStore
from gateway.auth.tenants import TenantStore
from gateway.config import ConfigError, load
from gateway.core.identity import Limits, Quotas
from tests.fakes.triton import FakeTriton, Script
from tests.support.proxy import FaultyProxy
from tests.unit.gateway.conftest import Gateway, StartGateway

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
# `<user>hi<assistant>`: tokens of the tiny model are bytes.
PROMPT, ANSWER = 19, 3
INFERENCE = frozenset({"inference", "embeddings"})
FIELDS = "at requests tokens day day_tokens day_cost month month_tokens month_cost".split()  # noqa: SIM905 - reads better


@pytest.fixture
async def gateway(start: StartGateway) -> AsyncIterator[Gateway]:
    """Patient with Valkey: a busy machine must not look like an outage."""
    async with start(TRIREME_VALKEY_CALL_TIMEOUT_S="2") as running:
        yield running


async def limited_key(store: KeyStore, **fields: Any) -> dict[str, str]:
    _, secret = await store.create(tenant="acme", name="limited", scopes=INFERENCE, **fields)
    return {"authorization": f"Bearer {secret}"}


async def state(redis: Redis) -> dict[str, int]:
    """Of the only key with limits."""
    (name,) = await redis.keys("trireme:*:key:*:state")
    return {field: int(one) for field, one in zip(FIELDS, (await redis.get(name)).split(), strict=True) if one != b"-"}


async def nothing_held(redis: Redis) -> None:
    async with asyncio.timeout(2):
        while await redis.keys("trireme:*:active") or await redis.keys("trireme:*:reserved"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_an_answer_has_its_headers_and_costs_what_was_used(
    gateway: Gateway, store: KeyStore, redis: Redis
) -> None:
    headers = await limited_key(store, limits=Limits(requests_per_minute=60, tokens_per_minute=6000))
    async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
        assert response.status == 200
        assert response.headers["x-ratelimit-limit-requests"] == "60"
        assert response.headers["x-ratelimit-remaining-requests"] == "59"
        assert response.headers["x-ratelimit-reset-requests"] == "1s"
        assert response.headers["x-ratelimit-remaining-tokens"] == str(6000 - PROMPT - 5)
    await nothing_held(redis)
    assert (await state(redis))["day_tokens"] == PROMPT + ANSWER


async def test_a_stream_has_the_headers_too(gateway: Gateway, store: KeyStore) -> None:
    headers = await limited_key(store, limits=Limits(tokens_per_minute=6000))
    async with gateway.client.post(CHAT, json=BODY | {"stream": True}, headers=headers) as response:
        assert response.headers["x-ratelimit-limit-tokens"] == "6000"
        assert "x-ratelimit-limit-requests" not in response.headers


async def test_over_the_limit_a_client_is_told_when_to_come_back_and_may_then(
    gateway: Gateway, store: KeyStore
) -> None:
    headers = await limited_key(store, limits=Limits(requests_per_minute=600, request_burst=1))
    async with gateway.client.post(CHAT, json=BODY, headers=headers):
        pass
    async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
        wait = int(response.headers["retry-after-ms"])
        assert response.status == 429
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
        assert 0 < wait <= 100
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in response.headers
    await asyncio.sleep(wait / 1000)
    async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("fields", "status", "kind", "code"),
    [
        ({"limits": Limits(tokens_per_minute=20)}, 400, "invalid_request_error", "exceeds_limit"),
        ({"quotas": Quotas(tokens_per_day=40)}, 429, "insufficient_quota", "insufficient_quota"),
    ],
)
async def test_where_waiting_does_not_help_the_client_is_told_so(
    gateway: Gateway, store: KeyStore, fields: dict[str, Any], status: int, *, kind: str, code: str
) -> None:
    headers = await limited_key(store, **fields)
    for _ in range(2):
        async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
            answer = await response.json()
            last = response.status, response.headers.get("x-should-retry")
    assert last == (status, "false")
    assert (answer["error"]["type"], answer["error"]["code"]) == (kind, code)


async def test_keys_of_one_tenant_share_its_limits(gateway: Gateway, store: KeyStore, tenants: TenantStore) -> None:
    await tenants.change("acme", limits=Limits(requests_per_minute=2))
    statuses = []
    for _ in range(3):
        headers = await limited_key(store)
        async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
            statuses.append(response.status)
    assert statuses == [200, 200, 429]


async def test_one_after_the_other_is_never_two_at_once(gateway: Gateway, store: KeyStore) -> None:
    headers = await limited_key(store, limits=Limits(concurrent_requests=1))
    for number in range(60):
        async with gateway.client.post(CHAT, json=BODY | {"stream": number % 2 == 0}, headers=headers) as response:
            assert response.status == 200
            await response.read()


async def test_a_client_that_leaves_gives_its_place_back(
    gateway: Gateway, store: KeyStore, triton: FakeTriton, redis: Redis
) -> None:
    triton.script = Script(hang_at=1)
    headers = await limited_key(store, limits=Limits(concurrent_requests=1))
    async with gateway.client.post(CHAT, json=BODY | {"stream": True}, headers=headers) as response:
        await triton.hanging.wait()
        assert len(await redis.keys("trireme:*:active")) == 1
        response.close()
    await nothing_held(redis)
    assert (await state(redis))["day_tokens"] == PROMPT + 1
    triton.script = Script()
    async with gateway.client.post(CHAT, json=BODY, headers=headers) as again:
        assert again.status == 200


async def test_who_finds_the_queue_full_has_not_made_a_request(
    start: StartGateway, store: KeyStore, triton: FakeTriton, redis: Redis
) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1", TRIREME_MAX_QUEUED="0", TRIREME_VALKEY_CALL_TIMEOUT_S="2") as gateway:
        headers = await limited_key(store, limits=Limits(requests_per_minute=60, tokens_per_minute=6000))
        running = asyncio.create_task(gateway.ask(CHAT, BODY))
        await triton.hanging.wait()
        async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
            assert response.status == 429
            assert (await response.json())["error"]["code"] == "overloaded"
        await nothing_held(redis)
        stored = await state(redis)
        assert (stored["requests"], stored["tokens"], stored["day_tokens"]) == (60 * 60_000, 6000 * 60_000, 0)
        running.cancel()


async def test_embeddings_are_limited_by_their_exact_tokens(gateway: Gateway, store: KeyStore, redis: Redis) -> None:
    headers = await limited_key(store, quotas=Quotas(tokens_per_day=1000))
    body = {"model": "tiny-embed", "input": ["four", "seven.."]}
    async with gateway.client.post("/v1/embeddings", json=body, headers=headers) as response:
        assert response.status == 200
    await nothing_held(redis)
    assert (await state(redis))["day_tokens"] == 11


async def test_a_gateway_without_valkey_is_degraded_and_ready(
    start: StartGateway, store: KeyStore, valkey_url: str
) -> None:
    headers = await limited_key(store, limits=Limits(requests_per_minute=2))
    address = urlsplit(valkey_url)
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as proxy:
        quick = {"TRIREME_VALKEY_CALL_TIMEOUT_S": "0.05", "TRIREME_LIMITS_HEARTBEAT_S": "0.05"}
        async with start(TRIREME_VALKEY_URL=proxy.url, **quick) as gateway:
            statuses = []
            proxy.black_hole = True
            started = time.monotonic()
            for _ in range(3):
                async with gateway.client.post(CHAT, json=BODY, headers=headers) as response:
                    statuses.append(response.status)
            assert statuses == [200, 200, 429]
            assert time.monotonic() - started < 2
            async with gateway.client.get("/health/ready") as response:
                assert response.status == 200
                checks = (await response.json())["checks"]
                assert checks["limits"] == "degraded: Valkey is away, the policy is local"
            proxy.heal()
            proxy.reset()
            await eventually_ok(gateway)


async def eventually_ok(gateway: Gateway) -> None:
    async with asyncio.timeout(5):
        while gateway.app[LIMITER].state != "ok":  # noqa: ASYNC110 - the limiter should not carry events for tests
            await asyncio.sleep(0.01)


async def test_answers_like_those_before_are_expected(gateway: Gateway, store: KeyStore, redis: Redis) -> None:
    """Of 200 tokens allowed; the answers have three."""
    headers = await limited_key(store, limits=Limits(tokens_per_minute=600_000_000))
    left = []
    for _ in range(40):
        async with gateway.client.post(CHAT, json=BODY | {"max_tokens": 200}, headers=headers) as response:
            left.append(int(response.headers["x-ratelimit-remaining-tokens"]))
    assert left[0] == 600_000_000 - PROMPT - 200
    assert left[-1] > 600_000_000 - PROMPT - 200


def test_a_heartbeat_must_come_before_the_lease_ends(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        load({**environment, "TRIREME_LIMITS_HEARTBEAT_S": "20"})
    assert "limits.heartbeat_s" in str(wrong.value)
