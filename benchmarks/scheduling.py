"""What admission costs a request, and what it does to latency as the load grows, beside first come, first served.

Cost: turns through the real gate, on uvloop, that do nothing while they are inside. Latency: by simulation
(benchmarks/simulation.py), so it shows decisions and not this machine.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.chart import Line, line_chart
from benchmarks.report import machine, publish, table
from benchmarks.simulation import Arrival, Fifo, Policy, Run, Simulation, merge, poisson
from gateway.admission.gate import Gate
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.core.call import Call, Caller
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from gateway.core.limit import TimeLimit
from gateway.telemetry.metrics import Metrics

GOAL_US = 30.0
FIFO = "first come, first served"
TURNS = 20_000
CROWD = 10_000
ROUNDS = 5
TENANTS = 50
CHART = Path(__file__).resolve().parent.parent / "docs" / "images" / "admission-latency.svg"

PLACES = 32
SECONDS = 600.0
# What the engine of the simulation can do: places over the time of one request (200 tokens in, 200 out).
CAPACITY = PLACES / (200 / 4000 + 200 / 50)
LOADS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
SHARES: dict[PriorityClass, float] = {"interactive": 0.3, "standard": 0.3, "batch": 0.4}


def run(*, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met."""
    cost, met = costs()
    latency, lines = latencies()
    text = (
        f"`python -m benchmarks scheduling` · {machine()}\n\n"
        f"CPU time, median of {ROUNDS} rounds. Goal: at most {GOAL_US:.0f} µs for a turn that need not wait: "
        f"{'met' if met else 'not met'}. Where requests wait, the asyncio task of each is included.\n\n"
        f"{table(['', 'µs a request'], cost)}\n\n"
        f"Seconds from arrival to the end, p50 / p95, by offered load (1.0: all that the engine can do), simulated for "
        f"{SECONDS:.0f} s: {PLACES} places, about 200 tokens in and 200 out, 4 s of work. First come, first served has "
        "one queue with the bounds of one class.\n\n"
        f"{table(['load', *PRIORITY_CLASSES, FIFO, 'answered', 'fcfs answered'], latency)}\n\n"
        "![p95 by load](images/admission-latency.svg)\n"
    )
    if write:
        CHART.parent.mkdir(exist_ok=True)
        CHART.write_text(line_chart("p95 of arrival to end, s", "offered load", lines), "utf-8")
    publish("scheduling", text, write=write)
    return met


def costs() -> tuple[list[list[str]], bool]:
    alone = timed(free_turns)
    queued = [timed(lambda waiting=waiting: crowded_turns(waiting)) for waiting in (100, CROWD)]  # type: ignore[misc]
    refused = timed(refusals)
    rows = [
        ["nobody waits", f"**{alone:.1f}**"],
        ["100 wait: arrival, wait and turn", f"{queued[0]:.1f}"],
        [f"{CROWD} wait: arrival, wait and turn", f"{queued[1]:.1f}"],
        [f"refused while {CROWD} wait", f"{refused:.1f}"],
    ]
    return rows, alone <= GOAL_US


def timed(work: Callable[[], Coroutine[Any, Any, float]]) -> float:
    """Median microseconds."""
    return statistics.median(uvloop.run(work()) for _ in range(ROUNDS)) * 1e6


def new_gate(**changed: Any) -> Gate:
    return Gate(AdmissionSettings(max_queued=CROWD, max_queued_tokens=10**9, **changed), Metrics())


def new_call(number: int) -> Call:
    call = Call(id="r", uid="r", route="/", limit=TimeLimit(600), cost=300, prompt_cost=100)
    call.caller = Caller("key", f"tenant {number % TENANTS}", frozenset())
    return call


async def free_turns() -> float:
    gate = new_gate()
    calls = [new_call(number) for number in range(TURNS)]
    started = time.process_time()
    for call in calls:
        async with gate.turn(call):
            pass
    return (time.process_time() - started) / TURNS


async def crowded_turns(waiting: int) -> float:
    """So many come at once, each in a task of its own, and get their turns one by one."""
    gate = new_gate(max_running=1)

    async def visit(call: Call) -> None:
        async with gate.turn(call):
            pass

    calls = [new_call(number) for number in range(waiting)]
    started = time.process_time()
    await asyncio.gather(*(visit(call) for call in calls))
    return (time.process_time() - started) / waiting


async def refusals() -> float:
    gate = new_gate(max_running=1)

    async def visit(call: Call) -> None:
        async with gate.turn(call):
            await asyncio.sleep(0.001 if call.uid == "first" else 0)

    first = new_call(0)
    first.uid = "first"
    waiting = [asyncio.create_task(visit(one)) for one in (first, *map(new_call, range(CROWD)))]
    await asyncio.sleep(0)
    calls = [new_call(number) for number in range(CROWD)]
    started = time.process_time()
    outcomes = await asyncio.gather(*map(visit, calls), return_exceptions=True)
    seconds = time.process_time() - started
    if not all(isinstance(one, Exception) for one in outcomes):
        raise RuntimeError("somebody was let in who should have been refused")
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    return seconds / CROWD


def latencies() -> tuple[list[list[str]], list[Line]]:
    rows = []
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in (*PRIORITY_CLASSES, FIFO)}
    settings = AdmissionSettings(max_running=PLACES)
    for load in LOADS:
        arrivals = offered(load)
        ours, fifo = (play(policy, arrivals) for policy in (Scheduler(settings), Fifo(settings)))
        by_class: dict[str, list[float]] = {name: ended(ours, name) for name in PRIORITY_CLASSES}
        everybody = ended(fifo)
        cells = [spread(by_class[name]) for name in PRIORITY_CLASSES]
        rows.append([f"{load:.1f}", *cells, spread(everybody), answered(ours), answered(fifo)])
        for name, seconds in {**by_class, FIFO: everybody}.items():
            curves[name].append((load, percentile(seconds, 95)))
    return rows, [Line(name, points) for name, points in curves.items()]


def offered(load: float) -> list[Arrival]:
    """Four tenants in each class, together `load` times what the engine can do."""
    return merge(
        *(
            poisson(f"{name} {tenant}", load * CAPACITY * share / 4, SECONDS, seed=tenant, priority_class=name)
            for name, share in SHARES.items()
            for tenant in range(4)
        )
    )


def play(policy: Policy, arrivals: Sequence[Arrival]) -> list[Run]:
    return Simulation(policy).play(arrivals)


def ended(runs: Sequence[Run], name: PriorityClass | None = None) -> list[float]:
    """Seconds from arrival to end of those that were served."""
    return [
        run.ended - run.arrival.at
        for run in runs
        if run.ended is not None and not run.refused and name in (None, run.arrival.priority_class)
    ]


def answered(runs: Sequence[Run]) -> str:
    return f"{sum(not run.refused for run in runs) / len(runs):.0%}"


def percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1]


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} / {percentile(seconds, 95):.1f}"
