"""What tracing costs: CPU time of the gateway for one request without it, at 1 % and with a trace of every request.

Three gateways before the same `benchmarks.upstream`, which also plays the collector; blocks of requests alternate.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import uvloop

from benchmarks.report import machine, publish, table
from benchmarks.servers import serving
from trireme.settings import LOOPBACK
from trireme.stack import EmbeddedStack, isolated_settings

ROUNDS = 9
GOAL = 0.03
UPSTREAM_SECONDS = 30.0
# Name and part of the requests that is traced; None: tracing is off.
WAYS: dict[str, float | None] = {"off": None, "1 %": 0.01, "100 %": 1.0}


def run(requests: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether the goal was met. `requests`: of each way."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, gateways(Path(scratch)) as stacks:
        blocks = uvloop.run(measure(stacks, requests // ROUNDS))
    medians = {name: statistics.median(found) for name, found in blocks.items()}
    off = medians["off"]
    met = medians["1 %"] <= off * (1 + GOAL)
    rows = [
        [name, f"{value:.0f}", f"{min(blocks[name]):.0f} to {max(blocks[name]):.0f}", f"{value - off:+.0f}"]
        for name, value in medians.items()
    ]
    text = (
        f"`python -m benchmarks tracing --requests {requests}` · {machine()}\n\n"
        "CPU time of the gateway's process, its sending thread included; one request at a time, not streamed; medians "
        f"of {ROUNDS} blocks of {requests // ROUNDS}. Goal: at 1 % at most {GOAL:.0%} more: "
        f"{'met' if met else 'not met'}.\n\n"
        f"{table(['traced', 'µs a request', 'blocks', 'added µs'], rows)}\n"
    )
    publish("tracing", text, write=write)
    return met


@contextmanager
def gateways(scratch: Path) -> Iterator[dict[str, EmbeddedStack]]:
    """One a way, each with a Valkey of its own."""
    with ExitStack() as running:
        port = isolated_settings(scratch).ports.triton_http
        upstream = f"http://{LOOPBACK}:{port}"
        command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
        log = scratch / "upstream.log"
        running.enter_context(serving(command, f"{upstream}/v2/health/ready", log, within=UPSTREAM_SECONDS))
        stacks = {}
        for number, (name, ratio) in enumerate(WAYS.items()):
            traces = {} if ratio is None else {"endpoint": upstream, "sample_ratio": ratio}
            settings = isolated_settings(scratch / str(number), gateway={"traces": traces})
            settings = replace(settings, ports=replace(settings.ports, triton_http=port))
            stacks[name] = running.enter_context(EmbeddedStack(settings, parts={"valkey", "gateway"}))
        yield stacks


async def measure(stacks: dict[str, EmbeddedStack], requests: int) -> dict[str, list[float]]:
    """Microseconds a request, of each block; the first round only warms up."""
    blocks: dict[str, list[float]] = {name: [] for name in stacks}
    async with aiohttp.ClientSession() as session:
        for number in range(ROUNDS + 1):
            for name in list(stacks)[:: 1 if number % 2 else -1]:
                spent = await block(session, stacks[name], requests)
                if number:
                    blocks[name].append(spent)
    return blocks


async def block(session: aiohttp.ClientSession, stack: EmbeddedStack, requests: int) -> float:
    gateway = psutil.Process(stack.child("gateway").pid)
    body = {"model": stack.settings.model.name, "messages": [{"role": "user", "content": "Tell me of the sea."}]}
    headers = {"Authorization": f"Bearer {stack.dev_key}"}
    before = gateway.cpu_times()
    for _ in range(requests):
        async with session.post(f"{stack.gateway_url}/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"the gateway answered {response.status}: {await response.text()}")
            await response.read()
    after = gateway.cpu_times()
    return 1e6 * (after.user + after.system - before.user - before.system) / requests
