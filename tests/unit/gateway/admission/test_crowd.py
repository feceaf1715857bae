"""Ten thousand at once."""

import asyncio
import gc
import time
from collections import Counter
from dataclasses import dataclass, field

from gateway.admission.gate import Gate
from gateway.admission.line import Ticket
from gateway.core.call import Caller
from gateway.core.identity import PRIORITY_CLASSES
from gateway.errors import Overloaded, Shed
from tests.unit.gateway.admission.test_gate import new_call, new_gate, settle


@dataclass
class Crowd:
    """Asks all at once; some of them leave while they wait. `refusal_s`: CPU time of each refusal."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusal_s: list[float] = field(default_factory=list)
    most_queued: int = 0

    async def visit(self, gate: Gate, number: int, leaving: slice) -> None:
        tasks = [asyncio.create_task(self._ask(gate, one)) for one in range(number)]
        await settle()
        for task in tasks[leaving]:
            task.cancel()
        await asyncio.wait(tasks)
        self.outcomes["left"] = sum(one.cancelled() for one in tasks)

    async def _ask(self, gate: Gate, number: int) -> None:
        call = new_call(100)
        call.caller = Caller("key", f"tenant {number % 50}", frozenset())
        call.priority_class = PRIORITY_CLASSES[number % 2]
        began = time.thread_time()
        try:
            async with gate.turn(call):
                self.most_queued = max(self.most_queued, gate.queued)
                await asyncio.sleep(0)
            self.outcomes["served"] += 1
        except (Overloaded, Shed) as refused:
            self.refusal_s.append(time.thread_time() - began)
            self.outcomes[refused.code] += 1


async def test_ten_thousand_at_once_are_all_answered_quickly_and_leave_nothing_behind() -> None:
    tickets_before = tickets_alive()
    gate = new_gate(max_running=64, max_queued=4000, max_queued_tokens=10**9)
    crowd = Crowd()
    async with asyncio.timeout(60):
        await crowd.visit(gate, 10_000, leaving=slice(1000, 1100))
        await settle()
    assert crowd.outcomes.total() == 10_000
    assert crowd.outcomes.keys() == {"served", "overloaded", "shed", "left"}
    assert crowd.outcomes["served"] > 6000
    assert crowd.most_queued <= 8000
    assert max(crowd.refusal_s) < 0.05
    assert (gate.queued, gate.scheduler.running, gate.scheduler.running_tokens) == (0, 0, 0)
    assert all(not line.tokens and not line.counters.active for line in gate.scheduler.lines.values())
    await gate.drained()
    assert tickets_alive() <= tickets_before


def tickets_alive() -> int:
    gc.collect()
    return sum(type(one) is Ticket for one in gc.get_objects())
