"""Leases on backends: who gets them, and who is left out."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

from gateway.core.call import Caller
from gateway.core.job import EngineLoad
from gateway.core.snapshot import Arm, BackendSpec
from gateway.errors import (
    BackendFailed,
    BackendTimeout,
    BackendUnavailable,
    ClientGone,
    GatewayError,
    InvalidRequest,
)
from gateway.telemetry.tasks import Tasks
from tests.unit.gateway.routing.fakes import Pool, fail, new_call, snapshot, where
from tests.unit.gateway.waiting import until


async def test_there_is_no_lease_before_a_token_was_generated() -> None:
    pool = Pool("a")
    with pytest.raises(BackendUnavailable, match="no token was generated yet"):
        await where(pool.router)
    await pool.start()
    assert pool.probe.asked == [("a", "ready"), ("a", "generate")]
    assert await where(pool.router) == "a"
    assert pool.router.problem is None


@pytest.mark.parametrize("error", [BackendFailed("bad"), BackendTimeout("late"), BackendUnavailable("not now")])
async def test_failures_in_a_row_leave_a_backend_out_for_a_time_that_grows(error: GatewayError) -> None:
    pool = Pool("a", "b", ejection_failures=3, ejection_s=30)
    router = await pool.start()
    a = next(iter(router))
    for _ in range(6):
        with suppress(GatewayError):
            async with router.lease(new_call()) as backend:
                if backend.name == "a":
                    raise error
    assert a.ejection.state == "open"
    assert {await where(router) for _ in range(4)} == {"b"}
    assert pool.sample("backend_ejections_total", backend="a") == 1
    assert pool.sample("backend_circuit", backend="a") == 2
    pool.clock.now += 30
    assert pool.sample("backend_circuit", backend="a") == 1
    assert {await where(router) for _ in range(4)} == {"a", "b"}
    assert a.ejection.state == "closed"


async def test_at_most_half_of_a_group_is_left_out() -> None:
    pool = Pool("a", "b", "c", "d", ejection_failures=1)
    router = await pool.start()
    await fail(router, BackendFailed("bad"), 20)
    assert [member.ejection.state for member in router].count("open") == 2


async def test_the_only_backend_is_never_left_out() -> None:
    pool = Pool("a", ejection_failures=1)
    router = await pool.start()
    await fail(router, BackendFailed("bad"), 20)
    assert await where(router) == "a"


async def test_with_too_few_left_those_left_out_come_back_but_never_the_dead() -> None:
    pool = Pool("a", "b", "c", "d", ejection_failures=1)
    router = await pool.start()
    await fail(router, BackendFailed("bad"), 2)
    out = {member.spec.id for member in router if member.ejection.state == "open"}
    assert len(out) == 2
    dead = next(member.spec.id for member in router if member.spec.id not in out)
    pool.probe.kill(dead)
    await router.examine()
    await router.examine()
    found = {await where(router) for _ in range(12)}
    assert found & out
    assert dead not in found


@pytest.mark.parametrize("error", [InvalidRequest("wrong"), ClientGone("left")])
async def test_what_is_not_the_backends_fault_is_not_held_against_it(error: GatewayError) -> None:
    pool = Pool("a", "b", ejection_failures=1)
    router = await pool.start()
    await fail(router, error, 4)
    assert {member.ejection.state for member in router} == {"closed"}
    assert router.problem is None


async def test_a_backend_that_comes_back_begins_slowly() -> None:
    pool = Pool("a", "b", slow_start_s=10)
    router = await pool.start()
    pool.probe.kill("a")
    for _ in range(2):
        await router.examine()
    del pool.probe.failures["a"]
    await router.examine()
    pool.clock.now += 2.5
    assert Counter([await where(router) for _ in range(50)]) == {"a": 10, "b": 40}
    pool.clock.now += 10
    assert Counter([await where(router) for _ in range(50)])["a"] >= 24


async def test_arms_share_callers_by_weight_and_stand_in_for_each_other() -> None:
    arms = (Arm(name="stable", weight=3), Arm(name="canary", group="new", triton_model="chat2", version="2"))
    pool = Pool("a", BackendSpec(id="n", url="http://n/", group="new"), arms=arms)
    router = await pool.start()
    found = Counter()
    for number in range(200):
        call = new_call(session=f"s{number}")
        async with router.lease(call) as backend:
            found[backend.name] += 1
        if backend.name == "n":
            assert backend.path("generate_stream") == "/v2/models/chat2/versions/2/generate_stream"
            assert backend.url == "http://n"
    assert 30 < found["n"] < 70
    pool.probe.kill("n")
    for _ in range(2):
        await router.examine()
    assert {await where(router, new_call(session=f"s{number}")) for number in range(40)} == {"a"}


async def test_a_session_keeps_its_arm_and_calls_without_one_are_divided_one_by_one() -> None:
    arms = (Arm(name="stable"), Arm(name="canary", group="new"))
    pool = Pool("a", BackendSpec(id="n", url="http://n", group="new"), arms=arms)
    router = await pool.start()
    assert len({await where(router, new_call(session="s")) for _ in range(20)}) == 1
    assert {await where(router, replace(new_call(), uid=str(number))) for number in range(20)} == {"a", "n"}


async def test_the_arm_that_got_a_call_first_is_the_one_that_answers_for_it() -> None:
    """Another may make its failure good; what became of the call still says something about the first."""
    arms = (Arm(name="stable"), Arm(name="canary", group="new"))
    pool = Pool("a", BackendSpec(id="n", url="http://n", group="new"), arms=arms)
    router = await pool.start()
    call = new_call(session="s")
    async with router.lease(call) as backend:
        first, arm = backend.name, call.arm
    async with router.lease(call, tried={first}) as backend:
        assert backend.name != first
    assert call.arm == arm == {"a": "stable", "n": "canary"}[first]


async def test_a_backend_serves_only_the_models_it_names() -> None:
    pool = Pool("a", BackendSpec(id="b", url="http://b", models=("other",)))
    router = await pool.start()
    assert {await where(router) for _ in range(4)} == {"a"}


async def test_a_session_stays_where_it_is_and_only_for_its_tenant() -> None:
    pool = Pool("a", "b", "c", "d", strategy="prefix")
    router = await pool.start()
    assert len({await where(router, new_call(session="s")) for _ in range(8)}) == 1
    assert len({await where(router, new_call(tenant=f"t{number}", session="s")) for number in range(40)}) == 4


async def test_a_drained_backend_gets_nothing_new_and_finishes_what_it_has() -> None:
    pool = Pool("a", "b")
    router = await pool.start()
    (a, _) = router
    async with router.lease(new_call()) as backend:
        assert backend.name == "a"
        router.apply(snapshot(BackendSpec(id="a", url="http://a", draining=True), "b"))
        assert {await where(router) for _ in range(4)} == {"b"}
        assert a.in_flight == 1
    assert a.in_flight == 0
    router.apply(snapshot("a", "b"))
    assert {await where(router) for _ in range(4)} == {"a", "b"}
    assert pool.probe.questions("generate") == 2


async def test_a_removed_backend_finishes_what_it_has_and_is_watched_until_then() -> None:
    pool = Pool("a", "b", probe_interval_s=0.001)
    router, tasks = await pool.start(), Tasks()
    router.watch(tasks)
    lease = router.lease(new_call())
    assert (await lease.__aenter__()).name == "a"
    router.apply(snapshot("b"))
    assert pool.sample("backend_up", backend="a") is None
    asked = len(pool.probe.asked)
    await until(lambda: ("a", "ready") in pool.probe.asked[asked:])
    await lease.__aexit__(None, None, None)
    await asyncio.sleep(0.01)
    asked = len(pool.probe.asked)
    await until(lambda: len(pool.probe.asked) > asked + 5)
    assert ("a", "ready") not in pool.probe.asked[asked:]
    assert pool.sample("backend_requests_total", backend="a", outcome="ok") is None
    await tasks.close(1)


async def test_a_backend_at_another_address_must_prove_itself() -> None:
    pool = Pool("a")
    router = await pool.start()
    router.apply(snapshot(BackendSpec(id="a", url="http://elsewhere")))
    with pytest.raises(BackendUnavailable):
        await where(router)
    await router.examine()
    async with router.lease(new_call()) as backend:
        assert backend.url == "http://elsewhere"


async def test_saturation_is_that_of_the_least_loaded_backend_that_takes_calls() -> None:
    pool = Pool(BackendSpec(id="a", url="http://a", capacity_tokens=100), BackendSpec(id="b", url="http://b", slots=4))
    assert pool.router.saturation == 1
    router = await pool.start()
    assert router.saturation == 0
    async with router.lease(new_call(cost=50)), router.lease(new_call(cost=1)):
        assert pool.sample("backend_saturation", backend="a") == 0.5
        assert pool.sample("backend_in_flight_tokens", backend="a") == 50
        assert router.saturation == pool.sample("backend_saturation", backend="b") == 0.25
    assert router.saturation == 0


async def test_what_an_engine_says_of_itself_counts_and_silence_counts_as_full() -> None:
    pool = Pool("a")
    pool.probe.loads["a"] = EngineLoad(running=4, waiting=1, kv_usage=0.45, kv_tokens=1000)
    router = await pool.start()
    (a,) = router
    assert (router.saturation, a.capacity) == (0.5, 1000)
    pool.probe.loads["a"] = EngineLoad(running=8, waiting=6)
    await router.examine()
    assert router.saturation == 0.75
    pool.clock.now += 60
    assert router.saturation == 1


async def test_an_engine_is_overloaded_only_by_what_others_send() -> None:
    """So many wait inside it that no admission of ours would have let them in; silence tells nothing of that."""
    pool = Pool("a")
    router = await pool.start()
    for load, overload in [
        (EngineLoad(), 0.0),
        (EngineLoad(running=1, waiting=1), 0.05),
        (EngineLoad(running=32, waiting=32, kv_usage=1.0), 0.25),
        (EngineLoad(running=32, waiting=128), 1.0),
    ]:
        pool.probe.loads["a"] = load
        await router.examine()
        assert router.overload == overload


async def test_administrators_are_told_which_backend_answered() -> None:
    router = await Pool("a").start()
    call = new_call()
    async with router.lease(call):
        assert (call.backend, call.headers) == ("a", {})
    call.caller = Caller("key", "ops", frozenset({"admin"}))
    async with router.lease(call):
        assert call.headers == {"x-backend": "a"}


async def test_what_a_lease_holds_is_given_back_whole_even_if_the_call_turns_out_larger() -> None:
    pool = Pool("a")
    router = await pool.start()
    call = new_call(cost=10)
    async with router.lease(call):
        call.cost = 999
        assert pool.sample("backend_in_flight_tokens", backend="a") == 10
    assert pool.sample("backend_in_flight_tokens", backend="a") == 0
