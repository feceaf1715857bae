"""Limits through a real gateway under load: clients that vanish at any moment leave nothing behind."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from gateway.auth.tenants import TenantStore
from gateway.core.identity import Limits, Quotas
from tests.support.gateway import Asker, GatewayClient, wait_until
from tests.support.triton import DirectTriton
from trireme.keys import key_store, valkey
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration
CLIENTS, ROUNDS = 24, 6
LIMITS = Limits(requests_per_minute=100_000, tokens_per_minute=10_000_000, concurrent_requests=CLIENTS)
QUOTAS = Quotas(tokens_per_day=100_000_000)


@pytest.fixture
def redis(stack: EmbeddedStack) -> Iterator[Redis]:
    with Redis.from_url(stack.valkey_url) as client:
        yield client


async def limited(stack: EmbeddedStack, limits: Limits, quotas: Quotas) -> GatewayClient:
    """A client whose key has limits."""
    async with valkey(stack.settings) as redis:
        await TenantStore(redis).ensure("chaos")
    async with key_store(stack.settings) as store:
        _, secret = await store.create(
            tenant="chaos", name="chaos", scopes=frozenset({"inference"}), limits=limits, quotas=quotas
        )
    client = GatewayClient(stack, secret)
    wait_until(lambda: client.get("/v1/models").status_code == httpx.codes.OK, "the gateway knows the key", 10.0)
    return client


def held(redis: Redis) -> int:
    """Leases and reservations anywhere."""
    return sum(redis.zcard(name) for name in redis.scan_iter("trireme:*:limits:*:active")) + sum(
        redis.hlen(name) for name in redis.scan_iter("trireme:*:limits:*:reserved")
    )


def vanishing(client: GatewayClient, number: int) -> None:
    """Ask again and again, and be gone somewhere between the first byte sent and the last one read."""
    chance = random.Random(number)
    for _ in range(ROUNDS):
        asker: Asker = client.ask(max_tokens=200, stream=chance.random() < 0.5, script={"delay_ms": 5})
        time.sleep(chance.random() * 0.25)
        asker.leave()


async def test_clients_that_vanish_at_any_moment_leave_nothing_behind(stack: EmbeddedStack, redis: Redis) -> None:
    client = await limited(stack, LIMITS, QUOTAS)
    direct = DirectTriton(stack.triton_url)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(vanishing, client, number) for number in range(CLIENTS)]
        wait_until(lambda: held(redis) >= CLIENTS // 4, "several requests hold a lease and a reservation each", 20.0)
        for one in clients:
            one.result()
    wait_until(lambda: direct.control(control="stats")["in_flight"] == 0, "the engine is free", 10.0)
    wait_until(lambda: held(redis) == 0, "nothing is reserved", 10.0)
    direct.close()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: client.chat(max_tokens=2).status_code, range(CLIENTS)))
    assert set(answers) == {httpx.codes.OK}
    wait_until(lambda: held(redis) == 0, "nothing is reserved", 10.0)


async def test_one_request_after_the_other_is_never_two_at_once(stack: EmbeddedStack) -> None:
    client = await limited(stack, Limits(concurrent_requests=1), Quotas())
    answers = [client.chat(max_tokens=2, stream=number % 2 == 0) for number in range(40)]
    assert {answer.status_code for answer in answers} == {httpx.codes.OK}
