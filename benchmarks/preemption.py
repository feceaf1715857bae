"""Time to the first token of interactive requests while batch work fills the engine: ours against vLLM's own policy.

Two engines of the same arguments are up at the same time and take turns; one has the preemptive scheduler, the other
vLLM's `priority` policy. Straight at the engine: no gateway, no Triton.
"""

import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.load import beside
from benchmarks.report import machine, publish, table
from python_backends.llm.engine import EngineRequest
from python_backends.llm.vllm_engine import VllmEngine
from python_backends.messages import Plan, Sampling
from trireme.settings import Settings, load_settings
from trireme.triton import triton_environment

REQUESTS = 20  # interactive ones, a round and engine
WARM_UP = 2
PROMPT_TOKENS = 32
BATCH_TOKENS = 64
INTERACTIVE, BATCH = 0, 2
FILL_SECONDS = 3.0
# Engine steps between interactive requests, by slots. A batch request pauses twice at most, so that their rate has a
# limit: the more slots, the more of them there are to pause.
PAUSE_STEPS = {2: (10, 30), 16: (4, 16)}
GOAL = 1.5


@dataclass
class Found:
    """Seconds to the first token, without and with batch work; seconds of one engine step with it."""

    unloaded: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def bound(self) -> float:
        return GOAL * percentile(self.unloaded, 99) + statistics.mean(self.steps)


class Source:
    """Requests that have no prefix in common, so that no cache helps."""

    def __init__(self, engine: VllmEngine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._numbers = itertools.count(1)

    async def ask(self, tokens: int, priority: int) -> float:
        """Seconds to the first token, once all have come."""
        number = next(self._numbers)
        ids = [1000 + (number * 7919 + position * 31) % 40_000 for position in range(PROMPT_TOKENS)]
        plan = Plan(sampling=Sampling(max_tokens=tokens, temperature=0, ignore_eos=True), priority=priority)
        started, first = time.perf_counter(), 0.0
        async for _ in self._engine.generate(EngineRequest(f"{self._name}-{number}", ids, plan)):
            first = first or time.perf_counter() - started
        return first


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met with both numbers of slots."""
    settings = load_settings(environ={})
    os.environ |= {
        name: value for name, value in triton_environment(settings).items() if name.startswith(("VLLM_", "HF_"))
    }
    found = {slots: asyncio.run(compare(settings, slots, rounds)) for slots in PAUSE_STEPS}
    text, met = summary(found, rounds, settings)
    publish("preemption", text, write=write)
    return met


async def compare(settings: Settings, slots: int, rounds: int) -> dict[str, Found]:
    found = {"Trireme": Found(), "vLLM": Found()}
    async with engine(settings, slots, preemption=True) as ours, engine(settings, slots, preemption=False) as theirs:
        ways = [("Trireme", ours), ("vLLM", theirs)]
        for number in range(rounds + 1):
            for name, one in ways[:: 1 if number % 2 else -1]:
                into = found[name] if number else Found()
                await measure(one, Source(one, f"{name}-{number}"), slots, REQUESTS if number else WARM_UP, into)
                sys.stderr.write(f"{slots:2} slots, round {number}: {name} {spread(into.loaded)} ms\n")
    return found


@asynccontextmanager
async def engine(settings: Settings, slots: int, *, preemption: bool) -> AsyncIterator[VllmEngine]:
    arguments = {
        **settings.engine_args,
        "model": str(settings.model.path),
        "max_num_seqs": slots,
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
    }
    one = VllmEngine(arguments, preemption=preemption)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def measure(engine: VllmEngine, source: Source, slots: int, requests: int, into: Found) -> None:
    """One round: interactive requests one at a time, first alone, then with all slots taken and more work waiting."""
    pauses = random.Random(slots)
    into.unloaded += [await source.ask(4, INTERACTIVE) for _ in range(requests)]
    async with batch_work(source, 2 * slots):
        step = await step_seconds(engine)
        if not engine.state().waiting:
            raise RuntimeError(f"there is too little batch work for {slots} slots")
        for _ in range(requests):
            await asyncio.sleep(pauses.uniform(*PAUSE_STEPS[slots]) * step)
            into.loaded.append(await source.ask(4, INTERACTIVE))
        into.steps += [step, await step_seconds(engine)]
    while engine.state().running:
        await source.ask(1, INTERACTIVE)


async def step_seconds(engine: VllmEngine) -> float:
    """How long a step takes, over some time."""
    started, steps = time.perf_counter(), engine.state().steps
    await asyncio.sleep(FILL_SECONDS)
    return (time.perf_counter() - started) / max(engine.state().steps - steps, 1)


@asynccontextmanager
async def batch_work(source: Source, streams: int) -> AsyncIterator[None]:
    """`streams` requests at any time, of different ages: each is followed by the next."""

    async def stream(number: int) -> None:
        await source.ask(BATCH_TOKENS * (number + 1) // streams, BATCH)
        while True:
            await source.ask(BATCH_TOKENS, BATCH)

    async with beside(stream(number) for number in range(streams)):
        yield


def percentile(seconds: Sequence[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def spread(seconds: Sequence[float]) -> str:
    return f"{1000 * percentile(seconds, 50):.0f} / {1000 * percentile(seconds, 99):.0f}"


def summary(found: dict[int, dict[str, Found]], rounds: int, settings: Settings) -> tuple[str, bool]:
    rows, met = [], True
    for slots, ways in found.items():
        for name, one in ways.items():
            p99 = percentile(one.loaded, 99)
            met = met and (name != "Trireme" or p99 <= one.bound)
            step = f"{1000 * statistics.mean(one.steps):.0f}"
            bound = f"{1000 * one.bound:.0f}"
            rows.append([str(slots), name, spread(one.unloaded), f"**{spread(one.loaded)}**", step, bound])
    header = ["slots", "scheduler", "TTFT unloaded p50 / p99 ms", "TTFT loaded p50 / p99 ms", "step ms", "goal ms"]
    verdict = "met" if met else "not met everywhere"
    text = (
        f"`python -m benchmarks preemption --rounds {rounds}` · {machine()}\n\n"
        f"{settings.model.name}; {rounds * REQUESTS} interactive requests of {PROMPT_TOKENS} tokens each way, one at a "
        f"time, while batch requests of {BATCH_TOKENS} tokens\nfill all slots and as many again wait. "
        f"Goal: loaded p99 ≤ {GOAL} × unloaded p99 + one engine step: {verdict}.\n\n{table(header, rows)}\n"
    )
    return text, met
