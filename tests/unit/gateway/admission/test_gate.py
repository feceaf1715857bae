"""Who gets a turn, who waits, who is refused."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from gateway.admission.gate import Gate, GateSettings
from gateway.core.call import Call
from gateway.core.limit import TimeLimit
from gateway.errors import InvalidRequest, Overloaded, QueueTimeout, ShuttingDown
from gateway.telemetry.metrics import Metrics


def new_gate(**settings: float) -> Gate:
    return Gate(GateSettings(**settings), Metrics())  # type: ignore[arg-type]


def new_call(cost: int = 10, name: str = "r") -> Call:
    return Call(id=name, uid=name, route="/", limit=TimeLimit(60), cost=cost)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Visitor:
    """Holds its turn until told to leave."""

    def __init__(self, gate: Gate, call: Call) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate, call))

    async def _visit(self, gate: Gate, call: Call) -> None:
        async with gate.turn(call):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


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


async def test_first_come_first_served_also_when_a_later_one_would_fit() -> None:
    gate = new_gate(max_running=10, max_running_tokens=100)
    first = Visitor(gate, new_call(60))
    await settle()
    large, small = Visitor(gate, new_call(50)), Visitor(gate, new_call(10))
    await settle()
    assert (large.inside, small.inside) == (False, False)
    await first.leave()
    await settle()
    assert (large.inside, small.inside) == (True, True)
    await large.leave()
    await small.leave()


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
    gate = new_gate(max_running=1, queue_timeout_s=0.01)
    first = Visitor(gate, new_call())
    await settle()
    with pytest.raises(QueueTimeout):
        async with gate.turn(new_call()):
            pass
    assert gate.queued == 0
    await first.leave()
    assert gate.saturation == 0


async def test_who_leaves_the_queue_makes_room_for_the_next() -> None:
    gate = new_gate(max_running=10, max_running_tokens=100)
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
