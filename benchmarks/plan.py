"""What a router's decision costs: the ensemble `plan` with MiniLM on a real tritonserver, and the choice itself.

`plan` is asked over HTTP on kept connections, one question at a time and several, with texts of different lengths.
No engine runs beside it.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.report import machine, publish, table
from gateway.choosing.choice import Option, decide
from gateway.choosing.spec import CandidateSpec, RouterSpec
from gateway.triton.codec import plan_answer, plan_request
from trireme.stack import EmbeddedStack, isolated_settings

MODELS = ("preprocess", "embed", "route", "plan")
TOKENS = (16, 64, 256)
AT_ONCE = (1, 4)
WARM = 20
GOAL_MS = 300.0
CANDIDATES = 5
CHOICES = 20_000
SCORER = Path(__file__).resolve().parents[1] / "model_repository" / "route" / "1" / "scorer.json"


def run(requests: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether one question at a time stays within its time."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="vllm", triton_models=MODELS)
        with EmbeddedStack(settings, parts={"triton"}) as stack:
            rows, met = asyncio.run(ask_all(stack.triton_url, requests))
    text = (
        f"`python -m benchmarks plan --requests {requests}` · {machine()}\n\n"
        f"{requests} questions of each kind. Goal: p99 of one at a time within the time that requests wait for it "
        f"({GOAL_MS:.0f} ms): {'met' if met else 'not met'}.\n\n"
        f"{table(['tokens', 'at once', 'p50 ms', 'p99 ms', 'a second'], rows)}\n\n"
        f"A choice among {CANDIDATES} candidates, once the score is known: **{choice_us():.1f} µs**.\n\n{quality()}\n"
    )
    publish("plan", text, write=write)
    return met


async def ask_all(url: str, requests: int) -> tuple[list[list[str]], bool]:
    rows, met = [], True
    async with aiohttp.ClientSession(url) as session:
        for tokens in TOKENS:
            for at_once in AT_ONCE:
                await ask_many(session, tokens, at_once, WARM)
                began = time.perf_counter()
                seconds = await ask_many(session, tokens, at_once, requests)
                rate = len(seconds) / (time.perf_counter() - began)
                p50, p99 = 1000 * statistics.median(seconds), 1000 * statistics.quantiles(seconds, n=100)[98]
                met = met and (at_once > 1 or p99 <= GOAL_MS)
                rows.append([str(tokens), str(at_once), f"{p50:.1f}", f"{p99:.1f}", f"{rate:.0f}"])
    return rows, met


async def ask_many(session: aiohttp.ClientSession, tokens: int, at_once: int, requests: int) -> Sequence[float]:
    """Seconds of each."""
    numbers = iter(range(requests))

    async def one_after_the_other() -> list[float]:
        return [await ask(session, number, tokens) for number in numbers]

    found = await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return [seconds for part in found for seconds in part]


async def ask(session: aiohttp.ClientSession, number: int, tokens: int) -> float:
    """Every text is a new one. Two tokens are the tokenizer's own."""
    text = " ".join([str(number % 10), *["word"] * (tokens - 3)])
    began = time.perf_counter()
    async with session.post("/v2/models/plan/infer", data=plan_request(text)) as response:
        planned = plan_answer(await response.read(), response.headers)
    seconds = time.perf_counter() - began
    if planned.tokens != tokens:
        raise RuntimeError(f"{planned.tokens} tokens were embedded, not {tokens}")
    return seconds


def choice_us() -> float:
    names = [f"model-{number}" for number in range(CANDIDATES)]
    curve = ((0.0, 1.0), (1.0, 0.0))
    router = RouterSpec(name="auto", candidates=tuple(CandidateSpec(model=name, quality=curve) for name in names))
    options = [Option(name, cost=number, predicted=number / CANDIDATES, ms=100) for number, name in enumerate(names)]
    began = time.perf_counter()
    for _ in range(CHOICES):
        decide(router, options, held=names[0])
    return 1e6 * (time.perf_counter() - began) / CHOICES


def quality() -> str:
    """Of the scorer, as its training wrote it down; nothing is measured here."""
    report = json.loads(SCORER.read_text("utf-8"))
    ways = {
        "random": "random",
        "by_length": "by length",
        "held_out": f"**{report['scorer']}**",
        "known_subjects": "knowing each subject's average",
    }
    rows = [
        [name, f"{report[way]['apgr']:.3f}", f"{report[way]['half']:.0%}", f"{report[way]['most']:.0%}"]
        for way, name in ways.items()
    ]
    header = ["on unseen subjects", "APGR", "calls for 50 % of the gap", "for 80 %"]
    return f"The [scorer](model-routing.md#the-scorer), {report['folds']}:\n\n{table(header, rows)}"
