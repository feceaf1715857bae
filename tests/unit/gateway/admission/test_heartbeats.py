"""Those who wait are told their place."""

import pytest

from gateway.admission.gate import Gate
from gateway.admission.settings import AdmissionSettings
from gateway.core.call import Call
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from gateway.errors import ClientGone, ShuttingDown
from gateway.telemetry.metrics import Metrics
from tests.unit.gateway.admission.visiting import Visitor, metric, new_call, new_gate, settle
from tests.unit.gateway.waiting import until

BEATS = {"max_running": 1, "heartbeat_s": 0.001}


def listening_call(places: list[int], priority_class: PriorityClass = "batch", *, gone: bool = False) -> Call:
    """Writes down the places that it is told; `gone`: its client has left."""
    call = new_call()
    call.priority_class = priority_class

    async def heartbeat(place: int) -> None:
        places.append(place)
        if gone:
            raise ClientGone("the client closed the connection")

    call.heartbeat = heartbeat
    return call


async def test_one_that_waits_is_told_its_place_again_and_again() -> None:
    gate, places = new_gate(**BEATS), list[int]()
    first, ahead = Visitor(gate, new_call()), new_call()
    await settle()
    ahead.priority_class = "batch"
    leaving, waiting = Visitor(gate, ahead), Visitor(gate, listening_call(places))
    await until(lambda: places.count(2) >= 2)
    leaving.task.cancel()
    await until(lambda: places[-1] == 1)
    await first.leave()
    await until(lambda: waiting.inside)
    await waiting.leave()
    assert places == sorted(places, reverse=True)
    assert gate.saturation == 0


@pytest.mark.parametrize(
    ("least", "hear"), [("batch", {"batch"}), ("standard", {"standard", "batch"}), ("interactive", {*PRIORITY_CLASSES})]
)
async def test_only_the_classes_that_are_chosen_are_told(least: PriorityClass, hear: set[str]) -> None:
    gate = new_gate(**BEATS, heartbeat_class=least)
    places: dict[PriorityClass, list[int]] = {name: [] for name in PRIORITY_CLASSES}
    async with gate.turn(new_call()):
        visitors = [Visitor(gate, listening_call(told, name)) for name, told in places.items()]
        await until(lambda: all(places[name] for name in PRIORITY_CLASSES if name in hear))
        for visitor in visitors:
            visitor.task.cancel()
    assert {name for name, told in places.items() if told} == hear


async def test_without_heartbeats_nobody_is_told() -> None:
    gate, places = new_gate(max_running=1), list[int]()
    async with gate.turn(new_call()):
        waiting = Visitor(gate, listening_call(places))
        await settle()
        waiting.task.cancel()
    assert places == []


async def test_a_client_that_is_found_gone_by_a_heartbeat_leaves_the_queue() -> None:
    metrics, places = Metrics(), list[int]()
    gate = Gate(AdmissionSettings(**BEATS), metrics)
    async with gate.turn(new_call()):
        waiting = Visitor(gate, listening_call(places, gone=True))
        with pytest.raises(ClientGone):
            await waiting.task
        assert gate.queued == 0
    assert metric(metrics, "trireme_admission_refusals_total", **{"class": "batch", "reason": "left"}) == 1
    assert gate.saturation == 0


async def test_a_refusal_reaches_one_that_was_told_its_place() -> None:
    gate, places = new_gate(**BEATS), list[int]()
    async with gate.turn(new_call()):
        waiting = Visitor(gate, listening_call(places))
        await until(lambda: places)
        gate.close()
        with pytest.raises(ShuttingDown):
            await waiting.task
