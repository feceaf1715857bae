"""Reserve, run, settle, with a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from gateway.core.call import Call
from gateway.core.identity import Limits, Quotas
from gateway.errors import (
    BackendFailed,
    ExceedsLimit,
    GatewayError,
    Overloaded,
    QueueTimeout,
    QuotaExceeded,
    RateLimited,
    ShuttingDown,
)
from gateway.limits.scripts import LIFETIME_S
from gateway.valkey.connection import ScriptCall
from tests.unit.gateway.limits.limiting import Limiting, answered, call, eventually, limiting


@pytest.fixture
async def one(valkey_url: str) -> AsyncIterator[Limiting]:
    async with limiting(valkey_url) as running:
        await running.redis.flushdb()
        yield running


async def test_what_was_used_is_charged_and_nothing_stays_reserved(one: Limiting) -> None:
    asked = call(limits=Limits(tokens_per_minute=600_000), quotas=Quotas(tokens_per_day=1_000_000, cost_per_day=1.0))
    async with one.limiter.hold(asked):
        assert list((await one.reserved()).values()) == [{asked.uid.encode(): await held(one, asked)}]
        answered(asked, 5)
    await eventually(one.quiet, "everything is settled")
    state = await one.state("key:key_1")
    assert (state["day_tokens"], state["day_cost"]) == (15, 20)


async def held(one: Limiting, asked: Call) -> bytes:
    """What a reservation must look like: expected tokens and price, and the periods that the state is in."""
    state = await one.state("key:key_1")
    return b"%d %d %d %d" % (asked.cost, asked.prompt_cost + 2 * 20, state["day"], state["month"])


async def test_calls_without_limits_do_not_go_to_valkey(one: Limiting) -> None:
    before = (await one.redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    asked = call()
    async with one.limiter.hold(asked):
        pass
    assert (await one.redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0) == before
    assert asked.headers == {}
    assert await one.redis.keys("*") == []


async def test_headers_are_on_answers_and_on_refusals(one: Limiting) -> None:
    limits = Limits(requests_per_minute=60, request_burst=1, tokens_per_minute=6000)
    first, second = call(limits=limits), call(limits=limits)
    async with one.limiter.hold(first):
        answered(first, 20)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert first.headers["x-ratelimit-reset-requests"] == "1s"
    assert first.headers["x-ratelimit-remaining-tokens"] == "5970"
    with pytest.raises(RateLimited) as refused:
        async with one.limiter.hold(second):
            pass
    assert 0 < (refused.value.retry_after or 0) <= 1
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert one.metric("trireme_limits_refused_total", limit="requests_per_minute", scope="key") == 1
    assert one.metric("trireme_limits_reserve_seconds_count") == 2


async def test_a_client_that_asks_again_after_its_answer_is_never_one_too_many(one: Limiting) -> None:
    limits = Limits(concurrent_requests=1)
    for _ in range(200):
        asked = call(limits=limits)
        async with one.limiter.hold(asked):
            answered(asked, 1)
    await eventually(one.quiet, "everything is settled")


async def test_not_even_when_nothing_of_what_was_posted_arrives(valkey_url: str) -> None:
    """The next request takes along what is not confirmed."""
    async with limiting(valkey_url, sending=False) as one:
        await one.redis.flushdb()
        for key in ("key_1", "key_2") * 20:
            asked = call(limits=Limits(concurrent_requests=1), tenant_limits=Limits(concurrent_requests=1), key=key)
            async with one.limiter.hold(asked):
                answered(asked, 1)
        assert await one.active() == 2


async def test_a_second_request_in_parallel_is_one_too_many(one: Limiting) -> None:
    limits = Limits(concurrent_requests=1)
    async with one.limiter.hold(call(limits=limits)):
        with pytest.raises(RateLimited) as refused:
            async with one.limiter.hold(call(limits=limits)):
                pass
    assert (refused.value.code, refused.value.retry_after) == ("concurrency_limit_exceeded", 1.0)


@pytest.mark.parametrize(
    ("error", "refunded"),
    [
        (Overloaded("busy"), True),
        (QueueTimeout("late"), True),
        (ShuttingDown("bye"), True),
        (BackendFailed("broken"), False),
        (asyncio.CancelledError(), False),
    ],
)
async def test_who_is_refused_later_has_not_made_a_request(
    one: Limiting, error: BaseException, *, refunded: bool
) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=60_000)
    with pytest.raises(type(error)):
        async with one.limiter.hold(call(limits=limits)):
            raise error
    again = call(limits=limits)
    if refunded:
        async with one.limiter.hold(again):
            assert again.headers["x-ratelimit-remaining-tokens"] == "59970"
    else:
        with pytest.raises(RateLimited):
            async with one.limiter.hold(again):
                pass


@pytest.mark.parametrize("error", [asyncio.CancelledError(), BackendFailed("broken"), Overloaded("engine busy")])
async def test_an_answer_that_ended_early_costs_its_prompt_and_the_tokens_that_came(
    one: Limiting, error: BaseException
) -> None:
    asked = call(quotas=Quotas(tokens_per_day=1000), prompt=10, answer=200)
    with pytest.raises(type(error)):
        async with one.limiter.hold(asked):
            answered(asked, 7)
            raise error
    await eventually(one.quiet, "everything is settled")
    assert (await one.state("key:key_1"))["day_tokens"] == 17


async def test_an_answer_of_which_no_token_came_costs_none(one: Limiting) -> None:
    with pytest.raises(asyncio.CancelledError):
        async with one.limiter.hold(call(quotas=Quotas(tokens_per_day=1000))):
            raise asyncio.CancelledError
    await eventually(one.quiet, "everything is settled")
    assert (await one.state("key:key_1"))["day_tokens"] == 0


@pytest.mark.parametrize(
    ("quotas", "error"),
    [
        (Quotas(tokens_per_day=29), ExceedsLimit),
        (Quotas(tokens_per_day=59), QuotaExceeded),
        (Quotas(cost_per_month=99e-9), QuotaExceeded),
    ],
)
async def test_quotas_of_tokens_and_of_money(one: Limiting, quotas: Quotas, error: type[GatewayError]) -> None:
    """A call is expected to take 30 tokens, for 50 · 10⁻⁹."""
    with pytest.raises(error):
        async with one.limiter.hold(call(quotas=quotas)), one.limiter.hold(call(quotas=quotas)):
            pass


async def test_parallel_calls_cannot_slip_past_a_limit_that_is_charged_after_the_answer(one: Limiting) -> None:
    """Those who were let in stay until all have been told."""
    limits, told, everybody = Limits(tokens_per_minute=100), list[bool](), asyncio.Event()

    def tell(*, granted: bool) -> None:
        told.append(granted)
        if len(told) == 50:
            everybody.set()

    async def ask() -> None:
        try:
            async with one.limiter.hold(call(limits=limits, prompt=10, answer=20)):
                tell(granted=True)
                await everybody.wait()
        except RateLimited:
            tell(granted=False)

    await asyncio.gather(*(ask() for _ in range(50)))
    assert sum(told) == 3


async def test_only_whole_answers_are_learned_from(one: Limiting) -> None:
    whole = call()
    whole.answers = 3
    async with one.limiter.hold(whole):
        answered(whole, 30)
    with pytest.raises(BackendFailed):
        async with one.limiter.hold(call()):
            raise BackendFailed("broken")
    embedding = call()
    embedding.answers = 0
    async with one.limiter.hold(embedding):
        embedding.usage.add(10, 0, 0)
    scored = call()
    async with one.limiter.hold(scored):
        scored.usage.add(10, 0, 0)
    assert one.learned == [("acme", "tiny", 10)]


async def test_a_heartbeat_keeps_what_runs_and_without_it_the_place_is_free(valkey_url: str) -> None:
    async with limiting(valkey_url, lease_ttl_s=0.15, heartbeat_s=0.05) as one:
        await one.redis.flushdb()
        limits = Limits(concurrent_requests=1)
        async with one.limiter.hold(call(limits=limits)):
            for _ in range(6):
                await one.limiter.heartbeat()
            with pytest.raises(RateLimited):
                async with one.limiter.hold(call(limits=limits)):
                    pass
            await asyncio.sleep(0.2)
            async with one.limiter.hold(call(limits=limits)):
                pass


async def test_many_leases_are_prolonged_in_one_round_trip(one: Limiting) -> None:
    async def hold(entered: asyncio.Semaphore, leave: asyncio.Event) -> None:
        async with one.limiter.hold(call(limits=Limits(concurrent_requests=10_000))):
            entered.release()
            await leave.wait()

    entered, leave = asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(700):
            group.create_task(hold(entered, leave))
            await entered.acquire()
        name = "trireme:{t:acme}:limits:key:key_1:active"
        await one.limiter.beat()
        before = {score for _, score in await one.redis.zrange(name, 0, -1, withscores=True)}
        await asyncio.sleep(0.01)
        calls = await one.redis.info("commandstats")
        await one.limiter.beat()
        after = await one.redis.info("commandstats")
        ends = {score for _, score in await one.redis.zrange(name, 0, -1, withscores=True)}
        assert min(ends) > max(before)
        assert after["cmdstat_evalsha"]["calls"] - calls["cmdstat_evalsha"]["calls"] == 2
        leave.set()


async def test_everything_in_valkey_ends_by_itself(one: Limiting) -> None:
    limits, quotas = Limits(requests_per_minute=5), Quotas(tokens_per_month=10_000)
    async with one.limiter.hold(call(limits=limits, quotas=quotas, tenant_limits=limits)):
        names = await one.redis.keys("trireme:*")
        assert len(names) == 6
        assert all([0 < await one.redis.ttl(name) <= LIFETIME_S for name in names])


async def test_a_cancelled_reservation_leaves_nothing(one: Limiting) -> None:
    """Cancelled at every moment of the wait for Valkey."""
    limits = Limits(concurrent_requests=1, tokens_per_minute=1000)

    async def ask() -> None:
        async with one.limiter.hold(call(limits=limits)):
            await asyncio.Event().wait()

    for number in range(40):
        task = asyncio.create_task(ask())
        await asyncio.sleep(number * 0.0001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await eventually(one.quiet, "everything is settled")


async def test_a_script_that_the_server_forgot_is_loaded_again(one: Limiting) -> None:
    limits = Limits(concurrent_requests=1)
    await one.redis.script_flush()
    async with one.limiter.hold(call(limits=limits)):
        await one.redis.script_flush()
    await eventually(one.quiet, "everything is settled")


async def test_all_keys_of_a_call_lie_in_one_slot(one: Limiting, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[ScriptCall] = []
    run = one.valkey.run

    async def watched(script_call: ScriptCall) -> object:
        sent.append(script_call)
        return await run(script_call)

    monkeypatch.setattr(one.valkey, "run", watched)
    limits = Limits(concurrent_requests=5)
    for key in ("key_1", "key_2"):
        async with one.limiter.hold(call(limits=limits, tenant_limits=limits, key=key)):
            pass
    assert max(len(one_call.keys) for one_call in sent) == 9
    slots = [{await one.redis.execute_command("CLUSTER KEYSLOT", key) for key in sent_call.keys} for sent_call in sent]
    assert all(len(slot) == 1 for slot in slots)


async def test_redis_is_spared_while_nothing_runs(one: Limiting, valkey_url: str) -> None:
    async with Redis.from_url(valkey_url) as redis:
        before = (await redis.info("stats"))["total_commands_processed"]
        for _ in range(5):
            await one.limiter.beat()
        assert (await redis.info("stats"))["total_commands_processed"] - before == 1


async def test_in_a_crowd_only_who_would_be_refused_takes_along_what_makes_room(valkey_url: str) -> None:
    """Nothing that was posted arrives."""
    async with limiting(valkey_url, sending=False) as one:
        await one.redis.flushdb()
        limits = Limits(concurrent_requests=10)
        async with AsyncExitStack() as crowd:
            for _ in range(9):
                await crowd.enter_async_context(one.limiter.hold(call(limits=limits)))
        assert await one.active() == 9
        async with one.limiter.hold(call(limits=limits)):
            assert await one.active() == 10
            async with one.limiter.hold(call(limits=limits)):
                assert await one.active() == 2
