"""Entries in a real Valkey: all of them, once each, whatever fails on the way."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.accounting.entries import Entry
from gateway.accounting.outcome import Outcome
from gateway.accounting.spool import Spool
from gateway.accounting.stream import STREAM, LedgerStream
from gateway.accounting.sums import usage_key
from gateway.valkey.connection import ScriptCall, ValkeyAway
from gateway.valkey.outbox import Posted
from tests.unit.gateway.accounting.making import DAY_MS, NOON, new_call, new_entry
from tests.unit.gateway.waiting import until

FAULTS = ["none", "away", "answer lost", "half done", "one refused"]


class Shaky:
    """A connection to Valkey with faults on order, one for each round trip. `meanwhile`: what happens during one."""

    def __init__(self, redis: Redis, faults: Iterator[str]) -> None:
        self._redis = redis
        self._faults = faults
        self.broken = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def run_all(self, calls: Sequence[ScriptCall], timeout_s: float) -> list[Any]:
        fault = "away" if self.broken else next(self._faults, "none")
        self.meanwhile()
        if fault == "away":
            raise ValkeyAway
        if fault == "half done":
            await self._run(calls[: len(calls) // 2])
            raise ValkeyAway
        if fault == "one refused":
            middle = len(calls) // 2
            answers = await self._run([*calls[:middle], *calls[middle + 1 :]])
            return [*answers[:middle], ResponseError("OOM"), *answers[middle:]]
        answers = await self._run(calls)
        if fault == "answer lost":
            raise ValkeyAway
        return answers

    async def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.eval(call.script.source, len(call.keys), *call.keys, *call.args)
            return list(await pipe.execute(raise_on_error=False))


class Outbox:
    """Sends when told to, and so many in one round trip as it is told; has room for `most`."""

    def __init__(self, valkey: Shaky, most: int = 1000) -> None:
        self._valkey = valkey
        self._most = most
        self._waiting: list[Posted] = []

    def post(self, posted: Posted) -> None:
        if len(self._waiting) >= self._most:
            posted.failed()
        else:
            self._waiting.append(posted)

    async def flush(self, most: int = 1000) -> None:
        batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if not batch:
            return
        try:
            answers = await self._valkey.run_all([one.call for one in batch], 1.0)
        except ValkeyAway:
            for one in batch:
                one.failed()
            return
        for one, answer in zip(batch, answers, strict=True):
            one.failed() if isinstance(answer, ResponseError) else one.done(answer)

    @property
    def empty(self) -> bool:
        return not self._waiting


class Writer:
    """One gateway's way into the ledger."""

    def __init__(self, redis: Redis, directory: Path, faults: Iterable[str] = (), room: int = 1000) -> None:
        self.valkey = Shaky(redis, iter(faults))
        self.outbox = Outbox(self.valkey, room)
        self.written = Counter("written", "", registry=None)
        self.spool = Spool(
            directory, 10_000_000, Gauge("waiting", "", registry=None), Counter("dropped", "", registry=None)
        )
        self.stream = LedgerStream(self.outbox, self.valkey, self.spool, 100_000, self.written)

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.add(new_entry(number))

    async def settle(self) -> None:
        """Until nothing is on its way; there must be an end to the faults."""
        while not (await self.stream.replay() and self.outbox.empty):
            await self.outbox.flush()

    async def die(self) -> None:
        """As a kill: what is on disk stays."""
        self.spool._pending.clear()
        await self.spool.close()


async def stored(redis: Redis) -> list[Entry]:
    decode: Callable[[bytes], Entry] = msgspec.json.Decoder(Entry).decode
    return [decode(fields[b"entry"]) for _, fields in await redis.xrange(STREAM)]


async def uids(redis: Redis) -> list[str]:
    return [entry.uid for entry in await stored(redis)]


def names(*numbers: int) -> list[str]:
    return [f"uid-{number}" for number in numbers]


