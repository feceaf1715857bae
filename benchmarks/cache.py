"""What a hit takes, what a miss adds, and what a hit takes in LiteLLM's proxy with its Redis cache.

Both proxies stand before one upstream process, keep their answers in one Valkey, and are one process each. All ways to
an answer take turns in blocks of requests; differences are taken within a round.
"""

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import uvloop

from benchmarks.chats import MAX_TOKENS, cpu_seconds
from benchmarks.litellm_proxy import litellm_server, prepared, version_in
from benchmarks.report import machine, publish, table
from benchmarks.servers import serving
from trireme.settings import LOOPBACK
from trireme.stack import EmbeddedStack, isolated_settings

ROUNDS: Final = 10
REQUESTS: Final = 6000
LEVELS: Final = (1, 16)
UPSTREAM_SECONDS: Final = 20.0
# So many that each comes again only after the gateway's own copy is gone, at more requests a second than there are.
PROMPTS: Final = 6000
GOAL_HIT_MS: Final = 1.0
GOAL_MISS_MS: Final = 0.5
GOAL_RATE: Final = 2000.0
_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class Way:
    """`repeats`: how many different prompts take turns; 0: none comes twice. `headers`: of every request."""

    name: str
    url: str
    model: str
    repeats: int
    headers: Mapping[str, str]
    process: psutil.Process | None

    def body(self) -> dict[str, Any]:
        number = next(_numbers)
        number = number % self.repeats if self.repeats else number + PROMPTS
        text = f"Tell the story of voyage {number}, from the harbour to the open sea and back."
        message = {"role": "user", "content": text}
        return {"model": self.model, "messages": [message], "max_tokens": MAX_TOKENS, "temperature": 0}


@dataclass(frozen=True)
class Block:
    """Seconds of all requests, of each of them, and of the proxy's CPU."""

    seconds: float
    latencies: Sequence[float]
    cpu: float


Blocks = dict[tuple[int, Way], list[Block]]


def run(requests: int, *, write: bool, litellm: Path | None = None) -> bool:
    """Measure, print and (with `write`) record; returns whether the goals were met."""
    place = prepared(litellm)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, systems(Path(scratch), place) as ways:
        blocks = uvloop.run(measure(ways, requests))
    text, met = report(ways, blocks, requests, version_in(place))
    publish("cache", text, write=write)
    return met


@contextmanager
def systems(scratch: Path, litellm: Path) -> Iterator[list[Way]]:
    settings = isolated_settings(scratch, gateway={"cache": {"mode": "exact"}})
    command = [sys.executable, "-m", "benchmarks.upstream", str(settings.ports.triton_http)]
    upstream, model = f"http://{LOOPBACK}:{settings.ports.triton_http}", settings.model.name
    with (
        serving(command, f"{upstream}/v2/health/ready", scratch / "upstream.log", within=UPSTREAM_SECONDS),
        EmbeddedStack(settings, parts={"valkey", "gateway"}) as stack,
        litellm_server(
            litellm, scratch, keys={"sk-all": {"team_id": "all"}}, model=model, upstream=upstream,
            valkey=stack.valkey_url, cache=True,
        ) as (url, process),
    ):  # fmt: skip
        gateway, peer = psutil.Process(stack.child("gateway").pid), psutil.Process(process)
        ours = {"authorization": f"Bearer {stack.dev_key}"}
        address = f"{stack.gateway_url}/v1/chat/completions"
        theirs = {"authorization": "Bearer sk-all"}
        yield [
            Way("no cache", address, model, 0, {**ours, "cache-control": "no-store"}, gateway),
            Way("miss", address, model, 0, ours, gateway),
            Way("hit in Valkey", address, model, PROMPTS, ours, gateway),
            Way("hit in the gateway", address, model, 1, ours, gateway),
            Way("LiteLLM, hit", f"{url}/v1/chat/completions", model, 1, theirs, peer),
        ]


