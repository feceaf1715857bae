"""Claims, answers and leases on a real Valkey."""

import asyncio
import string
from collections.abc import Coroutine
from contextlib import suppress
from functools import cached_property
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge
from redis.asyncio import Redis

from gateway.cache.idempotency import Answer, Claim, Idempotency, IdempotencySettings, fingerprint
from gateway.cache.scripts import CLAIM
from gateway.core.call import Caller
from gateway.errors import IdempotencyMismatch, InProgress
from gateway.valkey.connection import ScriptCall, Valkey, ValkeySettings
from gateway.valkey.outbox import Outbox
from gateway.valkey.wire import Wire
from tests.unit.gateway.valkey.addresses import url_of

ANSWER = Answer(200, "application/json", b'{"a":1}')
REQUEST = fingerprint("/v1/chat/completions", b"{}")


def caller(key_id: str = "k1", tenant: str = "acme") -> Caller:
    return Caller(key_id, tenant, frozenset({"inference"}))


class Listener(Valkey):
    """While it hears nothing, scripts run and their answers never come."""

    hears = True

    async def run(self, call: ScriptCall) -> Any:
        answer = await super().run(call)
        if not self.hears:
            self.ran.set()
            await asyncio.Event().wait()
        return answer

    @cached_property
    def ran(self) -> asyncio.Event:
        return asyncio.Event()


class Gateway:
    """One gateway's idempotency; `send` sends what it posted."""

    def __init__(self, redis: Redis, **given: float) -> None:
        patient = ValkeySettings(call_timeout_s=5.0)
        self.valkey = Listener(Wire.to(url_of(redis)), patient, Gauge("degraded", "", registry=CollectorRegistry()))
        self.outbox = Outbox(self.valkey)
        self.outcomes = Counter("outcomes", "", ("outcome",), registry=CollectorRegistry())
        self.repeats = Idempotency(self.valkey, self.outbox, IdempotencySettings(**given), self.outcomes)  # type: ignore[arg-type]

    async def claim(self, key: str = "key", request: bytes = REQUEST, who: Caller | None = None) -> Answer | Claim:
        found = await self.repeats.claim(who or caller(), key, request)
        assert found is not None
        return found

    async def begin(self, key: str = "key") -> Claim:
        claim = await self.claim(key)
        assert isinstance(claim, Claim)
        return claim

    async def send(self) -> None:
        await self.outbox.flush()


@pytest.fixture
def one(redis: Redis) -> Gateway:
    return Gateway(redis)


@pytest.fixture
def other(redis: Redis) -> Gateway:
    return Gateway(redis)


async def test_a_stored_answer_is_had_again_by_every_gateway(one: Gateway, other: Gateway) -> None:
    assert await one.repeats.store(await one.begin(), ANSWER)
    assert await one.claim() == await other.claim() == ANSWER


async def test_bytes_of_any_kind_come_back_as_they_were(one: Gateway) -> None:
    answer = Answer(201, "text/event-stream; charset=utf-8", bytes(range(256)) * 3)
    await one.repeats.store(await one.begin(), answer)
    assert await one.claim() == answer


async def test_a_running_key_is_nobody_elses_until_it_is_released(one: Gateway, other: Gateway) -> None:
    claim = await one.begin()
    with pytest.raises(InProgress):
        await other.claim()
    await one.repeats.release(claim)
    assert isinstance(await other.claim(), Claim)


async def test_abandoning_is_posted(one: Gateway, other: Gateway) -> None:
    one.repeats.abandon(await one.begin())
    await one.send()
    assert isinstance(await other.claim(), Claim)


async def test_what_has_ended_cannot_be_released_from_another_run(redis: Redis, one: Gateway, other: Gateway) -> None:
    """A gateway whose lease ran out must not disturb the one that has the key now."""
    claim = await one.begin()
    place = claim.place
    await redis.delete(place)
    newer = await other.begin()
    await one.repeats.release(claim)
    with pytest.raises(InProgress):
        await one.claim()
    await other.repeats.store(newer, ANSWER)
    assert await one.claim() == ANSWER


async def test_an_answer_that_comes_after_its_lease_does_not_replace_a_newer_claim(
    redis: Redis, one: Gateway, other: Gateway
) -> None:
    late = await one.begin()
    await redis.delete(late.place)
    newer = await other.begin()
    assert not await one.repeats.store(late, Answer(200, "application/json", b"late"))
    assert await other.repeats.store(newer, ANSWER)
    assert await one.claim() == ANSWER


async def test_an_answer_whose_lease_ran_out_unnoticed_is_stored_all_the_same(redis: Redis, one: Gateway) -> None:
    claim = await one.begin()
    await redis.delete(claim.place)
    assert await one.repeats.store(claim, ANSWER)
    assert await one.claim() == ANSWER


