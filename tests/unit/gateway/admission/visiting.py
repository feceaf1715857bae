"""Gates, and visitors who hold their turns until they are told to leave."""

import asyncio
from typing import Any

from gateway.admission.gate import Gate
from gateway.admission.settings import AdmissionSettings
from gateway.core.call import Call
from gateway.core.limit import TimeLimit
from gateway.telemetry.metrics import Metrics


def new_gate(**settings: Any) -> Gate:
    return Gate(AdmissionSettings(**settings), Metrics())


def new_call(cost: int = 10, name: str = "r") -> Call:
    return Call(id=name, uid=name, route="/", limit=TimeLimit(60), cost=cost)


def metric(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


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