async def measure(ways: Sequence[Way], requests: int) -> Blocks:
    """One round to fill the caches, and `ROUNDS`; the order turns round each time."""
    blocks: Blocks = {(level, way): [] for level in LEVELS for way in ways}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for way in ways:
            await block(session, way, LEVELS[-1], max(way.repeats, 200))
        await check(session, ways)
        for number in range(ROUNDS):
            for level in LEVELS:
                for way in ways[:: 1 if number % 2 else -1]:
                    blocks[level, way].append(await block(session, way, level, requests // ROUNDS))
            sys.stderr.write(f"round {number + 1} of {ROUNDS}\n")
    return blocks


async def check(session: aiohttp.ClientSession, ways: Sequence[Way]) -> None:
    """What is measured must be so. Raises RuntimeError."""
    wanted = {"no cache": "bypass", "miss": "miss", "hit in Valkey": "hit-exact", "hit in the gateway": "hit-exact"}
    for way in ways:
        async with session.post(way.url, json=way.body(), headers=way.headers) as response:
            found = response.headers.get("x-cache")
            if way.name in wanted and found != wanted[way.name]:
                raise RuntimeError(f"{way.name}: the gateway says x-cache: {found}")
            if way.name not in wanted and "x-litellm-cache-key" not in response.headers:
                raise RuntimeError(f"{way.name}: there is no sign of a cache in {dict(response.headers)}")


async def block(session: aiohttp.ClientSession, way: Way, streams: int, requests: int) -> Block:
    """Raises RuntimeError when one is not answered with 200."""
    latencies: list[float] = []

    async def stream() -> None:
        for _ in range(requests // streams):
            began = time.perf_counter()
            async with session.post(way.url, json=way.body(), headers=way.headers) as response:
                text = await response.read()
            latencies.append(time.perf_counter() - began)
            if response.status != 200:
                raise RuntimeError(f"{way.name} answered {response.status}: {text[:500]!r}")

    before, began = cpu_seconds(way.process), time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    return Block(time.perf_counter() - began, latencies, cpu_seconds(way.process) - before)


def report(ways: Sequence[Way], blocks: Blocks, requests: int, version: str) -> tuple[str, bool]:
    """The text, and whether the goals were met."""
    plain, miss, stored, near, peer = ways
    one, many = LEVELS
    added = 1000 * statistics.median(
        p50(ours) - p50(theirs) for ours, theirs in zip(blocks[one, miss], blocks[one, plain], strict=True)
    )
    hit, capacity = 1000 * median(blocks[one, stored]), 1 / cpu(blocks[many, near])
    met = hit <= GOAL_HIT_MS and added <= GOAL_MISS_MS and capacity >= GOAL_RATE
    rows = [row(level, way, blocks[level, way]) for level in LEVELS for way in ways]
    ratios = [
        [
            f"hit, p50, {level} streams",
            *(f"{median(blocks[level, peer]) / median(blocks[level, way]):.1f}" for way in (stored, near)),
        ]
        for level in LEVELS
    ] + [
        [
            "hit, CPU of the proxy",
            *(f"{cpu(blocks[many, peer]) / cpu(blocks[many, way]):.1f}" for way in (stored, near)),
        ]
    ]
    text = (
        f"`python -m benchmarks cache --requests {requests}` · {machine()}\n\n"
        f"Whole chats of {MAX_TOKENS} tokens, {requests} of each way and level in {ROUNDS} interleaved rounds; LiteLLM "
        f"{version}.\nA hit takes **{hit:.2f} ms** with the answer in Valkey; a miss adds **{added:.2f} ms**; one "
        f"core answers **{capacity:.0f}** hits\na second (requests for each second of the gateway's CPU). Goals: a hit "
        f"within {GOAL_HIT_MS:.0f} ms, a miss at most {GOAL_MISS_MS} ms more, {GOAL_RATE:.0f} hits a second: "
        f"{'met' if met else 'not met'}.\n\n"
        f"{table(['streams', 'way', 'requests/s', 'p50 ms', 'p99 ms', 'CPU ms'], rows)}\n\n"
        f"{table(['LiteLLM ÷ Trireme', 'in Valkey', 'in the gateway'], ratios)}\n"
    )
    return text, met


def row(level: int, way: Way, found: Sequence[Block]) -> list[str]:
    latencies = [one for each in found for one in each.latencies]
    rate = statistics.median(len(each.latencies) / each.seconds for each in found)
    p99 = statistics.quantiles(latencies, n=100)[98]
    times = [f"{1000 * median(found):.2f}", f"{1000 * p99:.2f}", f"{1000 * cpu(found):.2f}"]
    return [str(level), way.name, f"{rate:.0f}", *times]


def p50(block: Block) -> float:
    return statistics.median(block.latencies)


def median(found: Sequence[Block]) -> float:
    """Seconds: the median of the rounds' medians."""
    return statistics.median(map(p50, found))


def cpu(found: Sequence[Block]) -> float:
    """Seconds of the proxy for one request."""
    return sum(one.cpu for one in found) / sum(len(one.latencies) for one in found)
