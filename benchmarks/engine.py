"""Trireme's whole chain against vLLM's own API server: same engine arguments, same client, interleaved rounds.

Both servers are up all the time and take turns, so that the machine's mood hits both alike; who goes first alternates.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Round, Target, burst
from benchmarks.report import machine, publish, table
from trireme.claims import free_ports
from trireme.settings import Settings
from trireme.stack import EmbeddedStack, isolated_settings
from trireme.triton import triton_environment

TOKENS = 64
LEVELS = (1, 8, 16)
START_SECONDS = 240.0
THROUGHPUT_GOAL = 0.97
FIRST_TOKEN_GOAL = 1.10


@dataclass(frozen=True)
class Pair:
    """The same load on both systems, one right after the other."""

    trireme: Round
    vllm: Round


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether both goals were met at every level."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        settings = isolated_settings(Path(scratch), engine="vllm")
        with vllm_server(settings, Path(scratch)) as vllm, EmbeddedStack(settings) as stack:
            key = stack.dev_key
            trireme = Target("Trireme", f"{stack.gateway_url}/v1", settings.model.name, key)
            pairs = {level: measure(trireme, vllm, level, rounds) for level in LEVELS}
    text, met = summary(pairs, rounds, settings)
    publish("engine", text, write=write)
    return met


def measure(trireme: Target, vllm: Target, streams: int, rounds: int) -> list[Pair]:
    """One warm-up and `rounds` pairs. Prompts differ between rounds, so that no prefix cache helps."""
    pairs = []
    for number in range(rounds + 1):
        topics = [f"{streams}-{number}-{stream}" for stream in range(streams)]
        prompts = [f"Tell the story of voyage {topic}, from the harbour to the open sea and back." for topic in topics]
        order = (trireme, vllm) if number % 2 else (vllm, trireme)
        done = {target.name: asyncio.run(burst(target, prompts, TOKENS)) for target in order}
        sys.stderr.write(f"{streams:2} streams, round {number}: {describe(done)}\n")
        if number:
            pairs.append(Pair(trireme=done[trireme.name], vllm=done[vllm.name]))
    return pairs


def describe(done: dict[str, Round]) -> str:
    return ", ".join(f"{name} {one.throughput:.1f} tok/s" for name, one in sorted(done.items()))


def summary(pairs: dict[int, list[Pair]], rounds: int, settings: Settings) -> tuple[str, bool]:
    rows, met = [], True
    for level, found in pairs.items():
        ours, theirs = throughputs([one.trireme for one in found]), throughputs([one.vllm for one in found])
        first, their_first = first_tokens([one.trireme for one in found]), first_tokens([one.vllm for one in found])
        ratio, first_ratio = ours / theirs, first / their_first
        met = met and ratio >= THROUGHPUT_GOAL and first_ratio <= FIRST_TOKEN_GOAL
        speeds = [f"{ours:.1f}", f"{theirs:.1f}", f"**{ratio:.3f}**"]
        delays = [f"{1000 * first:.0f}", f"{1000 * their_first:.0f}", f"**{first_ratio:.3f}**"]
        rows.append([str(level), *speeds, *delays])
    header = ["streams", "Trireme tok/s", "vLLM tok/s", "ratio", "Trireme TTFT p50 ms", "vLLM TTFT p50 ms", "ratio"]
    text = (
        f"`make bench`, or `python -m benchmarks engine --rounds {rounds}` · {machine()}\n\n"
        f"{settings.model.name}, {TOKENS} tokens an answer, greedy, streaming; "
        f"medians of {rounds} interleaved rounds;\n"
        f"engine arguments of both: `{json.dumps(dict(settings.engine_args), sort_keys=True)}`.\n"
        f"Goals: throughput ≥ {THROUGHPUT_GOAL}, time to first token ≤ {FIRST_TOKEN_GOAL:.2f}: "
        f"{'met' if met else 'not met everywhere'}.\n\n{table(header, rows)}\n"
    )
    return text, met


def throughputs(rounds: Sequence[Round]) -> float:
    return statistics.median(one.throughput for one in rounds)


def first_tokens(rounds: Sequence[Round]) -> float:
    return statistics.median(answer.first for one in rounds for answer in one.answers)


@contextmanager
def vllm_server(settings: Settings, scratch: Path) -> Iterator[Target]:
    """vLLM's API server on the same model with the same engine arguments and environment."""
    (port,) = free_ports(1)
    repository = settings.model_repository / "vllm" / "1" / "engine.json"
    arguments = json.loads(repository.read_text("utf-8"))["args"] | dict(settings.engine_args)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(settings.model.path), "--served-model-name", settings.model.name]
    command += ["--disable-uvicorn-access-log", *flags(arguments)]
    environment = triton_environment(settings) | {"TORCHDYNAMO_DISABLE": "1"}
    environment.pop("LD_LIBRARY_PATH", None)
    with (scratch / "vllm.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield Target("vLLM", f"http://127.0.0.1:{port}/v1", settings.model.name)
        finally:
            process.terminate()
            process.wait(30)


def flags(arguments: dict[str, object]) -> Iterator[str]:
    """Engine arguments as command-line flags."""
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            yield flag
        elif value is not False:
            yield from (flag, json.dumps(value) if isinstance(value, dict) else str(value))


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vLLM's server was not ready within {START_SECONDS:.0f} s")
