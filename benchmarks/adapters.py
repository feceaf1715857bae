"""LoRA adapters in the real engine: how long the first use of one takes, and tokens a second of mixed batches.

Two stacks, the same but for `max_loras`, run one after the other: the first tells what serving adapters costs those
who ask for none.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.load import Round, Target, burst
from benchmarks.report import machine, publish, table
from tests.support.adapters import RANK, shapes_of, write_adapter
from trireme.stack import EmbeddedStack, isolated_settings

ADAPTERS = 8
STREAMS = 16
TOKENS = 64
FIRST_USES = 16
QUESTION = "Tell me about ships and the sea, please."


@dataclass(frozen=True)
class Front:
    """A running stack. `names`: of its adapters, the last `FIRST_USES` of which nobody has used."""

    target: Target
    names: Sequence[str]


def run(rounds: int, *, write: bool) -> bool:
    """Measure, print and (with `write`) record; returns whether all streams ended well, which is all that is asked."""
    rates: dict[str, list[float]] = {}
    firsts: list[float] = []
    again: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for max_loras in (0, ADAPTERS):
            with front(Path(scratch) / str(max_loras), max_loras) as one:
                if max_loras:
                    firsts, again = asyncio.run(first_uses(one))
                for label, models in mixes(one).items():
                    name = f"{label}, `max_loras` {max_loras}"
                    rates[name] = [asyncio.run(mixed(one.target, models)) for _ in range(rounds)]
                    sys.stderr.write(f"{name}: {statistics.median(rates[name]):.1f} tokens/s\n")
    text = summary(rates, firsts, again, rounds)
    publish("adapters", text, write=write)
    return True


@contextmanager
def front(state: Path, max_loras: int) -> Iterator[Front]:
    settings = isolated_settings(state, engine="vllm")
    adapters = replace(settings.adapters, max_loras=max_loras, max_cpu_loras=max(16, 2 * max_loras))
    names = [f"adapter-{number}" for number in range(ADAPTERS + FIRST_USES)] if max_loras else []
    with EmbeddedStack(replace(settings, adapters=adapters)) as stack:
        for number, name in enumerate(names):
            shapes = shapes_of(settings.model.path, "q_proj", "v_proj")
            write_adapter(adapters.dir / name / "1", number, shapes=shapes)
            _register(stack, name)
        yield Front(Target("Trireme", f"{stack.gateway_url}/v1", settings.model.name, stack.dev_key), names)


def _register(stack: EmbeddedStack, name: str) -> None:
    httpx.post(
        f"{stack.gateway_url}/admin/v1/adapters",
        json={"name": name, "revision": "1"},
        headers={"authorization": f"Bearer {stack.dev_key}"},
        timeout=30.0,
    ).raise_for_status()


def mixes(one: Front) -> dict[str, list[str]]:
    """Which models the streams of a batch ask for."""
    base = [one.target.model] * STREAMS
    if not one.names:
        return {"base only": base}
    several = [one.names[number % ADAPTERS] for number in range(STREAMS)]
    return {
        "base only": base,
        "1 adapter": [one.names[0]] * STREAMS,
        f"{ADAPTERS} adapters": several,
        f"half base, half {ADAPTERS} adapters": [*base[: STREAMS // 2], *several[: STREAMS // 2]],
    }


async def first_uses(one: Front) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token of adapters that nobody has used, and of the same ones again."""
    fresh = one.names[-FIRST_USES:]
    first = [1000 * (await _one(one.target, name)).answers[0].first for name in fresh]
    again = []
    for name in fresh[-4:]:
        again += [1000 * (await _one(one.target, name)).answers[0].first for _ in range(4)]
    return first, again


async def _one(target: Target, model: str) -> Round:
    return await burst(replace(target, model=model), [QUESTION], 2)


async def mixed(target: Target, models: Sequence[str]) -> float:
    """Tokens a second of streams that begin at the same time."""
    rounds = await asyncio.gather(
        *(burst(replace(target, model=model), [f"{QUESTION} ({place})"], TOKENS) for place, model in enumerate(models))
    )
    return TOKENS * len(models) / max(one.seconds for one in rounds)


def summary(rates: dict[str, list[float]], firsts: list[float], again: list[float], rounds: int) -> str:
    rows = [
        [name, f"{statistics.median(found):.1f}", f"{min(found):.1f} to {max(found):.1f}"]
        for name, found in rates.items()
    ]
    return (
        f"`python -m benchmarks adapters --rounds {rounds}` · {machine()}\n\n"
        f"SmolLM2-135M in float32 through the whole chain; {STREAMS} streams of {TOKENS} tokens; adapters have rank "
        f"{RANK} on `q_proj` and `v_proj` of all layers.\n\n"
        f"First token of an adapter that nobody has used: {statistics.median(firsts):.0f} ms (median of {len(firsts)}; "
        f"longest {max(firsts):.0f}); of one in memory: {statistics.median(again):.0f} ms.\n\n"
        + table(["batch", "tokens/s, median", "all rounds"], rows)
        + "\n"
    )
