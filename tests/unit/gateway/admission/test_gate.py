"""Who gets a turn, who waits, who is refused."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from gateway.admission.gate import Gate
from gateway.admission.settings import AdmissionSettings
from gateway.core.call import Call, Caller
from gateway.core.identity import PRIORITY_CLASSES
from gateway.core.limit import TimeLimit
from gateway.errors import DeadlineUnmeetable, InvalidRequest, Overloaded, QueueTimeout, Shed, ShuttingDown
from gateway.telemetry.metrics import Metrics
from tests.unit.gateway.admission.visiting import Visitor, metric, new_call, new_gate, settle


async def test_saturation_is_the_fuller_of_places_and_tokens() -> None:
    gate = new_gate(max_running=4, max_running_tokens=100)
    assert gate.saturation == 0
    async with gate.turn(new_call(10)):
        assert gate.saturation == 0.25
        async with gate.turn(new_call(80)):
            assert gate.saturation == 0.9
    assert gate.saturation == 0


async def test_places_and_tokens_are_both_bounds() -> None:
    gate = new_gate(max_running=2, max_running_tokens=100, max_queued=0)
    async with AsyncExitStack() as held:
        await held.enter_async_context(gate.turn(new_call(90)))
        with pytest.raises(Overloaded):
            await held.enter_async_context(gate.turn(new_call(11)))
        await held.enter_async_context(gate.turn(new_call(10)))
        with pytest.raises(Overloaded):
            await held.enter_async_context(gate.turn(new_call(0)))


async def test_a_small_one_may_pass_a_large_one_that_does_not_fit_and_then_all_wait_for_it() -> None:
    gate = new_gate(max_running=10, max_running_tokens=100, overtake_tokens=15)
    first = Visitor(gate, new_call(60))
    await settle()
    large, small, other = Visitor(gate, new_call(50)), Visitor(gate, new_call(10)), Visitor(gate, new_call(10))
    await settle()
    assert (large.inside, small.inside, other.inside) == (False, True, False)
    await first.leave()
    await settle()
    assert (large.inside, other.inside) == (True, True)
    for visitor in (large, small, other):
        await visitor.leave()


async def test_the_queue_is_bounded_by_requests_and_by_tokens() -> None:
    gate = new_gate(max_running=1, max_queued=2, max_queued_tokens=50)
    visitors = [Visitor(gate, new_call(10)), Visitor(gate, new_call(10))]
    await settle()
    with pytest.raises(Overloaded) as refused:
        async with gate.turn(new_call(41)):
            pass
    assert refused.value.retry_after == 1.0
    visitors.append(Visitor(gate, new_call(40)))
    await settle()
    with pytest.raises(Overloaded):
        async with gate.turn(new_call(0)):
            pass
    for visitor in visitors:
        await visitor.leave()


async def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="101"):
        async with new_gate(max_running_tokens=100).turn(new_call(101)):
            pass


async def test_who_waits_too_long_is_sent_away_and_leaves_nothing_behind() -> None:
    gate = new_gate(max_running=1, standard_timeout_s=0.01)
    first = Visitor(gate, new_call())
    await settle()
    with pytest.raises(QueueTimeout):
        async with gate.turn(new_call()):
            pass
    assert gate.queued == 0
    await first.leave()
    assert gate.saturation == 0


async def test_who_leaves_the_queue_makes_room_for_the_next() -> None:
    gate = new_gate(max_running=10, max_running_tokens=100, overtake_tokens=0)
    first = Visitor(gate, new_call(60))
    await settle()
    large, small = Visitor(gate, new_call(50)), Visitor(gate, new_call(10))
    await settle()
    large.task.cancel()
    await settle()
    assert small.inside
    await first.leave()
    await small.leave()
    assert gate.saturation == 0


async def test_a_turn_granted_to_one_who_just_left_goes_to_the_next() -> None:
    """Grant and cancellation in the same moment, in both orders."""
    for cancel_first in (True, False):
        gate = new_gate(max_running=1)
        first = Visitor(gate, new_call())
        await settle()
        gone, next_one = Visitor(gate, new_call()), Visitor(gate, new_call())
        await settle()
        leaving = asyncio.create_task(first.leave())
        if cancel_first:
            gone.task.cancel()
            await settle()
        else:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gone.task.cancel()
        await leaving
        await settle()
        with suppress(asyncio.CancelledError):
            await gone.task
        await settle()
        assert next_one.inside
        await next_one.leave()
        assert gate.saturation == 0


async def test_closing_refuses_newcomers_and_waiters_and_lets_the_running_finish() -> None:
    gate = new_gate(max_running=1)
    first = Visitor(gate, new_call())
    await settle()
    waiting = Visitor(gate, new_call())
    await settle()
    gate.close()
    with pytest.raises(ShuttingDown):
        await waiting.task
    with pytest.raises(ShuttingDown):
        async with gate.turn(new_call()):
            pass
    assert first.inside
    drained = asyncio.create_task(gate.drained())
    await settle()
    assert not drained.done()
    await first.leave()
    await drained


async def test_a_call_that_names_no_class_gets_the_default_one_and_the_engine_its_priority() -> None:
    gate = new_gate(default_class="batch")
    silent, urgent = new_call(), new_call()
    urgent.priority_class = "interactive"
    async with gate.turn(silent), gate.turn(urgent):
        assert (silent.priority_class, silent.priority) == ("batch", 2)
        assert (urgent.priority_class, urgent.priority) == ("interactive", 0)
    bounded = new_call()
    bounded.caller = Caller("key", "acme", frozenset(), max_priority="batch")
    async with new_gate().turn(bounded):
        assert bounded.priority_class == "batch"


async def test_a_call_learns_its_place_in_the_queue() -> None:
    gate = new_gate(max_running=1)
    calls = [new_call() for _ in range(3)]
    visitors = []
    for call in calls:
        visitors.append(Visitor(gate, call))
        await settle()
    assert [call.queue_position for call in calls] == [0, 1, 2]
    for visitor in visitors:
        await visitor.leave()


async def test_tenants_are_told_apart_by_the_key_and_charged_for_what_was_computed() -> None:
    gate = new_gate()
    call = new_call(100)
    call.prompt_cost = 40
    call.caller = Caller("key_1", "acme", frozenset(), weight=2.0)
    async with gate.turn(call):
        call.usage.add(40, 7, 30)
    (acme,) = gate.snapshot().tenants
    assert (acme.tenant, acme.weight) == ("acme", 2.0)
    assert acme.served == (10 + 2 * 7) / 2.0


async def test_an_answer_that_ended_early_is_charged_its_prompt_and_the_tokens_that_came() -> None:
    gate = new_gate()
    ended, failed = new_call(100), new_call(100)
    for call in (ended, failed):
        call.prompt_cost = 40
    async with gate.turn(ended):
        ended.saw_tokens(3)
    assert gate.snapshot().tenants[0].served == 40 + 2 * 3
    async with gate.turn(failed):
        pass
    assert gate.snapshot().tenants[0].served == 40 + 2 * 3


async def test_a_deadline_that_cannot_be_met_is_refused_before_it_passes() -> None:
    now = 0.0
    gate = Gate(AdmissionSettings(max_running=1), Metrics(), clock=lambda: now)
    visitors = [Visitor(gate, new_call(100)) for _ in range(4)]
    await settle()
    for visitor in visitors[:2]:
        now += 1.0
        await visitor.leave()
    with pytest.raises(DeadlineUnmeetable, match="expected in"):
        async with gate.turn(Call(id="r", uid="r", route="/", limit=TimeLimit(0.5), cost=200)):
            pass
    for visitor in visitors[2:]:
        await visitor.leave()
    assert gate.saturation == 0


async def test_strain_of_the_backends_sheds_by_class() -> None:
    gate = Gate(AdmissionSettings(default_class="batch"), Metrics(), strain=lambda: 0.9)
    with pytest.raises(Shed):
        async with gate.turn(new_call()):
            pass
    assert gate.snapshot().classes["batch"].refused == {"shed": 1}
    assert gate.snapshot().pressure == 0.9


async def test_each_class_waits_as_long_as_it_may() -> None:
    gate = new_gate(max_running=1, interactive_timeout_s=0.02, batch_timeout_s=0.01)
    first = Visitor(gate, new_call())
    await settle()
    calls = {name: new_call() for name in PRIORITY_CLASSES}
    for name, call in calls.items():
        call.priority_class = name
    visitors = {name: Visitor(gate, call) for name, call in calls.items()}
    with pytest.raises(QueueTimeout, match=r"0\.02 s"):
        await visitors["interactive"].task
    with pytest.raises(QueueTimeout, match=r"0\.01 s"):
        await visitors["batch"].task
    await first.leave()
    await settle()
    assert visitors["standard"].inside
    await visitors["standard"].leave()


async def test_every_ending_is_counted_by_class_and_reason() -> None:
    metrics = Metrics()
    gate = Gate(AdmissionSettings(max_running=1, max_queued=2, batch_timeout_s=0.01), metrics)
    first = Visitor(gate, new_call(30))
    await settle()
    gone, waits = Visitor(gate, new_call(7)), Visitor(gate, new_call(5))
    await settle()
    assert metric(metrics, "trireme_admission_queued", **{"class": "standard"}) == 2
    assert metric(metrics, "trireme_admission_queued_tokens", **{"class": "standard"}) == 12
    assert metric(metrics, "trireme_admission_waiting_tenants", **{"class": "standard"}) == 1
    assert metric(metrics, "trireme_admission_pressure") == 1
    with pytest.raises(Overloaded):
        async with gate.turn(new_call()):
            pass
    gone.task.cancel()
    await settle()
    with pytest.raises(QueueTimeout):
        async with gate.turn(batch_call()):
            pass
    await first.leave()
    await settle()
    await waits.leave()
    gate.close()
    with pytest.raises(ShuttingDown):
        async with gate.turn(new_call()):
            pass
    refusals = "trireme_admission_refusals_total"
    assert {reason: metric(metrics, refusals, reason=reason, **{"class": "standard"}) for reason in REASONS} == {
        "overloaded": 1, "left": 1, "shutting_down": 1, "queue_timeout": 0,
    }  # fmt: skip
    assert metric(metrics, refusals, reason="queue_timeout", **{"class": "batch"}) == 1
    assert metric(metrics, "trireme_admission_wait_seconds_count", **{"class": "standard"}) == 2


REASONS = ("overloaded", "left", "shutting_down", "queue_timeout")


def batch_call() -> Call:
    call = new_call()
    call.priority_class = "batch"
    return call


async def test_the_adaptive_limit_follows_the_speed_of_the_answers() -> None:
    gate = new_gate(limit="adaptive", max_running_tokens=1000, min_running_tokens=10)
    for number in range(200):
        call = new_call(600)
        async with gate.turn(call):
            call.saw_tokens(1)
            call.tokens_seen = 11
            assert call.first_token_at is not None
            call.last_token_at = call.first_token_at + (0.1 if number < 50 else 1.0)
    assert 10 <= gate.snapshot().token_limit < 900


async def test_ending_all_stops_those_who_run_by_their_time_limit() -> None:
    gate = new_gate()
    call = new_call()

    async def work() -> None:
        async with call.limit, gate.turn(call):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await settle()
    gate.end_all(ShuttingDown("bye"))
    with pytest.raises(ShuttingDown):
        await task
    await gate.drained()


async def test_one_that_waited_in_vain_knows_how_long() -> None:
    gate = new_gate(max_running=1, standard_timeout_s=0.01)
    async with gate.turn(new_call()):
        refused, left = new_call(), new_call()
        with pytest.raises(QueueTimeout):
            await Visitor(gate, refused).task
        waiting = Visitor(gate, left)
        await settle()
        waiting.task.cancel()
        await settle()
    assert refused.stages["admission"] > 0
    assert left.stages["admission"] > 0
