"""Traffic that repeats itself, as people's questions do, on the real engine: with the cache and without it.

Prompts are drawn by Zipf's law; the same draws for both. Each run begins with an empty cache.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.report import machine, publish, table
from trireme.stack import EmbeddedStack, isolated_settings

REQUESTS: Final = 200
PROMPTS: Final = 60
EXPONENT: Final = 1.1
STREAMS: Final = 8
TOKENS: Final = 24
SEED: Final = 7


@dataclass(frozen=True)
class Run:
    """Seconds of all, of each; tokens that the engine computed and that were asked for; how each was answered."""

    seconds: float
    latencies: Sequence[float]
    computed: int
    asked: int
    outcomes: Sequence[str]


def run(requests: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the cache spared the engine any work."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="vllm", gateway={"cache": {"mode": "exact"}})
        with EmbeddedStack(settings) as stack:
            without, cached = asyncio.run(compare(stack, drawn(requests)))
    text = report(without, cached, requests)
    publish("repeats", text, write=write)
    return cached.computed < without.computed


def drawn(requests: int) -> list[int]:
    """Numbers of prompts."""
    weights = [1 / rank**EXPONENT for rank in range(1, PROMPTS + 1)]
    return random.Random(SEED).choices(range(PROMPTS), weights, k=requests)


async def compare(stack: EmbeddedStack, numbers: Sequence[int]) -> tuple[Run, Run]:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {stack.dev_key}"}) as session:
        await play(session, stack, numbers[:STREAMS], {"cache-control": "no-store"})
        without = await play(session, stack, numbers, {"cache-control": "no-store"})
        return without, await play(session, stack, numbers, {})


async def play(
    session: aiohttp.ClientSession, stack: EmbeddedStack, numbers: Sequence[int], headers: dict[str, str]
) -> Run:
    """All requests in `STREAMS` streams. Raises RuntimeError when one is not answered."""
    waiting, latencies, outcomes = iter(numbers), list[float](), list[str]()
    asked = 0

    async def stream() -> None:
        nonlocal asked
        for number in waiting:
            began = time.perf_counter()
            url = f"{stack.gateway_url}/v1/chat/completions"
            async with session.post(url, json=body(stack, number), headers=headers) as response:
                answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer}")
            latencies.append(time.perf_counter() - began)
            outcomes.append(response.headers["x-cache"])
            asked += answer["usage"]["completion_tokens"]

    before, began = await computed(session, stack), time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(STREAMS)))
    seconds = time.perf_counter() - began
    return Run(seconds, latencies, await computed(session, stack) - before, asked, outcomes)


def body(stack: EmbeddedStack, number: int) -> dict[str, Any]:
    text = f"Question {number}: what should the crew of a trireme do when the wind turns for the {number}th time?"
    return {
        "model": stack.settings.model.name, "messages": [{"role": "user", "content": text}], "temperature": 0,
        "max_tokens": TOKENS,
    }  # fmt: skip


async def computed(session: aiohttp.ClientSession, stack: EmbeddedStack) -> int:
    """Tokens of answers that were used, by the gateway's own count, which is the engine's."""
    async with session.get(f"{stack.gateway_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    wanted = [line for line in lines if line.startswith("trireme_tokens_total{") and 'kind="completion"' in line]
    return round(sum(float(line.rpartition(" ")[2]) for line in wanted))


def report(without: Run, cached: Run, requests: int) -> str:
    hits = {name: cached.outcomes.count(name) / requests for name in ("hit-exact", "coalesced")}
    rows = [
        [
            name, f"{one.seconds:.1f}", f"{statistics.median(one.latencies):.2f}",
            f"{statistics.quantiles(one.latencies, n=20)[18]:.2f}", str(one.computed),
        ]
        for name, one in (("without", without), ("with the cache", cached))
    ]  # fmt: skip
    return (
        f"`python -m benchmarks repeats --requests {requests}` · {machine()}\n\n"
        f"{requests} chats of {TOKENS} tokens over {PROMPTS} prompts by Zipf's law (exponent {EXPONENT}), greedy, in "
        f"{STREAMS} streams.\n**{hits['hit-exact']:.0%}** were answered from the cache, {hits['coalesced']:.0%} waited "
        f"for the same answer: **{1 - cached.computed / without.computed:.0%}** of the tokens\nwere not computed, and "
        f"the whole took **{without.seconds / cached.seconds:.1f}** times less.\n\n"
        f"{table(['', 'seconds', 'p50 s', 'p95 s', 'tokens computed'], rows)}\n"
    )
