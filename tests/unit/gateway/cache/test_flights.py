"""Requests that wait for one answer: who gets it, who pays it, and what becomes of it when somebody leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.core.call import Call
from gateway.core.freshness import Freshness
from gateway.core.identity import CachePolicy
from gateway.errors import BackendFailed, ClientGone, DeadlineExceeded, InvalidRequest
from tests.unit.gateway.cache.caching import PIECES, WHOLE, Engine, Gateway, Sent, call, job
from tests.unit.gateway.waiting import until


@pytest.fixture
def gateway(redis: Redis) -> Gateway:
    return Gateway(redis)


class Crowd:
    """Requests for the same answer, each in a task of its own; the first has the engine before the next one comes."""

    def __init__(self, gateway: Gateway, engine: Engine) -> None:
        self.gateway = gateway
        self.engine = engine
        self.tasks: list[asyncio.Task[None]] = []
        self.sent: list[Sent] = []

    async def join(self, *calls: Call, **body: Any) -> None:
        """Until it waits for the answer, or makes it."""
        for one in calls:
            sent = Sent()
            self.sent.append(sent)
            work = self.gateway.answer(one, self.engine, job(**body), sent)
            self.tasks.append(asyncio.create_task(work))
            await until(lambda one=one: "cache" in one.stages)
            await asyncio.sleep(0)
        await until(lambda: self.engine.calls)

    async def leave(self, number: int) -> None:
        self.tasks[number].cancel()
        with suppress(asyncio.CancelledError):
            await self.tasks[number]

    async def end(self) -> list[BaseException | None]:
        async with asyncio.timeout(2):
            return await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
def crowd(gateway: Gateway) -> Crowd:
    return Crowd(gateway, Engine(paced=True))


async def test_all_get_the_one_answer_and_the_first_pays(crowd: Crowd) -> None:
    leader, second, third = calls = [call(number, stream=number < 3) for number in (1, 2, 3)]
    await crowd.join(*calls)
    crowd.engine.tick(3)
    assert await crowd.end() == [None] * 3
    assert crowd.sent == [WHOLE] * 3
    assert len(crowd.engine.calls) == 1
    assert [one.cache for one in calls] == ["miss", "coalesced", "coalesced"]
    assert [one.usage.completion for one in calls] == [2, 0, 0]
    assert leader.spared is None
    assert second.spared is not None
    assert third.told_usage.completion == 2
    assert [one.model_version for one in calls] == ["1"] * 3


async def test_the_leader_has_what_was_found_out_for_it(crowd: Crowd) -> None:
    leader, follower = call(1, stream=True), call(2, stream=True)
    await crowd.join(leader, follower)
    crowd.engine.tick(3)
    await crowd.end()
    assert (leader.backend, leader.arm, leader.tokens_seen) == ("b", "main", 2)
    assert {"cache", "admission", "first_token"} <= leader.stages.keys()
    assert leader.first_token_at is not None
    assert (follower.backend, follower.first_token_at) == (None, None)
    assert "coalesced" in follower.stages


async def test_who_comes_late_gets_at_once_what_there_is(crowd: Crowd) -> None:
    await crowd.join(call(1, stream=True))
    crowd.engine.tick()
    await crowd.sent[0].taken.wait()
    await crowd.join(call(2, stream=True))
    await until(lambda: crowd.sent[1] == [PIECES[0]])
    crowd.engine.tick(2)
    await crowd.end()
    assert crowd.sent[1] == WHOLE


async def test_a_slow_reader_holds_nobody_up(crowd: Crowd) -> None:
    await crowd.join(call(1, stream=True), call(2, stream=True))
    crowd.sent[0].stuck = True
    crowd.engine.tick(3)
    async with asyncio.timeout(2):
        await crowd.tasks[1]
    assert crowd.sent[1] == WHOLE
    await crowd.leave(0)


async def test_the_leader_may_leave_and_the_next_one_pays(crowd: Crowd) -> None:
    leader, heir, third = calls = [call(number) for number in (1, 2, 3)]
    await crowd.join(*calls)
    crowd.engine.tick()
    await crowd.leave(0)
    crowd.engine.tick(2)
    await crowd.end()
    assert crowd.sent[1:] == [WHOLE, WHOLE]
    assert crowd.engine.cancelled == 0
    assert [one.usage.completion for one in calls] == [0, 2, 0]
    assert heir.spared is None
    assert third.spared is not None
    assert leader.spared is None


async def test_a_follower_may_leave(crowd: Crowd) -> None:
    calls = [call(1), call(2)]
    await crowd.join(*calls)
    await crowd.leave(1)
    crowd.engine.tick(3)
    assert (await crowd.end())[0] is None
    assert crowd.sent[0] == WHOLE
    assert [one.usage.completion for one in calls] == [2, 0]


async def test_the_last_to_leave_stops_the_work_and_pays_what_was_done(crowd: Crowd) -> None:
    calls = [call(1), call(2, stream=True)]
    await crowd.join(*calls)
    crowd.engine.tick()
    await crowd.sent[1].taken.wait()
    await crowd.leave(0)
    assert crowd.engine.cancelled == 0
    await crowd.leave(1)
    assert crowd.engine.cancelled == 1
    assert [one.usage.completion for one in calls] == [0, 1]


async def test_nobody_joins_work_that_is_being_stopped(crowd: Crowd) -> None:
    await crowd.join(call(1))
    crowd.tasks[0].cancel()
    await crowd.join(call(2))
    crowd.engine.tick(3)
    ended = await crowd.end()
    assert ended[1] is None
    assert len(crowd.engine.calls) == 2


async def test_followers_of_a_failed_leader_run_on_their_own(crowd: Crowd) -> None:
    calls = [call(number) for number in (1, 2, 3)]
    await crowd.join(*calls)
    crowd.engine.error = failure = BackendFailed("broken")
    crowd.engine.tick(3)
    await until(lambda: len(crowd.engine.calls) == 3)
    crowd.engine.error = None
    crowd.engine.tick(6)
    assert await crowd.end() == [failure, None, None]
    assert crowd.sent == [[], WHOLE, WHOLE]
    assert [one.cache for one in calls] == ["miss"] * 3
    assert crowd.gateway.counted("miss", "leader_failed") == 2


async def test_a_stream_that_began_fails_with_its_leader(crowd: Crowd) -> None:
    await crowd.join(call(1, stream=True), call(2, stream=True))
    crowd.engine.error = failure = BackendFailed("broken")
    crowd.engine.tick(3)
    assert await crowd.end() == [failure, failure]
    assert crowd.sent == [WHOLE, WHOLE]


async def test_what_the_client_got_wrong_is_wrong_for_all(crowd: Crowd) -> None:
    await crowd.join(call(1), call(2))
    crowd.engine.error = refusal = InvalidRequest("no")
    crowd.engine.tick(3)
    assert await crowd.end() == [refusal, refusal]
    assert len(crowd.engine.calls) == 1


async def test_a_bug_is_told_to_the_leader_alone(crowd: Crowd) -> None:
    await crowd.join(call(1), call(2))
    crowd.engine.error = bug = ZeroDivisionError()
    crowd.engine.tick(3)
    await until(lambda: len(crowd.engine.calls) == 2)
    crowd.engine.error = None
    crowd.engine.tick(3)
    assert await crowd.end() == [bug, None]


async def test_a_followers_deadline_is_its_own(crowd: Crowd) -> None:
    await crowd.join(call(1), call(2, seconds=0.05))
    await until(crowd.tasks[1].done)
    crowd.engine.tick(3)
    leader, follower = await crowd.end()
    assert leader is None
    assert isinstance(follower, DeadlineExceeded)


async def test_the_leaders_deadline_leaves_followers_to_run_on_their_own(crowd: Crowd) -> None:
    await crowd.join(call(1), call(2))
    crowd.engine.calls[0].limit.end(DeadlineExceeded("now"))
    await until(lambda: len(crowd.engine.calls) == 2)
    crowd.engine.tick(3)
    leader, follower = await crowd.end()
    assert isinstance(leader, DeadlineExceeded)
    assert follower is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"seconds": 5}, {"seconds": 10}),
        ({"priority_class": "batch"}, {"priority_class": "interactive"}),
        ({}, {"freshness": Freshness(read=False)}),
        ({"tenant": "acme"}, {"tenant": "other"}),
    ],
    ids=["less time", "less urgent", "wants a new one", "another tenant"],
)
async def test_some_do_not_wait_for_others(crowd: Crowd, first: dict[str, Any], second: dict[str, Any]) -> None:
    await crowd.join(call(1, **first))
    await crowd.join(call(2, **second))
    await until(lambda: len(crowd.engine.calls) == 2)
    crowd.engine.tick(6)
    assert await crowd.end() == [None, None]


async def test_sampled_answers_are_never_shared_while_they_are_made(crowd: Crowd) -> None:
    policy = CachePolicy(sampled=True)
    await crowd.join(call(1, policy=policy), call(2, policy=policy), temperature=1.0)
    await until(lambda: len(crowd.engine.calls) == 2)
    crowd.engine.tick(6)
    assert await crowd.end() == [None, None]


async def test_a_client_that_is_gone_does_not_end_it_for_others(crowd: Crowd) -> None:
    class Gone(Sent):
        async def send(self, piece: object) -> None:
            raise ClientGone("gone")

    leaving = asyncio.create_task(crowd.gateway.answer(call(1, stream=True), crowd.engine, job(), Gone()))
    await until(lambda: crowd.engine.calls)
    await crowd.join(call(2))
    crowd.engine.tick(3)
    with pytest.raises(ClientGone):
        await leaving
    assert await crowd.end() == [None]
    assert crowd.sent == [WHOLE]


async def test_all_who_wait_for_a_turn_are_told_their_place(crowd: Crowd) -> None:
    told: list[tuple[int, int]] = []

    def tell(number: int) -> Callable[[int], Awaitable[None]]:
        async def heartbeat(place: int) -> None:
            told.append((number, place))
            if number == 1:
                raise ClientGone("gone")

        return heartbeat

    await crowd.join(call(1, heartbeat=tell(1)), call(2), call(3, heartbeat=tell(3)))
    assert crowd.engine.calls[0].heartbeat is not None
    await crowd.engine.calls[0].heartbeat(7)
    assert told == [(1, 7), (3, 7)]
    crowd.engine.tick(3)
    await crowd.end()


async def test_who_left_while_others_were_told_is_told_nothing(crowd: Crowd) -> None:
    told: list[int] = []

    async def first(place: int) -> None:
        told.append(1)
        await crowd.leave(1)

    async def second(place: int) -> None:
        told.append(2)

    await crowd.join(call(1, heartbeat=first), call(2, heartbeat=second))
    assert crowd.engine.calls[0].heartbeat is not None
    await crowd.engine.calls[0].heartbeat(7)
    assert told == [1]
    crowd.engine.tick(3)
    await crowd.end()


async def test_another_gateway_waits_for_the_answer(redis: Redis) -> None:
    one, other = Gateway(redis, name="one"), Gateway(redis, name="other")
    making, engine = Crowd(one, Engine(paced=True)), Engine()
    waits = call(2, stream=True)
    await making.join(call(1))
    waiting = asyncio.create_task(other.ask(waits, engine, job()))
    await until(lambda: "cache" in waits.stages)
    making.engine.tick(3)
    await making.end()
    assert await waiting == WHOLE
    assert engine.calls == []
    assert waits.cache == "coalesced"
    assert (waits.usage.completion, waits.told_usage.completion) == (0, 2)


async def test_another_gateway_makes_it_when_the_first_gives_up(redis: Redis) -> None:
    one, other = Gateway(redis, name="one"), Gateway(redis, name="other")
    making, engine = Crowd(one, Engine(paced=True, error=BackendFailed("no"))), Engine()
    waits = call(2)
    await making.join(call(1))
    waiting = asyncio.create_task(other.ask(waits, engine, job()))
    await until(lambda: "cache" in waits.stages)
    assert not engine.calls
    making.engine.tick(3)
    await making.end()
    await one.outbox.flush()
    assert await waiting == WHOLE
    assert len(engine.calls) == 1


async def test_another_gateway_waits_no_longer_than_it_is_worth(redis: Redis) -> None:
    one, other = Gateway(redis, name="one"), Gateway(redis, name="other", wait_s=0.05)
    making, engine = Crowd(one, Engine(paced=True)), Engine()
    await making.join(call(1))
    assert await other.ask(call(2), engine, job()) == WHOLE
    making.engine.tick(3)
    await making.end()


async def test_a_gateway_that_died_holds_nobody_up(redis: Redis) -> None:
    dead, other = Gateway(redis, name="dead", lease_s=0.001), Gateway(redis, name="other", wait_s=60)
    making, engine = Crowd(dead, Engine(paced=True)), Engine()
    await making.join(call(1))
    async with asyncio.timeout(2):
        assert await other.ask(call(2), engine, job()) == WHOLE
    await making.leave(0)
