"""Interactive requests beside batch work that never ends: Trireme's classes against vLLM's own API server.

Both servers are up all the time and take turns at each load. The same clients speak to both; vLLM's server has no
classes and does not look at the header that names one.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp

from benchmarks.chart import Line, line_chart
from benchmarks.engine import vllm_server
from benchmarks.load import Answer, Target, first_ms, stream
from benchmarks.report import REPORT, machine, publish, table
from trireme.stack import EmbeddedStack, isolated_settings

SLOTS = 8
LOADS = (0, 8, 16)
BATCH_TOKENS = 96
INTERACTIVE_TOKENS = 8
EVERY_S = 1.0
CHART = REPORT.parent / "images" / "classes-latency.svg"
_NUMBERS = count()


@dataclass(frozen=True)
class Load:
    """What one server did: interactive answers, and tokens of batch work that was finished, a second."""

    interactive: Sequence[Answer]
    batch_tokens_s: float

    def first(self, percent: int) -> float:
        """Milliseconds to the first token."""
        return first_ms(self.interactive, percent)


def run(seconds: float, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether Trireme was quicker wherever the engine was full."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        usual = isolated_settings(Path(scratch), engine="vllm")
        arguments = {**usual.engine_args, "max_num_seqs": SLOTS}
        settings = isolated_settings(Path(scratch), engine="vllm", engine_args=arguments)
        with vllm_server(settings, Path(scratch)) as vllm, EmbeddedStack(settings) as stack:
            trireme = Target("Trireme", f"{stack.gateway_url}/v1", settings.model.name, stack.dev_key)
            found = [(load, measure(trireme, load, seconds), measure(vllm, load, seconds)) for load in LOADS]
    text, met = summary(found, seconds, json.dumps(dict(arguments), sort_keys=True))
    if write:
        CHART.write_text(chart(found), "utf-8")
    publish("classes", text, write=write)
    return met


def measure(target: Target, load: int, seconds: float) -> Load:
    done = asyncio.run(_measure(target, load, seconds))
    sys.stderr.write(f"{load:2} batch streams, {target.name}: {done.first(50):.0f} ms to an interactive first token\n")
    return done


async def _measure(target: Target, load: int, seconds: float) -> Load:
    """Batch clients ask again as soon as they are answered; an interactive request comes every second."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        finished: list[Answer] = []

        async def busy() -> None:
            while True:
                finished.append(await stream(session, target, _prompt(), BATCH_TOKENS, priority="batch"))

        batch = [asyncio.create_task(busy()) for _ in range(load)]
        await asyncio.sleep(2 * EVERY_S)
        started, before = time.perf_counter(), len(finished)
        asked = []
        for _ in range(round(seconds / EVERY_S)):
            asked.append(
                asyncio.create_task(stream(session, target, _prompt(), INTERACTIVE_TOKENS, priority="interactive"))
            )
            await asyncio.sleep(EVERY_S)
        answers = await asyncio.gather(*asked)
        spent = time.perf_counter() - started
        for one in batch:
            one.cancel()
        await asyncio.gather(*batch, return_exceptions=True)
        return Load(answers, BATCH_TOKENS * (len(finished) - before) / spent)


def _prompt() -> str:
    return f"Tell the story of voyage {next(_NUMBERS)}, from the harbour to the open sea and back."


def summary(found: Sequence[tuple[int, Load, Load]], seconds: float, arguments: str) -> tuple[str, bool]:
    rows = [
        [
            str(load),
            f"{ours.first(50):.0f} / {ours.first(95):.0f}",
            f"{theirs.first(50):.0f} / {theirs.first(95):.0f}",
            f"**{ours.first(50) / theirs.first(50):.2f}**",
            f"{ours.batch_tokens_s:.0f}",
            f"{theirs.batch_tokens_s:.0f}",
        ]
        for load, ours, theirs in found
    ]
    met = all(ours.first(50) < theirs.first(50) for load, ours, theirs in found if load > SLOTS)
    lengths = statistics.mean(len(ours.interactive) for _, ours, _ in found)
    header = ["batch streams", "Trireme TTFT p50 / p95 ms", "vLLM TTFT p50 / p95 ms", "ratio of p50"]
    text = (
        f"`python -m benchmarks classes --seconds {seconds:g}` · {machine()}\n\n"
        f"One interactive request of {INTERACTIVE_TOKENS} tokens a second ({lengths:.0f} at each load), beside clients "
        f"that ask for {BATCH_TOKENS} tokens\nagain and again; {SLOTS} slots; engine arguments of both: `{arguments}`\n"
        f"Goal: quicker than vLLM's server wherever there are more batch streams than slots: "
        f"{'met' if met else 'not met'}.\n\n"
        f"{table([*header, 'Trireme batch tok/s', 'vLLM batch tok/s'], rows)}\n\n"
        "![first token by load](images/classes-latency.svg)\n"
    )
    return text, met


def chart(found: Sequence[tuple[int, Load, Load]]) -> str:
    lines = [
        Line("Trireme p50", [(load, ours.first(50)) for load, ours, _ in found]),
        Line("Trireme p95", [(load, ours.first(95)) for load, ours, _ in found]),
        Line("vLLM p50", [(load, theirs.first(50)) for load, _, theirs in found]),
        Line("vLLM p95", [(load, theirs.first(95)) for load, _, theirs in found]),
    ]
    return line_chart("interactive time to first token, ms", "batch streams", lines)
