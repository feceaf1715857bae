"""Conversations on two real engines: what each strategy finds in their prefix caches, and when the first token comes.

Both engines run all the time; each strategy has a gateway of its own before them, and they take turns. No two rounds
share a prompt, so that nothing is found but what the round itself put there.
"""

import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.load import Answer, Target, first_ms, stream, words
from benchmarks.report import machine, publish, table
from gateway.routing.strategies import STRATEGIES
from trireme.stack import EmbeddedStack, isolated_settings

ENGINES = 2
SYSTEMS = 6
TALKS_EACH = 2
TURNS = 4
SYSTEM_WORDS = 400
QUESTION_WORDS = 25
ANSWER_TOKENS = 16
AT_ONCE = 3
# Nothing but the conversations is to be computed.
QUIET = {"generation_interval_s": 3600.0, "slow_start_s": 0.0}


@dataclass(frozen=True)
class Result:
    """All answers of one strategy."""

    answers: Sequence[Answer]

    @property
    def found(self) -> float:
        """Share of the prompts' tokens that was in a cache."""
        return sum(one.cached for one in self.answers) / sum(one.prompt for one in self.answers)

    def first(self, percent: int) -> float:
        """Milliseconds to the first token."""
        return first_ms(self.answers, percent)


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether `prefix` found most and was quickest."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, fronts(Path(scratch)) as targets:
        answers: dict[str, list[Answer]] = {name: [] for name in targets}
        for number in range(rounds):
            order = list(targets)[number % len(targets) :] + list(targets)[: number % len(targets)]
            for name in order:
                answers[name] += asyncio.run(conversations(targets[name], random.Random(f"{name} {number}")))
                sys.stderr.write(f"round {number + 1}, {name}: {Result(answers[name]).found:.0%} found so far\n")
    results = {name: Result(found) for name, found in answers.items()}
    text, met = summary(results, rounds)
    publish("affinity", text, write=write)
    return met


@contextmanager
def fronts(scratch: Path) -> Iterator[Mapping[str, Target]]:
    """A gateway for each strategy, before the same engines."""
    with ExitStack() as stacks:
        urls = []
        for number in range(ENGINES):
            settings = isolated_settings(scratch / f"engine-{number}", engine="vllm")
            urls.append(stacks.enter_context(EmbeddedStack(settings, parts={"triton"})).triton_url)
        backends = [{"id": f"engine-{number}", "url": url} for number, url in enumerate(urls)]
        targets = {}
        for name in STRATEGIES:
            gateway: dict[str, Any] = {"routing": {**QUIET, "strategy": name, "backends": backends}}
            settings = isolated_settings(scratch / name, engine="vllm", gateway=gateway)
            front = stacks.enter_context(EmbeddedStack(settings, parts={"valkey", "gateway"}))
            targets[name] = Target(name, f"{front.gateway_url}/v1", settings.model.name, front.dev_key)
        yield targets


async def conversations(target: Target, dice: random.Random) -> list[Answer]:
    """Of several users below each of a few system prompts, in an order of their own, so many at once."""
    systems = [words(dice, SYSTEM_WORDS) for _ in range(SYSTEMS)]
    talks = [[{"role": "system", "content": system}] for system in systems for _ in range(TALKS_EACH)]
    dice.shuffle(talks)
    places = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession() as session:

        async def turn(messages: list[dict[str, str]]) -> Answer:
            messages.append({"role": "user", "content": words(dice, QUESTION_WORDS)})
            async with places:
                answer = await stream(session, target, messages, ANSWER_TOKENS)
            messages.append({"role": "assistant", "content": answer.text})
            return answer

        found = []
        for _ in range(TURNS):
            dice.shuffle(talks)
            found += await asyncio.gather(*map(turn, talks))
        return found


def summary(results: Mapping[str, Result], rounds: int) -> tuple[str, bool]:
    rows = [
        [
            f"`{name}`",
            f"{sum(one.cached for one in result.answers):,} of {sum(one.prompt for one in result.answers):,}",
            f"{result.found:.0%}",
            f"{result.first(50):.0f} / {result.first(95):.0f}",
        ]
        for name, result in results.items()
    ]
    ours, others = results["prefix"], [result for name, result in results.items() if name != "prefix"]
    met = all(ours.found > other.found and ours.first(50) < other.first(50) for other in others)
    length = statistics.mean(one.prompt for one in ours.answers)
    text = (
        f"`python -m benchmarks affinity --rounds {rounds}` · {machine()}\n\n"
        f"{ENGINES} vLLM engines; in each of {rounds} rounds {SYSTEMS} system prompts with {TALKS_EACH} conversations, "
        f"of {TURNS} turns, {AT_ONCE} requests at a time; {length:.0f} prompt tokens on average, {ANSWER_TOKENS} of an "
        f"answer. Goal: `prefix` finds most, and its first token comes soonest: {'met' if met else 'not met'}.\n\n"
        + table(["strategy", "prompt tokens found in a cache", "share", "first token p50 / p95 ms"], rows)
        + "\n"
    )
    return text, met