@pytest.fixture
async def writer(redis: Redis, tmp_path: Path) -> AsyncIterator[Writer]:
    one = Writer(redis, tmp_path / "spool")
    await one.spool.open()
    yield one
    await one.spool.close()


async def test_an_entry_is_stored_as_it_was_and_summed_by_its_day(redis: Redis, writer: Writer) -> None:
    writer.stream.add(new_entry(1))
    writer.stream.add(new_entry(2, at=NOON + DAY_MS, outcome="failed", status=502, completion_tokens=0, price=0))
    await writer.outbox.flush()
    first, second = await stored(redis)
    assert first == new_entry(1)
    assert second.status == 502
    assert await redis.hgetall(usage_key(first.day)) == {
        b'["acme","key_1","tiny",true]requests': b"1",
        b'["acme","key_1","tiny",true]prompt': b"10",
        b'["acme","key_1","tiny",true]cached': b"4",
        b'["acme","key_1","tiny",true]completion': b"5",
        b'["acme","key_1","tiny",true]price': b"7",
    }
    assert (first.day.isoformat(), second.day.isoformat()) == ("2026-06-01", "2026-06-02")
    assert await redis.hget(usage_key(second.day), '["acme","key_1","tiny",false]requests') == b"1"
    assert 399 * 86400 < await redis.ttl(usage_key(first.day)) <= 400 * 86400
    assert writer.written._value.get() == 2


async def test_a_call_becomes_an_entry(redis: Redis, writer: Writer) -> None:
    writer.stream.record(new_call(uid="mine"), Outcome(200), 0.5)
    writer.stream.record(new_call(uid="not mine", route="/v1/models"), Outcome(200), 0.5)
    await writer.outbox.flush()
    assert await uids(redis) == ["mine"]


async def test_the_stream_keeps_about_so_many(redis: Redis, tmp_path: Path) -> None:
    writer = Writer(redis, tmp_path)
    stream = LedgerStream(writer.outbox, writer.valkey, writer.spool, 1000, writer.written)
    for number in range(3000):
        stream.add(new_entry(number))
        if number % 500 == 499:
            await writer.outbox.flush()
    assert 1000 <= await redis.xlen(STREAM) < 1200


async def test_what_follows_on_a_failure_waits_behind_it(redis: Redis, writer: Writer) -> None:
    writer.add(1, 2)
    writer.valkey.broken = True
    await writer.outbox.flush(1)
    writer.valkey.broken = False
    writer.add(3)
    await writer.outbox.flush()  # the second is on its way still, and is refused: the first is missing
    assert await uids(redis) == []
    assert writer.stream.state == "degraded: 3 entries wait in the spool"
    assert await writer.stream.replay()
    assert await uids(redis) == names(1, 2, 3)
    assert writer.stream.state == "ok"


async def test_after_the_spool_is_empty_entries_go_straight_to_valkey(redis: Redis, writer: Writer) -> None:
    writer.valkey.broken = True
    writer.add(1)
    await writer.outbox.flush()
    writer.valkey.broken = False
    assert await writer.stream.replay()
    writer.add(2)
    assert writer.spool.waiting == 0
    await writer.outbox.flush()
    assert await uids(redis) == names(1, 2)


async def test_a_full_outbox_is_a_failure_like_others(redis: Redis, tmp_path: Path) -> None:
    writer = Writer(redis, tmp_path / "spool", room=2)
    await writer.spool.open()
    writer.add(1, 2, 3, 4)
    assert writer.spool.waiting == 4
    await writer.settle()
    assert await uids(redis) == names(1, 2, 3, 4)
    await writer.spool.close()


async def test_a_valkey_that_lost_its_data_does_not_stop_the_ledger(redis: Redis, writer: Writer) -> None:
    writer.add(1, 2)
    await writer.outbox.flush()
    await redis.flushdb()
    writer.add(3)
    await writer.outbox.flush()
    await writer.settle()
    writer.add(4)
    await writer.outbox.flush()
    assert await uids(redis) == names(3, 4)


