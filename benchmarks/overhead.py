"""What the gateway adds: the same chat straight to the ensemble and through the gateway, over HTTP, scripted engine.

Requests alternate between the two, one at a time, on connections that are kept open.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import psutil

from benchmarks.report import machine, publish, table
from trireme.stack import EmbeddedStack, isolated_settings

GOAL_MS = 2.0
TOKENS = (1, 64)
PROMPT = "Tell the story of a voyage from the harbour to the open sea and back, in all its detail."
Sample = tuple[float, float]


def run(requests: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="scripted")
        with EmbeddedStack(settings) as stack:
            rows, met = asyncio.run(compare(stack, requests))
    header = ["tokens", "measure", "direct p50 / p99 ms", "gateway p50 / p99 ms", "added p50 ms", "gateway CPU ms"]
    text = (
        f"`python -m benchmarks overhead --requests {requests}` · {machine()}\n\n"
        f"One stream, {requests} requests each way, alternating. Goal: added p50 ≤ {GOAL_MS:.0f} ms: "
        f"{'met' if met else 'not met'}.\n\n{table(header, rows)}\n"
    )
    publish("overhead", text, write=write)
    return met


async def compare(stack: EmbeddedStack, requests: int) -> tuple[list[list[str]], bool]:
    gateway = psutil.Process(stack.child("gateway").pid)
    rows, met = [], True
    async with aiohttp.ClientSession() as session:
        for tokens in TOKENS:
            ways = (direct(session, stack, tokens), through_gateway(session, stack, tokens))
            await alternate(ways, 50)
            before = gateway.cpu_times()
            ours, theirs = await alternate(ways, requests)
            after = gateway.cpu_times()
            cpu = 1000 * (after.user + after.system - before.user - before.system) / requests
            for position, measure in enumerate(("first token", "whole answer")):
                straight, routed = [one[position] for one in ours], [one[position] for one in theirs]
                added = 1000 * (statistics.median(routed) - statistics.median(straight))
                met = met and added <= GOAL_MS
                rows.append([str(tokens), measure, spread(straight), spread(routed), f"**{added:.2f}**", f"{cpu:.2f}"])
    return rows, met


def spread(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} / {1000 * statistics.quantiles(seconds, n=100)[98]:.2f}"


async def alternate(ways: tuple[Callable[[], Awaitable[Sample]], ...], requests: int) -> tuple[list[Sample], ...]:
    samples: tuple[list[Sample], ...] = tuple([] for _ in ways)
    for _ in range(requests):
        for way, found in zip(ways, samples, strict=True):
            found.append(await way())
    return samples


def direct(session: aiohttp.ClientSession, stack: EmbeddedStack, tokens: int) -> Callable[[], Awaitable[Sample]]:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens}
    url = f"{stack.triton_url}/v2/models/chat/generate_stream"
    return lambda: timed(session, url, {"request": json.dumps(body)}, {})


def through_gateway(
    session: aiohttp.ClientSession, stack: EmbeddedStack, tokens: int
) -> Callable[[], Awaitable[Sample]]:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens}
    headers = {"Authorization": f"Bearer {stack.dev_key}"}
    body_with_model = {**body, "model": stack.settings.model.name, "stream": True}
    return lambda: timed(session, f"{stack.gateway_url}/v1/chat/completions", body_with_model, headers)


async def timed(session: aiohttp.ClientSession, url: str, body: object, headers: dict[str, str]) -> Sample:
    """Seconds until the first event and until the end."""
    started, first = time.perf_counter(), 0.0
    async with session.post(url, json=body, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {await response.text()}")
        async for line in response.content:
            if not first and line.startswith(b"data: "):
                first = time.perf_counter() - started
    return first, time.perf_counter() - started