async def test_a_stored_answer_outlives_a_late_release(one: Gateway) -> None:
    claim = await one.begin()
    await one.repeats.store(claim, ANSWER)
    one.repeats.abandon(claim)
    await one.repeats.release(claim)
    await one.send()
    assert await one.claim() == ANSWER


async def test_the_heartbeat_keeps_what_runs_and_only_that(redis: Redis) -> None:
    one = Gateway(redis, lease_s=20)
    running, ended, stored = await one.begin("running"), await one.begin("ended"), await one.begin("stored")
    await redis.pexpire(running.place, 1000)
    one.repeats.extend_leases()
    await one.repeats.release(ended)
    await one.repeats.store(stored, ANSWER)
    await one.send()
    assert 15_000 < await redis.pttl(running.place) <= 20_000
    assert not await redis.exists(ended.place)
    assert await redis.pttl(stored.place) > 80_000_000


async def test_a_gateway_that_died_frees_its_keys(redis: Redis, other: Gateway) -> None:
    dead = Gateway(redis, lease_s=0.001)
    claim = await dead.begin()
    async with asyncio.timeout(2):
        while await redis.exists(claim.place):  # noqa: ASYNC110 - Valkey's own clock
            await asyncio.sleep(0)
    assert isinstance(await other.claim(), Claim)


async def test_an_answer_that_is_too_large_frees_its_key(redis: Redis, other: Gateway) -> None:
    one = Gateway(redis, max_answer_bytes=len(ANSWER.body) - 1)
    assert not await one.repeats.store(await one.begin(), ANSWER)
    assert isinstance(await other.claim(), Claim)
    assert one.outcomes.labels("too_large")._value.get() == 1


async def cancelled_unheard(one: Gateway, work: Coroutine[Any, Any, object]) -> None:
    """Cancel `work` when its script has run and it does not know."""
    one.valkey.hears = False
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(2):
        await one.valkey.ran.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    one.valkey.hears = True
    await one.send()


async def test_a_request_cancelled_while_it_claims_leaves_nothing_claimed(one: Gateway, other: Gateway) -> None:
    await cancelled_unheard(one, one.claim())
    assert isinstance(await other.claim(), Claim)


async def test_a_request_cancelled_while_it_stores_leaves_its_answer(one: Gateway, other: Gateway) -> None:
    await cancelled_unheard(one, one.repeats.store(await one.begin(), ANSWER))
    assert await other.claim() == ANSWER


async def test_a_repeated_command_claims_for_the_same_owner(one: Gateway) -> None:
    """redis-py sends a command again when its reply was lost."""
    claim = await one.begin()
    again = ScriptCall(CLAIM, [claim.place], [claim.request, claim.owner, 1000])
    assert await one.valkey.run(again) == [b"free"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=6)
KEYS = st.text(string.printable[:95], min_size=1, max_size=6)
# Few different ones of each, so that they meet.
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "a}", "a}:idempotency:b", "ab"]) | NAMES,
        st.sampled_from(["k", "k1", "1", "kk"]) | NAMES,
        st.sampled_from(["1", "11", "k", "k1"]) | KEYS,
        st.binary(max_size=1),
    ),
    min_size=2,
    max_size=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
@example(requests=[("a", "k", "11", b""), ("a", "k1", "1", b"")])
@example(requests=[("a", "k", "1", b""), ("b", "k", "1", b"")])
async def test_bytes_are_only_ever_had_again_by_who_stored_them(
    valkey_url: str, requests: list[tuple[str, str, str, bytes]]
) -> None:
    """Against a dictionary by (tenant, API key, idempotency key): each run's answer names who it was made for."""
    model: dict[tuple[str, str, str], tuple[bytes, Answer]] = {}
    async with Redis.from_url(valkey_url) as redis:
        await redis.flushdb()
        gateway = Gateway(redis)
        for number, (tenant, key_id, key, body) in enumerate(requests):
            who, place, request = caller(key_id, tenant), (tenant, key_id, key), fingerprint("/v1/embeddings", body)
            if place not in model:
                claim = await gateway.claim(key, request, who)
                assert isinstance(claim, Claim), place
                answer = Answer(200, "text/plain", repr((number, place)).encode())
                model[place] = (request, answer)
                assert await gateway.repeats.store(claim, answer)
            elif model[place][0] == request:
                assert await gateway.claim(key, request, who) == model[place][1]
            else:
                with pytest.raises(IdempotencyMismatch):
                    await gateway.claim(key, request, who)


def test_an_address_is_part_of_what_was_asked() -> None:
    assert fingerprint("/a", b"b") != fingerprint("/b", b"b")
