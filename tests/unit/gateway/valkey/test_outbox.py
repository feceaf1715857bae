"""Writes that nobody waits for."""

import asyncio
from typing import Any

from prometheus_client import Gauge
from redis.asyncio import Redis

from gateway.telemetry.tasks import Tasks
from gateway.valkey.connection import Script, ScriptCall, Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox, Posted
from gateway.valkey.wire import Wire
from tests.unit.gateway.waiting import until

PUSH = Script.of("return redis.call('RPUSH', KEYS[1], ARGV[1])")
WRONG = Script.of("return redis.call('HGET', KEYS[1], 'a')")


class Post:
    """Posts texts and keeps what became of them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.done: list[Any] = []
        self.failed: list[str] = []

    def __call__(self, text: str, script: Script = PUSH) -> None:
        call = ScriptCall(script, ["list"], [text])
        self._outbox.post(Posted(call, self.done.append, lambda: self.failed.append(text)))


async def test_everything_goes_in_order(valkey: Valkey, redis: Redis) -> None:
    outbox = Outbox(valkey)
    post = Post(outbox)
    for number in range(600):
        post(str(number))
    await outbox.flush()
    assert await redis.lrange("list", 0, -1) == [str(number).encode() for number in range(600)]
    assert post.done == list(range(1, 601))


async def test_what_is_posted_together_goes_together(valkey: Valkey, redis: Redis, tasks: Tasks) -> None:
    await valkey.run(ScriptCall(PUSH, ["other"], ["x"]))
    outbox = Outbox(valkey)
    post = Post(outbox)
    tasks.keep("outbox", outbox.run)
    before = int((await redis.info("stats"))["total_reads_processed"])
    post("a")
    await asyncio.sleep(0)
    post("b")
    await until(lambda: len(post.done) == 2)
    assert int((await redis.info("stats"))["total_reads_processed"]) - before == 2  # the batch, and this question


async def test_one_that_fails_does_not_stop_the_others(valkey: Valkey, redis: Redis) -> None:
    outbox = Outbox(valkey)
    post = Post(outbox)
    post("a")
    post("b", WRONG)
    post("c")
    await outbox.flush()
    assert await redis.lrange("list", 0, -1) == [b"a", b"c"]
    assert post.failed == ["b"]


async def test_nothing_is_dropped_silently_when_the_server_is_away(degraded: Gauge) -> None:
    outbox = Outbox(Valkey(Wire.to("redis://127.0.0.1:1/0"), ValkeySettings(), degraded))
    post = Post(outbox)
    post("a")
    post("b")
    await outbox.flush()
    assert post.failed == ["a", "b"]


async def test_what_has_become_needless_is_left_out(valkey: Valkey, redis: Redis) -> None:
    outbox = Outbox(valkey)
    post, needed = Post(outbox), True
    call = ScriptCall(PUSH, ["list"], ["b"])
    post("a")
    outbox.post(Posted(call, post.done.append, lambda: post.failed.append("b"), lambda: needed))
    needed = False
    await outbox.flush()
    assert await redis.lrange("list", 0, -1) == [b"a"]
    assert (post.done, post.failed) == ([1], [])


async def test_it_is_bounded(valkey: Valkey) -> None:
    outbox = Outbox(valkey, most=2)
    post = Post(outbox)
    for text in "abc":
        post(text)
    assert post.failed == ["c"]
    await outbox.flush()
    assert post.done == [1, 2]


async def test_two_that_flush_at_once_send_everything_once(valkey: Valkey, redis: Redis) -> None:
    outbox = Outbox(valkey)
    post = Post(outbox)
    for number in range(300):
        post(str(number))
    await asyncio.gather(outbox.flush(), outbox.flush())
    assert post.done == list(range(1, 301))