async def test_a_killed_gateways_entries_are_sent_by_the_next(redis: Redis, tmp_path: Path) -> None:
    dead = Writer(redis, tmp_path, ["none", "answer lost"])
    dead.add(1)
    await dead.outbox.flush()
    dead.add(2, 3)
    await dead.outbox.flush()
    await dead.spool.write()
    await dead.die()
    heir = Writer(redis, tmp_path)
    await heir.spool.open()
    assert heir.stream.state == "degraded: 2 entries wait in the spool"
    heir.add(4)
    await heir.settle()
    assert sorted(await uids(redis)) == names(1, 2, 3, 4)
    await heir.spool.close()


async def test_the_spool_is_emptied_as_soon_as_valkey_answers(redis: Redis, writer: Writer) -> None:
    running = asyncio.create_task(writer.stream.run())
    writer.valkey.broken = True
    writer.add(1)
    await writer.outbox.flush()
    writer.valkey.broken = False
    await until(lambda: writer.spool.waiting == 0)
    running.cancel()
    assert await uids(redis) == names(1)


ROOMS = st.integers(2, 50)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 5)),
        st.tuples(st.just("flush"), st.integers(1, 4)),
        st.tuples(st.just("replay"), st.just(0)),
        st.tuples(st.just("write"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.lists(st.sampled_from(FAULTS), max_size=30), st.lists(st.integers(0, 2), max_size=30), ROOMS)
def test_every_entry_is_stored_once_whatever_fails(
    valkey_url: str, steps: list[tuple[str, int]], faults: list[str], arrivals: list[int], room: int
) -> None:
    asyncio.run(scenario(valkey_url, steps, Course(iter(faults), iter(arrivals)), room))


@dataclass
class Course:
    """What goes wrong in each round trip, and how many entries are added while it lasts."""

    faults: Iterator[str]
    arrivals: Iterator[int]
    added: int = 0

    def add(self, writer: Writer, number: int) -> None:
        writer.add(*range(self.added, self.added + number))
        self.added += number

    async def new_writer(self, redis: Redis, directory: Path, room: int) -> Writer:
        writer = Writer(redis, directory, self.faults, room)
        writer.valkey.meanwhile = lambda: self.add(writer, next(self.arrivals, 0))
        await writer.spool.open()
        return writer


async def scenario(valkey_url: str, steps: list[tuple[str, int]], course: Course, room: int) -> None:
    """A kill may take what is neither in Valkey nor on disk at that moment, and nothing else."""
    with TemporaryDirectory() as directory:
        async with Redis.from_url(valkey_url) as redis:
            await redis.flushdb()
            spool = Path(directory) / "spool"
            writer = await course.new_writer(redis, spool, room)
            lost = set[str]()
            for step, number in steps:
                match step:
                    case "add":
                        course.add(writer, number)
                    case "flush":
                        await writer.outbox.flush(number)
                    case "replay":
                        await writer.stream.replay()
                    case "write":
                        await writer.spool.write()
                    case "kill":
                        lost |= set(names(*range(course.added))) - set(await uids(redis)) - on_disk(spool)
                        await writer.die()
                        writer = await course.new_writer(redis, spool, room)
            await writer.settle()
            found = await stored(redis)
            assert sorted(entry.uid for entry in found) == sorted(set(names(*range(course.added))) - lost)
            assert await summed(redis, "requests") == len(found)
            assert await summed(redis, "prompt") == sum(entry.prompt_tokens for entry in found)
            assert writer.spool.waiting == 0
            await writer.spool.close()
            assert list(spool.iterdir()) == []


def on_disk(spool: Path) -> set[str]:
    lines = [line for file in spool.glob("*.jsonl") for line in file.read_bytes().splitlines()]
    return {msgspec.json.decode(line)["entry"]["uid"] for line in lines}


async def summed(redis: Redis, name: str) -> int:
    fields = await redis.hgetall(usage_key(new_entry().day))
    return sum(int(value) for field, value in fields.items() if field.endswith(b"]" + name.encode()))
