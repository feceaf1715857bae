"""A tenant's latency beside another one's flood: real gateway, real tritonserver, the scripted engine at a fixed pace.

The engine takes the same time for a token however many run, so that what the flood changes is what admission makes of
it. First come, first served is the same gateway when both come with one tenant's key.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from statistics import quantiles

import aiohttp

from benchmarks.load import Target, beside, stream
from benchmarks.report import machine, publish, table
from trireme.keys import key_store, tenant_store
from trireme.stack import EmbeddedStack, isolated_settings

GOAL = 1.2
PLACES = 32
FLOOD = 96
TOKENS, TOKEN_MS = 20, 50
# Of the flood's answers: were all as long, they would begin and end together, and places come free all at once.
FLOOD_TOKENS = (TOKENS // 2, TOKENS * 3 // 2)
# Clients of the tenant that is watched; each asks so many times in a round.
CLIENTS, REQUESTS = 2, 10
CALM, FLOODING = "calm", "flood"
ALONE, BESIDE, FCFS = "nobody else", "a flood", "a flood, first come first served"


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met."""
    admission = {"max_running": PLACES, "standard_ceiling": 1.0}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), gateway={"admission": admission})
        with EmbeddedStack(settings) as stack:
            found = asyncio.run(measure(stack, rounds))
    text, met = summary(found, rounds)
    publish("flood", text, write=write)
    return met


async def measure(stack: EmbeddedStack, rounds: int) -> dict[str, list[float]]:
    """Seconds from the request to its last token, by what goes on beside it."""
    keys = {tenant: await new_key(stack, tenant) for tenant in (CALM, FLOODING)}
    calm, flooding = (Target(name, f"{stack.gateway_url}/v1", stack.settings.model.name, keys[name]) for name in keys)
    await known(calm, flooding)
    found: dict[str, list[float]] = {ALONE: [], BESIDE: [], FCFS: []}
    for number in range(rounds):
        found[ALONE] += await watched(calm)
        async with flood(flooding):
            found[BESIDE] += await watched(calm)
            found[FCFS] += await watched(flooding)
        sys.stderr.write(
            f"round {number + 1}: " + ", ".join(f"{name} {spread(found[name])}" for name in found) + " s\n"
        )
    return found


async def new_key(stack: EmbeddedStack, tenant: str) -> str:
    async with tenant_store(stack.settings) as tenants:
        await tenants.ensure(tenant)
    async with key_store(stack.settings) as store:
        return (await store.create(tenant=tenant, name="flood", scopes=frozenset({"inference"})))[1]


async def known(*targets: Target) -> None:
    """Until the gateway has read their keys."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        for target in targets:
            headers = {"Authorization": f"Bearer {target.key}"}
            while (await session.get(f"{target.url}/models", headers=headers)).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def watched(target: Target) -> list[float]:
    async with aiohttp.ClientSession() as session:

        async def client() -> list[float]:
            return [await ask(session, target) for _ in range(REQUESTS)]

        return [seconds for some in await asyncio.gather(*(client() for _ in range(CLIENTS))) for seconds in some]


@asynccontextmanager
async def flood(target: Target) -> AsyncIterator[None]:
    """So many clients that ask again as soon as they are answered, all of them there for a while."""
    dice = Random(1)

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            await ask(session, target, dice.randint(*FLOOD_TOKENS))

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        beside(client(session) for _ in range(FLOOD)),
    ):
        await asyncio.sleep(3 * TOKENS * TOKEN_MS / 1000)
        yield


async def ask(session: aiohttp.ClientSession, target: Target, tokens: int = TOKENS) -> float:
    fields = {"metadata": {"script_delay_ms": str(TOKEN_MS)}}
    return (await stream(session, target, "How far is it?", tokens, fields=fields)).total


def spread(seconds: Sequence[float]) -> str:
    """p50 / p90 / p99."""
    percentiles = quantiles(seconds, n=100, method="inclusive")
    return " / ".join(f"{percentiles[percent - 1]:.2f}" for percent in (50, 90, 99))


def summary(found: dict[str, list[float]], rounds: int) -> tuple[str, bool]:
    alone, beside = (quantiles(found[name], n=100, method="inclusive") for name in (ALONE, BESIDE))
    met = all(beside[percent] <= GOAL * alone[percent] for percent in (49, 89))
    rows = [[name, str(len(seconds)), spread(seconds)] for name, seconds in found.items()]
    text = (
        f"`python -m benchmarks flood --rounds {rounds}` · {machine()}\n\n"
        f"The scripted engine takes {TOKEN_MS} ms for a token and {TOKENS} tokens for an answer; {PLACES} places. "
        f"{CLIENTS} clients of one tenant ask one\nrequest after the other, while {FLOOD} of another tenant do the "
        f"same, for {FLOOD_TOKENS[0]} to {FLOOD_TOKENS[1]} tokens.\n"
        f"Goal: p50 and p90 beside the flood at most {GOAL} × those without: {'met' if met else 'not met'}.\n\n"
        f"{table(['beside it', 'requests', 'p50 / p90 / p99 s'], rows)}\n"
    )
    return text, met
